/** Storage policies of the parts of a VM, as options name them. */
import { InvalidArgumentError, Option, type Command } from 'commander'
import type { PolicyWish } from '../../vcenter/vm-reconfiguration.js'
import { given } from '../verb/verb.js'

export interface PolicyValues {
  readonly home?: string
  readonly disks?: string
  readonly disk?: Readonly<Record<string, string>>
}

export function policyOptions(command: Command): Command {
  return command
    .option('--home <policy>', 'policy of VM home')
    .addOption(new Option('--disks <policy>', 'policy of every disk').conflicts('disk'))
    .option('--disk <disk=policy>', 'policy of one disk, instead of --disks (may be repeated)', diskPolicy)
}

export function policyWish({ home, disks, disk }: PolicyValues): PolicyWish {
  return given({ home, disks: disks ?? disk })
}

function diskPolicy(text: string, earlier: Readonly<Record<string, string>> = {}): Record<string, string> {
  const [, disk, policy] = /^([^=]+)=(.+)$/.exec(text) ?? []
  if (disk === undefined || policy === undefined)
    throw new InvalidArgumentError("Write DISK=POLICY, for instance 'scsi0:1=Datastore Default'.")
  return { ...earlier, [disk]: policy }
}
