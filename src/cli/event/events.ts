/** `vmseal event list`, `follow`, `head` and `verify`: the hash-chained log of what happened. */
import { InvalidArgumentError } from 'commander'
import type { EventHead, EventVerification } from '../../store/store.js'
import type { VCenterEvent } from '../../vcenter/events.js'
import { wholeNumber } from '../arguments.js'
import { tableOr } from '../output.js'
import { given, verb } from '../verb/verb.js'
import { detailText, eventLine } from './line.js'

interface ListValues {
  readonly after?: number
  readonly limit: number
}

export const eventList = verb<ListValues, readonly VCenterEvent[]>({
  name: 'event list',
  summary: 'List events, oldest first: the newest ones, or those after a sequence number.',
  cmdlets: ['Get-VIEvent'],
  declare: (command) =>
    command
      .option('--after <sequence>', 'those that follow this one', wholeNumber)
      .option('--limit <n>', 'how many', wholeNumber, 50),
  run: async ({ vcenter }, { after, limit }) => {
    const newest = async (): Promise<number> => (await vcenter.events.head()).sequence - limit
    return vcenter.events.list({ after: after ?? Math.max(0, await newest()), limit })
  },
  show: (events) =>
    tableOr(
      'no events',
      ['', 'TIME', 'ACTOR', 'EVENT', 'DETAILS'],
      events.map(({ sequence, time, actor, id, details }) => [
        String(sequence),
        time,
        actor,
        id,
        detailText(details),
      ]),
    ),
})

export const eventFollow = verb<{ readonly after?: number }, null>({
  name: 'event follow',
  summary: 'Print each event as it happens, without a gap, until Ctrl-C.',
  help: `With --json a line each. Whoever stopped goes on with --after and the last sequence number that he saw.

Example:
  vmseal --json event follow --after 4711 | your-log-shipper`,
  declare: (command) =>
    command.option(
      '--after <sequence>',
      'begin with those that follow this one (default: from now on)',
      wholeNumber,
    ),
  kind: 'stream',
  run: async ({ vcenter, ended, tell }, { after }) => {
    for await (const event of vcenter.events.subscribe({ signal: ended, ...given({ after }) }))
      await tell(event)
    return null
  },
  show: () => '',
  line: eventLine,
})

export const eventHead = verb<object, EventHead>({
  name: 'event head',
  summary:
    'Print the end of the event log, to be kept elsewhere: verify proves by it that nothing before was touched.',
  run: ({ vcenter }) => vcenter.events.head(),
  show: ({ sequence, hash }) => `${sequence}:${hash}`,
})

export const eventVerify = verb<{ readonly head?: EventHead }, EventVerification>({
  name: 'event verify',
  summary: 'Find any event that was changed, removed, put in or reordered.',
  declare: (command) =>
    command.option(
      '--head <sequence:hash>',
      'an end of the log that was noted before (vmseal event head)',
      head,
    ),
  run: ({ vcenter }, { head: known }) => vcenter.events.verify(known),
  holds: ({ ok }) => ok,
  show: ({ ok, events, firstBreak, head: end }) =>
    ok
      ? `${events} events, unbroken; the end is ${end.sequence}:${end.hash}`
      : `BROKEN at event ${firstBreak?.sequence ?? '?'}: ${firstBreak?.reason ?? ''}; ${events} events before it are good`,
})

function head(text: string): EventHead {
  const [, sequence, hash] = /^(\d+):([0-9a-f]{64})$/.exec(text) ?? []
  if (sequence === undefined || hash === undefined)
    throw new InvalidArgumentError('Write SEQUENCE:HASH, as vmseal event head prints it.')
  return { sequence: Number(sequence), hash }
}
