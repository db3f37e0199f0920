/** `vmseal policy create`, `clone`, `update`, `remove` and `list`: storage policies. */
import { Option, type Command } from 'commander'
import { VmsealError } from '../../errors.js'
import type { StoragePolicy } from '../../vcenter/storage-policies.js'
import { tableOr } from '../output.js'
import { given, verb } from '../verb/verb.js'

interface RuleValues {
  readonly encrypted?: true
  readonly plain?: true
  readonly filters?: 'before' | 'after'
}

interface CreateValues extends RuleValues {
  readonly name: string
}

export const policyCreate = verb<CreateValues, StoragePolicy>({
  name: 'policy create',
  summary: 'Make a storage policy: whoever has it is encrypted, or is not.',
  cmdlets: ['New-SpbmStoragePolicy'],
  declare: (command) => rules(command.argument('<name>', 'name of the new policy')),
  prepare: (values) => {
    if (values.encrypted === values.plain)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'give --encrypted or --plain')
    return values
  },
  run: ({ vcenter }, { name, ...values }) =>
    vcenter.storagePolicies.create({ name, encryption: values.encrypted === true, ...rulesOf(values) }),
  show: ({ name }) => `policy ${name} is made; give it to a VM: vmseal vm set-policy`,
})

interface CloneValues extends RuleValues {
  readonly policy: string
  readonly name: string
}

export const policyClone = verb<CloneValues, StoragePolicy>({
  name: 'policy clone',
  summary:
    'Make a storage policy with the rules of another one, for instance of a bundled one, which cannot be changed.',
  help: `Example:
  vmseal policy clone 'VM Encryption Policy' Gold`,
  declare: (command) =>
    rules(
      command.argument('<policy>', 'the policy that is cloned').argument('<name>', 'name of the new policy'),
    ),
  run: ({ vcenter }, { policy, name, ...values }) =>
    vcenter.storagePolicies.clone(policy, name, rulesOf(values)),
  show: ({ name }) => `policy ${name} is made; give it to a VM: vmseal vm set-policy`,
})

interface UpdateValues extends RuleValues {
  readonly policy: string
  readonly name?: string
}

export const policyUpdate = verb<UpdateValues, StoragePolicy>({
  name: 'policy update',
  summary:
    'Change a storage policy of your own. Nothing happens to the VMs that have it until it is applied again.',
  cmdlets: ['Set-SpbmStoragePolicy'],
  help: `They are out of date until then: vmseal vm compliance. A bundled policy stays as it is: vmseal policy clone.

Example:
  vmseal policy update Gold --plain
  vmseal vm set-policy db01 --home Gold --disks Gold`,
  declare: (command) =>
    rules(command.argument('<policy>', 'the policy').option('--name <name>', 'its new name')),
  prepare: (values) => {
    if ((values.name ?? values.encrypted ?? values.plain ?? values.filters) === undefined)
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        'say what changes: --name, --encrypted, --plain or --filters',
      )
    return values
  },
  run: ({ vcenter }, { policy, name, ...values }) =>
    vcenter.storagePolicies.update(policy, { ...given({ name }), ...rulesOf(values) }),
  show: ({ name, version }) =>
    `policy ${name} is at version ${version}; VMs that are out of date: vmseal vm compliance`,
})

export const policyRemove = verb<{ readonly policy: string }, { readonly policy: string }>({
  name: 'policy remove',
  summary: 'Remove a storage policy of your own that no VM has.',
  cmdlets: ['Remove-SpbmStoragePolicy'],
  declare: (command) => command.argument('<policy>', 'the policy'),
  run: async ({ vcenter }, { policy }) => {
    await vcenter.storagePolicies.remove(policy)
    return { policy }
  },
  show: ({ policy }) => `policy ${policy} is removed`,
})

export const policyList = verb<object, readonly StoragePolicy[]>({
  name: 'policy list',
  summary: 'List the storage policies.',
  cmdlets: ['Get-SpbmStoragePolicy'],
  run: ({ vcenter }) => vcenter.storagePolicies.list(),
  show: (policies) =>
    tableOr(
      'no policies',
      ['NAME', 'ENCRYPTION', 'FILTERS', 'VERSION', ''],
      policies.map(({ name, encryption, filtersBeforeEncryption, version, bundled }) => [
        name,
        encryption ? 'yes' : 'no',
        encryption ? (filtersBeforeEncryption ? 'before it' : 'after it') : '',
        String(version),
        bundled ? 'bundled' : '',
      ]),
    ),
})

function rules(command: Command): Command {
  return command
    .addOption(new Option('--encrypted', 'VM homes and disks with it are encrypted').conflicts('plain'))
    .option('--plain', 'they are plain')
    .addOption(
      new Option(
        '--filters <order>',
        'I/O filters of the host, for instance one that replicates, come before encryption or after it (default)',
      ).choices(['before', 'after']),
    )
}

/** Of what is said alone. */
function rulesOf({ encrypted, plain, filters }: RuleValues) {
  return given({
    encryption: encrypted ?? (plain && false),
    filtersBeforeEncryption: filters && filters === 'before',
  })
}
