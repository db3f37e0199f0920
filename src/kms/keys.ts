/** The rows of the keys: what is known about them, and their sealed records. */
import type { Attribute } from '../kmip/attributes.js'
import { kmipFailure } from '../kmip/failure.js'
import { enumerations, enumerationSymbol } from '../kmip/ttlv/enumerations.js'
import type { KmsDatabase } from './database.js'
import { purgeLog } from './database.js'
import { readStoredAttribute, storedValue } from './key-attributes.js'
import type { KeyQuery } from './key-filter.js'
import type { KeyState } from './life-cycle.js'

/** What never changes about a key; its sealed record is bound to it. */
export interface KeyIdentity {
  readonly id: string
  /** Name of the client that made it. */
  readonly owner: string
  /** Cryptographic Algorithm. */
  readonly algorithm: number
  /** Bits. */
  readonly length: number
  /** Cryptographic Usage Mask. */
  readonly usageMask: number
}

/** Dates are seconds since 1970. */
export interface KeyRow extends KeyIdentity {
  readonly state: KeyState
  readonly initialDate: number
  readonly activationDate: number | null
  readonly deactivationDate: number | null
  readonly compromiseOccurrenceDate: number | null
  readonly compromiseDate: number | null
  readonly destroyDate: number | null
  readonly lastChangeDate: number
  readonly revocationReason: number | null
  readonly revocationMessage: string | null
}

/** What a change of state changes besides. */
export type KeyChange = Partial<Omit<KeyRow, keyof KeyIdentity | 'initialDate' | 'lastChangeDate'>>

const columns: Readonly<Record<keyof KeyChange, string>> = {
  state: 'state',
  activationDate: 'activation_date',
  deactivationDate: 'deactivation_date',
  compromiseOccurrenceDate: 'compromise_occurrence_date',
  compromiseDate: 'compromise_date',
  destroyDate: 'destroy_date',
  revocationReason: 'revocation_reason',
  revocationMessage: 'revocation_message',
}

const selected = `id, owner, algorithm, length, usage_mask AS usageMask, state, initial_date AS initialDate,
  activation_date AS activationDate, deactivation_date AS deactivationDate,
  compromise_occurrence_date AS compromiseOccurrenceDate, compromise_date AS compromiseDate,
  destroy_date AS destroyDate, last_change_date AS lastChangeDate,
  revocation_reason AS revocationReason, revocation_message AS revocationMessage`

export class Keys {
  readonly #database: KmsDatabase
  readonly #find
  readonly #record
  readonly #attributes
  readonly #addAttribute
  readonly #nextNumber

