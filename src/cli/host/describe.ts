/** How hosts and what they were given are shown to people. */
import type { HostSync } from '../../vcenter/host-sync.js'
import { facts, table } from '../output.js'
import { keyText } from '../vm/describe.js'

export function describeSync({
  host,
  cryptoState,
  restarted,
  pushed,
  failed,
  unlocked,
  locked,
}: HostSync): string {
  return [
    facts({
      host,
      'encryption mode': cryptoState,
      restarted: restarted ? 'yes, since it was last brought up to date' : undefined,
      'keys given': pushed.length,
      unlocked: unlocked.join(', '),
      locked: locked.join(', '),
    }),
    ...(failed.length === 0
      ? []
      : [
          '',
          table(
            ['KEY IT LACKS', 'WHY'],
            failed.map(({ key, error }) => [keyText(key), `${error.message} (${error.code})`]),
          ),
        ]),
  ].join('\n')
}
