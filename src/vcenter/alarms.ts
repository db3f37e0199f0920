/**
 * What needs somebody's attention: alarms open and clear with events. They are a conclusion from the event log, so that after a crash the
 * events which were not considered yet are read again, and nothing is missed.
 */
import { VmsealError } from '../errors.js'
import type { AlarmEntity, AlarmKind, AlarmRecord, AlarmStatus, AlarmTable } from '../store/store.js'
import { alarmChanges, type AlarmChange } from './alarm-rules.js'
import { actingUser, runAsSystem } from './authorization/access.js'
import type { EventLog, VCenterEvent } from './events.js'
import { Turns } from './key-provider/turns.js'
import { notFound } from './names.js'

export type Alarm = Readonly<AlarmRecord>

/** An alarm by what it is about. */
export type AlarmName = Pick<Alarm, 'kind' | 'entity'>

/** An alarm that opened, got worse or better, was cleared or acknowledged. */
export type AlarmEvent = Extract<
  VCenterEvent,
  { readonly id: 'vim.event.AlarmStatusChangedEvent' | 'vim.event.AlarmAcknowledgedEvent' }
>

const pageSize = 1000

export class Alarms {
  readonly #table: AlarmTable
  readonly #events: EventLog
  readonly #clock: () => Date
  /** One change at a time. */
  readonly #turns = new Turns()

  /** @internal */
  constructor(table: AlarmTable, events: EventLog, clock: () => Date) {
    this.#table = table
    this.#events = events
    this.#clock = clock
  }

  /** The open ones, oldest first. */
  list(): Promise<Alarm[]> {
    return this.#table.list()
  }

  /** Somebody sees to it; it stays open. VMSEAL_NOT_FOUND if it is not open, VMSEAL_INVALID_STATE if somebody does already. */
  acknowledge(alarm: AlarmName): Promise<Alarm> {
    return this.#turns.take('', async () => {
      const open = await this.#require(alarm)
      if (open.acknowledgedBy !== null)
        throw new VmsealError('VMSEAL_INVALID_STATE', `${open.acknowledgedBy} has acknowledged it already`)
      const acknowledgedAt = this.#clock().toISOString()
      const written = { ...open, acknowledgedBy: actingUser(), acknowledgedAt }
      await this.#table.open(written)
      const { kind, entity } = open
      await this.#events.append('vim.event.AlarmAcknowledgedEvent', { alarm: kind, entity })
      return written
    })
  }

  /** For what no event clears, for instance a host key that was replaced. What still holds opens it again. VMSEAL_NOT_FOUND. */
  clear(alarm: AlarmName): Promise<void> {
    return this.#turns.take('', async () => {
      const { kind, entity, status } = await this.#require(alarm)
      await this.#table.clear(kind, entity)
      await this.#tell({ alarm: kind, entity, from: status, to: 'green', message: 'cleared by hand' })
    })
  }

  /** As `EventLog.subscribe`, of alarms alone. */
  async *subscribe(
    options: { readonly after?: number; readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<AlarmEvent, void, undefined> {
    for await (const event of this.#events.subscribe(options))
      if (event.id === 'vim.event.AlarmStatusChangedEvent' || event.id === 'vim.event.AlarmAcknowledgedEvent')
        yield event
  }

  /** @internal Draws its conclusions from an event that is in the log. */
  async consider(event: VCenterEvent): Promise<void> {
    const changes = alarmChanges(event)
    if (changes.length > 0) await this.#turns.take('', () => this.#change(event, changes))
  }

  /** @internal Reads the events that an earlier process did not come to. */
  async catchUp(): Promise<void> {
    let position = await this.#table.getPosition()
    for (;;) {
      const page = await this.#events.list({ after: position, limit: pageSize })
      for (const event of page) {
        await this.consider(event)
        position = event.sequence
      }
      if (page.length < pageSize) break
    }
    await this.#table.setPosition(position)
  }

  /** @internal What was considered need not be read at the next start. */
  async settle(): Promise<void> {
    await this.#turns.take('', async () => this.#table.setPosition((await this.#events.head()).sequence))
  }

  async #change(event: VCenterEvent, changes: readonly AlarmChange[]): Promise<void> {
    const open = await this.#table.list()
    let changed = false
    for (const change of changes) {
      const { kind, entity } = change
      const before = open.find((alarm) => isSame(alarm, change))
      // Told before: a restart reads some events twice.
      if (before && before.sequence >= event.sequence) continue
      if (change.to === 'green') {
        if (!before) continue
        changed = true
        await this.#table.clear(kind, entity)
        const { status: from, message } = before
        await this.#tell({ alarm: kind, entity, from, to: 'green', event: event.id, message })
        continue
      }
      const { to, message } = change
      changed = true
      await this.#table.open({
        kind,
        entity,
        status: to,
        message,
        event: event.id,
        sequence: event.sequence,
        openedAt: before?.openedAt ?? event.time,
        acknowledgedBy: before?.status === to ? before.acknowledgedBy : null,
        acknowledgedAt: before?.status === to ? before.acknowledgedAt : null,
      })
      if (before?.status !== to)
        await this.#tell({
          alarm: kind,
          entity,
          from: before?.status ?? 'green',
          to,
          event: event.id,
          message,
        })
    }
    // An event that changed nothing changes nothing when it is read again.
    if (changed) await this.#table.setPosition(event.sequence)
  }

  #tell(details: {
    alarm: AlarmKind
    entity: AlarmEntity
    from: AlarmStatus
    to: AlarmStatus
    event?: string
    message: string
  }): Promise<void> {
    const append = (): Promise<void> => this.#events.append('vim.event.AlarmStatusChangedEvent', details)
    return details.event === undefined ? append() : runAsSystem(append)
  }

  async #require(alarm: AlarmName): Promise<AlarmRecord> {
    const open = (await this.#table.list()).find((one) => isSame(one, alarm))
    if (!open) throw notFound('open alarm', `${alarm?.kind} of ${alarm?.entity?.name}`)
    return open
  }
}

function isSame(alarm: AlarmName, other: AlarmName): boolean {
  return (
    alarm.kind === other?.kind &&
    alarm.entity.type === other.entity?.type &&
    alarm.entity.name === other.entity.name
  )
}
