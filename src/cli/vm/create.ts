/** `vmseal vm create` and `import`. */
import { resolve } from 'node:path'
import { InvalidArgumentError, type Command } from 'commander'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { byteSize, sectorSize } from '../arguments.js'
import { keyName, keyNameHelp } from '../key/key-name.js'
import { given, verb } from '../verb/verb.js'
import { describeVm } from './describe.js'

interface Placement {
  readonly vm: string
  readonly cluster: string
  readonly datastore: string
  readonly policy?: string
  readonly host?: string
  readonly perDiskKeys?: true
  readonly keyId?: string
  readonly sectorSize?: 512 | 4096
  readonly set?: Readonly<Record<string, string>>
}

interface CreateValues extends Placement {
  readonly disk?: readonly number[]
}

interface ImportValues extends Placement {
  readonly image: readonly string[]
}

export const vmCreate = verb<CreateValues, VirtualMachineInfo>({
  name: 'vm create',
  summary: 'Make a VM with empty disks; under an encryption policy it is encrypted from the first byte.',
  cmdlets: ['New-VM'],
  help: `Example:
  vmseal vm create db01 --cluster prod --datastore ds1 --policy 'VM Encryption Policy' --disk 20G --disk 100G --set memsize=4096`,
  declare: (command) =>
    placement(command.argument('<name>', 'name of the new VM')).option(
      '--disk <size>',
      'an empty disk, for instance 20G (may be repeated)',
      (text, earlier?: readonly number[]) => [...(earlier ?? []), byteSize(text)],
    ),
  prepare: named,
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, values) => {
    const disks = (values.disk ?? []).map((capacityBytes) => ({
      capacityBytes,
      ...given({ sectorSize: values.sectorSize }),
    }))
    return (await vcenter.virtualMachines.create({ ...specOf(values), disks })).info()
  },
  show: describeVm,
})

export const vmImport = verb<ImportValues, VirtualMachineInfo>({
  name: 'vm import',
  summary:
    'Make a VM from disk images; under an encryption policy none of their plaintext reaches the datastore.',
  help: `The images are files of the host (raw, VMDK; qcow2 and VHDX with qemu-img). They are copied and never changed.

Example:
  vmseal vm import db01 /images/db01.raw --cluster prod --datastore ds1 --policy 'VM Encryption Policy'`,
  declare: (command) =>
    placement(command.argument('<name>', 'name of the new VM').argument('<image...>', 'a disk each')),
  prepare: (values) => ({ ...named(values), image: values.image.map((file) => resolve(file)) }),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, values) => {
    const disks = values.image.map((source) => ({ source, ...given({ sectorSize: values.sectorSize }) }))
    return (await vcenter.virtualMachines.import({ ...specOf(values), disks })).info()
  },
  show: describeVm,
})

function placement(command: Command): Command {
  return command
    .requiredOption('--cluster <cluster>', 'cluster that gets the VM')
    .requiredOption('--datastore <datastore>', 'datastore of its files')
    .option('--policy <policy>', 'policy of VM home and of every disk (default: Datastore Default, plain)')
    .option('--host <host>', 'host that does the work (default: one that has the datastore)')
    .option('--per-disk-keys', 'a new key for VM home and for each disk, instead of one for all')
    .option('--key-id <key>', `an existing key for VM home: ${keyNameHelp}`)
    .option('--sector-size <bytes>', '512: every tool opens the disks; 4096: less CPU', sectorSize)
    .option('--set <name=value>', 'a line of the .vmx, for instance memsize=4096 (may be repeated)', setting)
}

/** The name of what is new is not completed by names that there are. */
function named<Values extends Placement>({ name, ...values }: Values & { readonly name?: string }): Values {
  return { ...values, vm: name } as unknown as Values
}

function specOf({ vm, cluster, datastore, policy, host, perDiskKeys, keyId, set }: Placement) {
  return {
    name: vm,
    cluster,
    datastore,
    ...given({
      policy,
      host,
      perDiskKeys,
      homeKeyId: keyId === undefined ? undefined : keyName(keyId),
      settings: set,
    }),
  }
}

function setting(text: string, earlier: Readonly<Record<string, string>> = {}): Record<string, string> {
  const [, name, value] = /^([^=\s]+)=(.*)$/s.exec(text) ?? []
  if (name === undefined || value === undefined)
    throw new InvalidArgumentError('Write name=value, for instance memsize=4096.')
  return { ...earlier, [name]: value }
}
