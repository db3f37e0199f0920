/** `vmseal rekey`: new keys for everything that is under the keys of one provider. */
import type { RekeyOutcome, RekeyResult } from '../vcenter/provider-rekey.js'
import { positive } from './arguments.js'
import { table } from './output.js'
import { given, verb } from './verb/verb.js'

interface Values {
  readonly provider: string
  readonly newProvider?: string
  readonly dryRun?: true
  readonly rateLimit?: number
}

export const rekey = verb<Values, RekeyResult>({
  name: 'rekey',
  summary:
    'Give every VM of a key provider a new key (shallow recrypt): no data is touched and VMs may be on.',
  help: `It may be stopped at any time, also by a power cut: every VM opens, and the same command goes on where it stood.

Examples:
  vmseal rekey --provider kms-1 --dry-run
  vmseal rekey --provider kms-1 --rate-limit 60
  vmseal rekey --provider kms-1 --new-provider kms-2   away from a KMS; host keys go along`,
  declare: (command) =>
    command
      .requiredOption('--provider <provider>', 'the provider whose keys are replaced')
      .option('--new-provider <provider>', 'where the new keys are made; default: the same provider')
      .option('--dry-run', 'say what would be done, and do nothing')
      .option('--rate-limit <n>', 'VMs a minute at most', positive),
  kind: 'task',
  hosts: 'needed',
  withoutHosts: ({ dryRun }) => dryRun === true,
  run: ({ vcenter }, { provider, newProvider, dryRun, rateLimit }) =>
    vcenter.rekey({ provider, ...given({ newProvider, dryRun, rateLimit }) }).done,
  holds: ({ virtualMachines, hosts }) =>
    [...virtualMachines, ...hosts].every(({ state }) => state !== 'failed'),
  show: describe,
})

function describe({ provider, newProvider, dryRun, resumed, virtualMachines, hosts }: RekeyResult): string {
  const rows = (kind: string, outcomes: readonly RekeyOutcome[]): string[][] =>
    outcomes.map(({ name, state, key, error }) => [
      kind,
      name,
      dryRun ? 'would be recrypted' : state,
      key?.keyId ?? '',
      error ? `${error.message} (${error.code})` : '',
    ])
  const all = [...rows('VM', virtualMachines), ...rows('host', hosts)]
  const target = newProvider === provider ? '' : ` to ${newProvider}`
  const head = `${resumed ? 'An earlier rekey goes on: ' : ''}${provider}${target}, ${virtualMachines.length} VMs`
  if (all.length === 0) return `${head}: nothing to do`
  return `${head}\n${table(['', 'name', 'state', 'new key', ''], all)}`
}
