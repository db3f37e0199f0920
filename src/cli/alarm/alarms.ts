/** `vmseal alarm list`, `acknowledge`, `clear` and `follow`: what needs somebody's attention now. */
import { Argument, type Command } from 'commander'
import type { AlarmEntity, AlarmKind } from '../../store/store.js'
import type { Alarm, AlarmName } from '../../vcenter/alarms.js'
import { wholeNumber } from '../arguments.js'
import { eventLine } from '../event/line.js'
import { tableOr } from '../output.js'
import { given, verb } from '../verb/verb.js'

/** What an alarm of each kind is about. */
const entities: Readonly<Record<AlarmKind, AlarmEntity['type']>> = {
  'vm.locked': 'vm',
  'vm.recrypt': 'vm',
  'vm.noSpace': 'vm',
  'vm.conversion': 'vm',
  'host.needsEncryptionMode': 'host',
  'host.hostKeyReplaced': 'host',
  'host.refusesKeys': 'host',
  'host.connection': 'host',
  'host.certificate': 'host',
  'keyProvider.unreachable': 'keyProvider',
  'keyProvider.notTrusted': 'kmsServer',
  'keyProvider.clientCertificate': 'keyProvider',
  'keyProvider.serverCertificate': 'kmsServer',
}

interface Values {
  readonly alarm: AlarmKind
  readonly object: string
}

export const alarmList = verb<object, readonly Alarm[]>({
  name: 'alarm list',
  summary: 'List the alarms that are open, oldest first, each with what to do.',
  help: `An alarm opens with an event and clears by itself when another event says that it is over: a VM that unlocks, a KMS that answers.

Example:
  vmseal --json alarm list | jq -r '.[] | select(.status == "red") | .message'`,
  run: ({ vcenter }) => vcenter.alarms.list(),
  show: (alarms) =>
    tableOr(
      'no alarms',
      ['STATUS', 'ALARM', 'OF', 'SINCE', 'ACKNOWLEDGED BY', 'MESSAGE'],
      alarms.map(({ status, kind, entity, openedAt, acknowledgedBy, message }) => [
        status,
        kind,
        entity.name,
        openedAt,
        acknowledgedBy ?? '',
        message,
      ]),
    ),
})

export const alarmAcknowledge = verb<Values, Alarm>({
  name: 'alarm acknowledge',
  summary: 'Say that you see to an alarm; it stays open. When it gets worse, nobody has seen to that yet.',
  help: `Example:
  vmseal alarm acknowledge vm.locked db01`,
  declare: named,
  run: ({ vcenter }, values) => vcenter.alarms.acknowledge(nameOf(values)),
  show: ({ acknowledgedBy }, { alarm, object }) => `${acknowledgedBy ?? ''} sees to ${alarm} of ${object}`,
})

export const alarmClear = verb<Values, AlarmName>({
  name: 'alarm clear',
  summary: 'Clear an alarm that no event clears. What still holds opens it again.',
  help: `Example:
  vmseal alarm clear host.hostKeyReplaced esx-1`,
  declare: named,
  run: async ({ vcenter }, values) => {
    await vcenter.alarms.clear(nameOf(values))
    return nameOf(values)
  },
  show: (_, { alarm, object }) => `${alarm} of ${object} is cleared`,
})

export const alarmFollow = verb<{ readonly after?: number }, null>({
  name: 'alarm follow',
  summary: 'Print each alarm that opens, changes, is acknowledged or clears, as it happens, until Ctrl-C.',
  help: `With --json a line each: the events \`vim.event.AlarmStatusChangedEvent\` and \`vim.event.AlarmAcknowledgedEvent\`. Whoever stopped
goes on with --after and the last sequence number that he saw.

Example:
  vmseal --json alarm follow | your-pager`,
  declare: (command) =>
    command.option(
      '--after <sequence>',
      'begin with those that follow this event (default: from now on)',
      wholeNumber,
    ),
  kind: 'stream',
  run: async ({ vcenter, ended, tell }, { after }) => {
    for await (const event of vcenter.alarms.subscribe({ signal: ended, ...given({ after }) }))
      await tell(event)
    return null
  },
  show: () => '',
  line: eventLine,
})

function named(command: Command): Command {
  return command
    .addArgument(new Argument('<alarm>', 'its kind').choices(Object.keys(entities)))
    .argument('<object>', 'what it is about, as vmseal alarm list shows it')
}

function nameOf({ alarm, object }: Values): AlarmName {
  return { kind: alarm, entity: { type: entities[alarm], name: object } }
}
