/** `vmseal provider set-rotation`, `clear-rotation` and `rotations`: new keys on a schedule. */
import type { Rotation } from '../../vcenter/key-rotation.js'
import { positive, wholeNumber } from '../arguments.js'
import { facts, tableOr } from '../output.js'
import { given, verb } from '../verb/verb.js'

interface SetValues {
  readonly provider: string
  readonly days: number
  readonly rateLimit?: number
  readonly last?: string
}

export const providerSetRotation = verb<SetValues, Rotation>({
  name: 'provider set-rotation',
  summary: 'Give every VM of a key provider a new key each so many days (shallow recrypt; VMs may be on).',
  help: `A running vCenter looks each hour whether the time has come, and then does what vmseal rekey does: failures are tried again,
and a power cut leaves every VM usable.

Examples:
  vmseal provider set-rotation kms-1 --days 90 --rate-limit 60
  vmseal provider set-rotation kms-1 --days 90 --last 2026-01-31T00:00:00Z`,
  declare: (command) =>
    command
      .argument('<provider>', 'id of the key provider')
      .requiredOption('--days <n>', 'whole days from one rotation to the next', wholeNumber)
      .option('--rate-limit <n>', 'VMs a minute at most', positive)
      .option('--last <time>', 'when the keys were last new, ISO 8601 (default: now)'),
  run: ({ vcenter }, { provider, days, rateLimit, last }) =>
    vcenter.keyRotation.set(provider, { everyDays: days, ...given({ rateLimit, lastAt: last }) }),
  show: ({ provider, everyDays, rateLimit, lastAt, dueAt }) =>
    facts({
      provider,
      'every days': everyDays,
      'VMs a minute': rateLimit ?? 'as fast as it goes',
      last: lastAt,
      next: dueAt,
    }),
})

export const providerClearRotation = verb<{ readonly provider: string }, { readonly provider: string }>({
  name: 'provider clear-rotation',
  summary: 'End the schedule of new keys of a provider. Keys stay as they are.',
  declare: (command) => command.argument('<provider>', 'id of the key provider'),
  run: async ({ vcenter }, { provider }) => {
    await vcenter.keyRotation.clear(provider)
    return { provider }
  },
  show: ({ provider }) => `the keys of ${provider} are not rotated by themselves any more`,
})

export const providerRotations = verb<object, readonly Rotation[]>({
  name: 'provider rotations',
  summary: 'List the schedules of new keys.',
  run: ({ vcenter }) => vcenter.keyRotation.list(),
  show: (rotations) =>
    tableOr(
      'no rotations',
      ['PROVIDER', 'DAYS', 'VMS A MINUTE', 'LAST', 'NEXT'],
      rotations.map(({ provider, everyDays, rateLimit, lastAt, dueAt }) => [
        provider,
        String(everyDays),
        rateLimit === undefined ? '' : String(rateLimit),
        lastAt,
        dueAt,
      ]),
    ),
})
