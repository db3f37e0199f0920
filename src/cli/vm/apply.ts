/** `vmseal vm apply`: a VM is brought to a declared state, or only told what that would change. */
import { VmsealError } from '../../errors.js'
import { checkState, type DesiredState } from '../../vcenter/desired-state.js'
import type { AppliedState } from '../../vcenter/state-application.js'
import { readText } from '../arguments.js'
import { tableOr } from '../output.js'
import { given, verb } from '../verb/verb.js'
import { policyOptions, policyWish, type PolicyValues } from './policy-options.js'

interface Values extends PolicyValues {
  readonly vm: string
  readonly file?: string
  readonly provider?: string
  readonly host?: string
  readonly dryRun?: true
  /** What the options or the file declare. */
  readonly state?: DesiredState
}

export const vmApply = verb<Values, AppliedState>({
  name: 'vm apply',
  summary:
    'Bring a VM to a declared state: its policies, and the provider of its keys; what is so already stays untouched.',
  help: `Several changes are one task with one new key; where nothing changes no key is made. Interrupted anywhere, the same call does what is
left. What is not declared stays as it is. A file holds the same as JSON:
  { "home": "VM Encryption Policy", "disks": { "scsi0:1": "Datastore Default" }, "keyProvider": "kms-2" }

Examples:
  vmseal vm apply db01 --file db01.json --dry-run
  vmseal vm apply db01 --home 'VM Encryption Policy' --disks 'VM Encryption Policy' --provider kms-2`,
  declare: (command) =>
    policyOptions(
      command.argument('<vm>', 'name of the VM').option('--file <file>', 'a declared state as JSON'),
    )
      .option('--provider <provider>', 'everything that is encrypted is under keys of this key provider')
      .option('--dry-run', 'say what would be changed, and change nothing')
      .option('--host <host>', 'host that does the work (default: the one the VM is registered on)'),
  prepare: declared,
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm, state = {}, host, dryRun }) =>
    (await vcenter.virtualMachines.get(vm)).apply(state, given({ host, dryRun })).done,
  show: ({ changes }, { vm, dryRun }) =>
    tableOr(
      `${vm} is as declared`,
      ['PART', dryRun ? 'WOULD BE' : 'DONE', 'FROM', 'TO'],
      changes.map(({ part, change, from, to }) => [part, change, from, to]),
    ),
})

function declared({ file, home, disks, disk, provider, ...values }: Values): Values {
  const parts = [home, disks, disk, provider].filter((part) => part !== undefined)
  if ((file === undefined) === (parts.length === 0))
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'declare something: --home, --disks, --disk and --provider, or --file',
    )
  const wish = policyWish(given({ home, disks, disk }))
  const state = file === undefined ? { ...wish, ...given({ keyProvider: provider }) } : stateFrom(file)
  return { ...values, state }
}

function stateFrom(file: string): DesiredState {
  const state = parsed(readText(file), file)
  checkState(state)
  return state
}

function parsed(text: string, file: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${file} holds no JSON`, { details: { subject: file } })
  }
}