  constructor(database: KmsDatabase) {
    this.#database = database
    this.#find = database.prepare(`SELECT ${selected} FROM keys WHERE id = ? AND owner = ?`)
    this.#record = database.prepare('SELECT sealed FROM records WHERE key_id = ?')
    this.#attributes = database.prepare(
      'SELECT name, number, value FROM attributes WHERE key_id = ? ORDER BY name, number',
    )
    this.#addAttribute = database.prepare(
      'INSERT INTO attributes (key_id, name, number, value) VALUES (?, ?, ?, ?)',
    )
    this.#nextNumber = database.prepare(
      'SELECT COALESCE(MAX(number) + 1, 0) AS next FROM attributes WHERE key_id = ? AND name = ?',
    )
  }

  /** A Pre-Active key with its record, durable when it returns. A name that its owner uses already is refused. */
  insert(key: KeyIdentity, sealed: Buffer, attributes: readonly Attribute[], now: number): void {
    const { id, owner, algorithm, length, usageMask } = key
    this.#database.transaction(() => {
      this.#database
        .prepare(
          `INSERT INTO keys (id, owner, algorithm, length, usage_mask, state, initial_date, last_change_date)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
        )
        .run(id, owner, algorithm, length, usageMask, enumerations.State.PreActive, now, now)
      this.#database.prepare('INSERT INTO records (key_id, sealed) VALUES (?, ?)').run(id, sealed)
      for (const attribute of attributes) this.#attach(key, attribute, 'InvalidField')
    })()
  }

  /** The key, if `owner` made it. */
  find(id: string, owner: string): KeyRow | undefined {
    const row = this.#find.get(id, owner) as (Omit<KeyRow, 'state'> & { state: number }) | undefined
    return row && { ...row, state: enumerationSymbol('State', row.state) as KeyState }
  }

  record(id: string): Buffer | undefined {
    return (this.#record.get(id) as { sealed: Buffer } | undefined)?.sealed
  }

  /** Durable when it returns. */
  change(id: string, change: KeyChange, now: number): void {
    this.#database.transaction(() => this.#change(id, change, now))()
  }

  /** Deletes the record and notes the state; both durable when it returns. */
  destroy(id: string, change: KeyChange, now: number): void {
    this.#database.transaction(() => {
      this.#change(id, change, now)
      this.#database.prepare('DELETE FROM records WHERE key_id = ?').run(id)
    })()
    purgeLog(this.#database)
  }

  /** The attributes that were stored with the key. */
  storedAttributes(id: string): Attribute[] {
    const rows = this.#attributes.all(id) as { name: string; number: number; value: ArrayBuffer }[]
    return rows.map(({ name, number, value }) => readStoredAttribute(name, number, new Uint8Array(value)))
  }

  /** Adds an instance of an attribute, durable when it returns: its index. */
  addAttribute(key: KeyIdentity, attribute: Attribute, now: number): number {
    return this.#database.transaction(() => {
      const index = this.#attach(key, attribute, 'IllegalOperation')
      this.#change(key.id, {}, now)
      return index
    })()
  }

  locate(owner: string, query: KeyQuery, limit: number, offset: number): { ids: string[]; total: number } {
    const where = `owner = ? AND ${query.condition}`
    const { total } = this.#database
      .prepare(`SELECT COUNT(*) AS total FROM keys WHERE ${where}`)
      .get(owner, ...query.values) as { total: number }
    const rows = this.#database
      .prepare(`SELECT id FROM keys WHERE ${where} ORDER BY sequence LIMIT ? OFFSET ?`)
      .all(owner, ...query.values, limit, offset) as { id: string }[]
    return { ids: rows.map((row) => row.id), total }
  }

  #attach(
    { id, owner }: KeyIdentity,
    { name, value }: Attribute,
    taken: 'InvalidField' | 'IllegalOperation',
  ): number {
    const stored = storedValue(name, value)
    if (name === 'Name' && this.#nameIsTaken(owner, stored))
      throw kmipFailure(taken, 'another key of this client has this name')
    const { next } = this.#nextNumber.get(id, name) as { next: number }
    this.#addAttribute.run(id, name, next, stored)
    return next
  }

  #nameIsTaken(owner: string, name: Buffer): boolean {
    const { Destroyed, DestroyedCompromised } = enumerations.State
    const found = this.#database
      .prepare(
        `SELECT 1 FROM attributes AS a JOIN keys AS k ON k.id = a.key_id
         WHERE a.name = 'Name' AND a.value = ? AND k.owner = ? AND k.state NOT IN (?, ?) LIMIT 1`,
      )
      .get(name, owner, Destroyed, DestroyedCompromised)
    return found !== undefined
  }

  #change(id: string, change: KeyChange, now: number): void {
    const entries = Object.entries(change) as [keyof KeyChange, string | number | null][]
    const set = ['last_change_date = ?', ...entries.map(([name]) => `${columns[name]} = ?`)]
    const values = entries.map(([name, value]) =>
      name === 'state' ? enumerations.State[value as KeyState] : value,
    )
    this.#database.prepare(`UPDATE keys SET ${set.join(', ')} WHERE id = ?`).run(now, ...values, id)
  }
}
