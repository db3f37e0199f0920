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

/** An event that alarms follow from. */
interface Considered {
  readonly event: VCenterEvent
  readonly changes: readonly AlarmChange[]
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

export class Alarms {
  readonly #table: AlarmTable
  readonly #events: EventLog
  readonly #clock: () => Date
  /** One change at a time. */
  readonly #turns = new Turns()
  #waiting: Considered[] = []

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
    if (changes.length === 0) return
    await new Promise<void>((resolve, reject) => {
      this.#waiting.push({ event, changes, resolve, reject })
      if (this.#waiting.length === 1) void this.#turns.take('', () => this.#considerWaiting())
    })
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

  /** What came while others were considered, or in the same turn, is considered and written down together. */
  async #considerWaiting(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve))
    const batch = this.#waiting
    this.#waiting = []
    try {
      await this.#change(batch)
      for (const { resolve } of batch) resolve()
    } catch (error) {
      for (const { reject } of batch) reject(error)
    }
  }

  async #change(batch: readonly Considered[]): Promise<void> {
    const open = new Map((await this.#table.list()).map((alarm) => [keyOf(alarm), alarm]))
    const writes: Promise<unknown>[] = []
    for (const { event, changes } of batch)
      for (const change of changes) writes.push(...this.#changeOne(open, event, change))
    // An event that changed nothing changes nothing when it is read again.
    if (writes.length > 0)
      writes.push(this.#table.setPosition(Math.max(...batch.map(({ event }) => event.sequence))))
    await Promise.all(writes)
  }

  /** Asks for the writes without waiting in between, so that they are one commit. */
  #changeOne(open: Map<string, Alarm>, event: VCenterEvent, change: AlarmChange): Promise<unknown>[] {
    const { kind, entity } = change
    const before = open.get(keyOf(change))
    // Told before: a restart reads some events twice.
    if (before && before.sequence >= event.sequence) return []
    const told = { alarm: kind, entity, from: before?.status ?? 'green', event: event.id } as const
    if (change.to === 'green') {
      if (!before) return []
      open.delete(keyOf(change))
      return [this.#table.clear(kind, entity), this.#tell({ ...told, to: 'green', message: before.message })]
    }
    const { to, message } = change
    const alarm: Alarm = {
      kind,
      entity,
      status: to,
      message,
      event: event.id,
      sequence: event.sequence,
      openedAt: before?.openedAt ?? event.time,
      acknowledgedBy: before?.status === to ? before.acknowledgedBy : null,
      acknowledgedAt: before?.status === to ? before.acknowledgedAt : null,
    }
    open.set(keyOf(change), alarm)
    const written = this.#table.open(alarm)
    return before?.status === to ? [written] : [written, this.#tell({ ...told, to, message })]
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

function keyOf({ kind, entity: { type, name } }: AlarmName): string {
  return JSON.stringify([kind, type, name])
}

function isSame(alarm: AlarmName, other: AlarmName): boolean {
  return (
    alarm.kind === other?.kind &&
    alarm.entity.type === other.entity?.type &&
    alarm.entity.name === other.entity.name
  )
}
