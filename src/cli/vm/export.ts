/** `vmseal vm export` and `restore`: a VM as a folder of ciphertext, and a VM made of one. */
import { resolve } from 'node:path'
import { Option } from 'commander'
import type { ExportedVirtualMachine } from '../../vcenter/vm-export.js'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { keyName, keyNameHelp } from '../key/key-name.js'
import { facts, table } from '../output.js'
import { sizeText } from '../progress.js'
import { given, verb } from '../verb/verb.js'
import { describeVm, keyText } from './describe.js'

interface ExportValues {
  readonly vm: string
  readonly to: string
  readonly keyId?: string
  readonly forProvider?: string
}

interface RestoreValues {
  readonly vm: string
  readonly from: string
  readonly cluster: string
  readonly datastore: string
  readonly host?: string
  readonly policy?: string
  readonly sameIdentity?: true
  readonly reuseKey?: true
  readonly keyId?: string
  readonly perDiskKeys?: true
}

export const vmExport = verb<ExportValues, ExportedVirtualMachine>({
  name: 'vm export',
  summary:
    'Make a folder of a VM that is off: ciphertext alone, under one key that whoever restores it can get.',
  help: `The data of an encrypted disk goes along as it lies, and its DEK is wrapped for the key of the export; what is plain, or has snapshots,
is written anew under a DEK of its own: of snapshots the present state alone. The old keys open nothing of it and are not needed any more.
The manifest holds the sum of every file and is sealed: an export that is not whole, or was altered, is not restored.

The folder is made on the host of the VM. vCenter does not know where exports are: \`vmseal key unused\` shows the key of one as made for
"export of ..." once no VM uses it. Whoever can get that key can read the disks, also later ones under the same DEKs: a deep recrypt of the
VM ends that.

Examples:
  vmseal vm export db01 --to /backup/db01                                   under a new key of the default provider
  vmseal vm export db01 --to /backup/db01 --for-provider kms-of-site-2      under a new key that the other site can get
  vmseal vm export db01 --to /backup/db01 --key-id kms-of-site-2/42`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .requiredOption('--to <folder>', 'folder that is made on the host of the VM')
      .addOption(
        new Option('--key-id <key>', `an existing key instead of a new one: ${keyNameHelp}`).conflicts(
          'forProvider',
        ),
      )
      .option('--for-provider <provider>', 'key provider of the new key (default: the default provider)'),
  prepare: (values) => ({ ...values, to: resolve(values.to) }),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm, to, keyId, forProvider }) => {
    const key = keyId === undefined ? {} : { keyId: keyName(keyId) }
    return (await vcenter.virtualMachines.get(vm)).export({ to, ...key, ...given({ provider: forProvider }) })
      .done
  },
  show: ({ name, vmId, key, folder, host, exportedAt, disks }) =>
    [
      facts({ name, id: vmId, folder: `${folder} on host ${host}`, key: keyText(key), exported: exportedAt }),
      '',
      table(
        ['DISK', 'SIZE'],
        disks.map(({ device, capacityBytes }) => [device, sizeText(capacityBytes)]),
      ),
    ].join('\n'),
})

export const vmRestore = verb<RestoreValues, VirtualMachineInfo>({
  name: 'vm restore',
  summary:
    'Make a VM of an export, encrypted as it is, once every byte of it was compared with its sealed manifest.',
  help: `The key provider of the export's key must be registered here, under the same id. The VM gets a new key unless --reuse-key or --key-id says
otherwise, and a new identity unless --same-identity says otherwise: for the VM that is lost, and not in the inventory.

Example:
  vmseal vm restore db01 --from /backup/db01 --cluster prod --datastore ds1`,
  declare: (command) =>
    command
      .argument('<name>', 'name of the VM')
      .requiredOption('--from <folder>', 'the export, a folder on the host that does the work')
      .requiredOption('--cluster <cluster>', 'cluster that gets the VM')
      .requiredOption('--datastore <datastore>', 'datastore of its files')
      .option('--host <host>', 'host that does the work (default: one that has the datastore)')
      .option('--policy <policy>', 'policy of VM home and of every disk, one that encrypts')
      .option('--same-identity', 'the ids of the VM that was exported, instead of new ones')
      .addOption(
        new Option('--reuse-key', 'the key of the export, instead of a new one').conflicts([
          'keyId',
          'perDiskKeys',
        ]),
      ) // prettier-ignore
      .addOption(
        new Option('--key-id <key>', `an existing key instead of a new one: ${keyNameHelp}`).conflicts(
          'perDiskKeys',
        ),
      )
      .option('--per-disk-keys', 'a new key for VM home and for each disk, instead of one for all'),
  prepare: ({ name, ...values }: RestoreValues & { readonly name?: string }) =>
    ({ ...values, vm: name, from: resolve(values.from) }) as unknown as RestoreValues,
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm: name, from, cluster, datastore, sameIdentity, keyId, ...values }) => {
    const { host, policy, reuseKey, perDiskKeys } = values
    const key = keyId === undefined ? {} : { keyId: keyName(keyId) }
    const identity = sameIdentity ? { identity: 'same' as const } : {}
    const more = { ...given({ host, policy, reuseKey, perDiskKeys }), ...key, ...identity }
    return (await vcenter.virtualMachines.restore({ name, from, cluster, datastore, ...more })).info()
  },
  show: describeVm,
})
