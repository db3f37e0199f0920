/** `vmseal vm clone`: full or linked, under the same keys or new ones, encrypted or decrypted on the way. */
import { VmsealError } from '../../errors.js'
import type { CloneOptions } from '../../vcenter/vm-cloning.js'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import type { PolicyWish } from '../../vcenter/vm-reconfiguration.js'
import { sectorSize } from '../arguments.js'
import { keyName, keyNameHelp } from '../key/key-name.js'
import { given, verb } from '../verb/verb.js'
import { describeVm } from './describe.js'
import { policyOptions, policyWish, type PolicyValues } from './policy-options.js'

interface Values extends PolicyValues {
  readonly vm: string
  readonly name: string
  readonly snapshot?: string
  readonly linked?: true
  readonly datastore?: string
  readonly policy?: string
  readonly newKeys?: true
  readonly perDiskKeys?: true
  readonly keyId?: string
  readonly sectorSize?: 512 | 4096
  readonly host?: string
}

export const vmClone = verb<Values, VirtualMachineInfo>({
  name: 'vm clone',
  summary: 'Make a VM of another one, which is only read and may be on.',
  help: `A full clone has DEKs of its own; what is encrypted in the source keeps its KEK unless --new-keys asks otherwise. Another policy
encrypts or decrypts the clone while it is made: none of its plaintext reaches the datastore before.
A linked clone reads the disks of a snapshot, keeps their keys, and needs the source for as long as it lives.

Examples:
  vmseal vm clone db01 db02 --new-keys
  vmseal vm clone web01 vault01 --policy 'VM Encryption Policy'      encrypted on the way
  vmseal vm clone db01 test01 --snapshot before-upgrade --linked`,
  declare: (command) =>
    policyOptions(
      command
        .argument('<vm>', 'name of the VM that is cloned')
        .argument('<name>', 'name of the new VM')
        .option(
          '--snapshot <snapshot>',
          'the snapshot that is cloned, by name or id (default: the present state)',
        )
        .option('--linked', 'read the disks of the snapshot, and write to children of them')
        .option('--datastore <datastore>', 'datastore of the clone (default: that of the source)')
        .option(
          '--policy <policy>',
          'policy of its VM home and of every disk (default: those of the source)',
        ),
    )
      .option('--new-keys', 'one new key for the clone, instead of the keys of the source')
      .option('--per-disk-keys', 'a new key for VM home and for each disk, instead of one for all')
      .option('--key-id <key>', `an existing key for all that is encrypted: ${keyNameHelp}`)
      .option('--sector-size <bytes>', 'of its encrypted disks, 512 or 4096 (default: as it is)', sectorSize)
      .option('--host <host>', 'host that does the work (default: the one the VM is registered on)'),
  prepare: check,
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm: source, ...values }) => {
    const vm = await vcenter.virtualMachines.get(source)
    const { name, snapshot, linked, datastore, newKeys, perDiskKeys, sectorSize: bytes, host } = values
    const keyIds = values.keyId === undefined ? undefined : oneKey(values.keyId, await vm.info())
    const options: CloneOptions = {
      name,
      ...given({ policy: wishOf(values) }),
      ...given({ snapshot, linked, datastore, perDiskKeys, keyIds, sectorSize: bytes, host }),
      ...(newKeys || perDiskKeys ? { keys: 'new' as const } : {}),
    }
    return (await vm.clone(options).done).info()
  },
  show: describeVm,
})

/** Absent: the policies of the source; a linked clone has no others. */
function wishOf({ policy, ...values }: PolicyValues & { readonly policy?: string }): PolicyWish | undefined {
  if (policy !== undefined) return { home: policy, disks: policy }
  return (values.home ?? values.disks ?? values.disk) === undefined ? undefined : policyWish(values)
}

function check(values: Values): Values {
  const { policy, home, disks, disk, newKeys, perDiskKeys, keyId, linked, snapshot } = values
  const refuse = (message: string): never => {
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', message)
  }
  if (policy !== undefined && (home ?? disks ?? disk) !== undefined)
    refuse('--policy is for VM home and every disk: give it without --home, --disks and --disk')
  if (keyId !== undefined && (newKeys || perDiskKeys))
    refuse('--key-id is an existing key: give it without --new-keys and --per-disk-keys')
  if (linked && snapshot === undefined) refuse('a linked clone is of a snapshot: name one with --snapshot')
  return values
}

function oneKey(text: string, { disks }: VirtualMachineInfo): NonNullable<CloneOptions['keyIds']> {
  const key = keyName(text)
  return { home: key, disks: Object.fromEntries(disks.map(({ device }) => [device, key])) }
}
