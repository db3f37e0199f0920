/** `vmseal policy create` and `list`: storage policies. */
import { VmsealError } from '../../errors.js'
import type { StoragePolicy } from '../../vcenter/storage-policies.js'
import { tableOr } from '../output.js'
import { verb } from '../verb/verb.js'

interface Values {
  readonly name: string
  readonly encrypted?: true
  readonly plain?: true
}

export const policyCreate = verb<Values, StoragePolicy>({
  name: 'policy create',
  summary: 'Make a storage policy: whoever has it is encrypted, or is not.',
  cmdlets: ['New-SpbmStoragePolicy'],
  declare: (command) =>
    command
      .argument('<name>', 'name of the new policy')
      .option('--encrypted', 'VM homes and disks with it are encrypted')
      .option('--plain', 'they are plain'),
  prepare: (values) => {
    if (values.encrypted === values.plain)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'give --encrypted or --plain')
    return values
  },
  run: ({ vcenter }, { name, encrypted }) =>
    vcenter.storagePolicies.create({ name, encryption: encrypted === true }),
  show: ({ name }) => `policy ${name} is made; give it to a VM: vmseal vm set-policy`,
})

export const policyList = verb<object, readonly StoragePolicy[]>({
  name: 'policy list',
  summary: 'List the storage policies.',
  cmdlets: ['Get-SpbmStoragePolicy'],
  run: ({ vcenter }) => vcenter.storagePolicies.list(),
  show: (policies) =>
    tableOr(
      'no policies',
      ['NAME', 'ENCRYPTION', ''],
      policies.map(({ name, encryption, bundled }) => [
        name,
        encryption ? 'yes' : 'no',
        bundled ? 'bundled' : '',
      ]),
    ),
})
