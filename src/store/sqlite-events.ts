/** The event log in SQLite: a chain of hashes, whose head stands beside it. */
import { linkLine, type AuditLink } from '../audit/chain.js'
import type { SqliteDatabase } from './sqlite-database.js'
import type { EventHead, EventRecord, EventTable, EventVerification } from './store.js'

type EventRow = Omit<EventRecord, 'details'> & { readonly details: string; readonly hash: string }
type Chain = EventHead & { readonly origin: number }

const pageSize = 1000

export function eventTable(database: SqliteDatabase): EventTable {
  const chain = (): Chain =>
    database.first<Chain>(`SELECT origin, sequence, hash FROM event_chain`) ?? {
      origin: 0,
      sequence: 0,
      hash: '',
    }
  const rows = (after: number, limit: number): EventRow[] =>
    database.all<EventRow>(
      `SELECT sequence, id, time, actor, details, hash FROM event WHERE sequence > @after ORDER BY sequence LIMIT @limit`,
      { after, limit },
    )
  return {
    append: async ({ id, time, actor, details }) =>
      database.inGroup(() => {
        const row = { id, time, actor, details: JSON.stringify(details) }
        const { sequence, hash } = linkLine(chain(), row).link
        database.run(
          `INSERT INTO event (sequence, id, time, actor, details, hash)
           VALUES (@sequence, @id, @time, @actor, @details, @hash)`,
          { sequence, hash, ...row },
        )
        database.run(`UPDATE event_chain SET sequence = @sequence, hash = @hash`, { sequence, hash })
        return { sequence, id, time, actor, details }
      }),

    list: async (after, limit) =>
      rows(after, limit).map(({ sequence, id, time, actor, details }) => ({
        sequence,
        id,
        time,
        actor,
        details: JSON.parse(details) as EventRecord['details'],
      })),

    head: async () => {
      const { sequence, hash } = chain()
      return { sequence, hash }
    },

    verify: async (known) => {
      const { origin, ...head } = chain()
      const check = new ChainCheck(origin, head, known)
      for (let page = rows(origin, pageSize); page.length > 0; page = rows(check.last, pageSize))
        if (!page.every((row) => check.read(row))) break
      return check.result()
    },
  }
}

class ChainCheck {
  readonly #head: EventHead
  readonly #known: EventHead | undefined
  #link: AuditLink
  #events = 0
  #break: EventVerification['firstBreak']
  #knownSeen: boolean

  constructor(origin: number, head: EventHead, known: EventHead | undefined) {
    this.#head = head
    this.#known = known
    this.#link = { sequence: origin, hash: '0'.repeat(64) }
    this.#knownSeen = !known || known.sequence <= origin
  }

  get last(): number {
    return this.#link.sequence
  }

  /** False at a break. */
  read({ sequence, hash, id, time, actor, details }: EventRow): boolean {
    if (sequence !== this.#link.sequence + 1) return this.#breaks('gap')
    const { link } = linkLine(this.#link, { id, time, actor, details })
    const isKnown = this.#known?.sequence === sequence
    if (link.hash !== hash || (isKnown && this.#known?.hash !== hash)) return this.#breaks('altered')
    this.#knownSeen ||= isKnown
    this.#link = link
    this.#events += 1
    return true
  }

  result(): EventVerification {
    const atHead = this.#link.sequence === this.#head.sequence && this.#link.hash === this.#head.hash
    const isWhole = atHead && this.#knownSeen
    if (!this.#break && !isWhole) this.#breaks('cut')
    return {
      events: this.#events,
      ok: this.#break === undefined,
      head: this.#head,
      ...(this.#break ? { firstBreak: this.#break } : {}),
    }
  }

  #breaks(reason: 'altered' | 'gap' | 'cut'): false {
    this.#break = { sequence: this.#link.sequence + 1, reason }
    return false
  }
}
