/** The rows of the keys: what is known about them, and their sealed records. */
import type { Attribute, AttributeValue } from '../kmip/attributes.js'
import { kmipFailure } from '../kmip/failure.js'
import { enumerations, enumerationSymbol } from '../kmip/ttlv/enumerations.js'
import type { KmsDatabase } from './database.js'
import type { GroupCommit } from './group-commit.js'
import { readStoredAttribute, storedValue } from './key-attributes.js'
import type { KeyQuery } from './key-filter.js'
import type { KeyState } from './life-cycle.js'
import { RecentMap } from './recent-map.js'
import type { SealedRecord } from './sealed-records.js'

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
  readonly archiveDate: number | null
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
  archiveDate: 'archive_date',
  revocationReason: 'revocation_reason',
  revocationMessage: 'revocation_message',
}

const selected = `id, owner, algorithm, length, usage_mask AS usageMask, state, initial_date AS initialDate,
  activation_date AS activationDate, deactivation_date AS deactivationDate,
  compromise_occurrence_date AS compromiseOccurrenceDate, compromise_date AS compromiseDate,
  destroy_date AS destroyDate, archive_date AS archiveDate, last_change_date AS lastChangeDate,
  revocation_reason AS revocationReason, revocation_message AS revocationMessage`

/** A row with its record, in the order in which keys were made. */
export interface SealedKey {
  readonly sequence: number
  readonly identity: KeyRow
  /** Absent where the row has none. */
  readonly record: SealedRecord | undefined
}

/** Whose keys a client sees. */
export interface Sight {
  readonly client: string
  /** Keys of others that it was granted to locate: some by id, or all. */
  readonly others: 'none' | 'some' | 'all'
}

interface Remembered {
  readonly row: KeyRow
  record?: SealedRecord
}

/** Rows remembered: some 20 MB. */
const mostRemembered = 16_384

type RawRow = Omit<KeyRow, 'state'> & { readonly state: number }

/** Every change is part of the group that is under way. */
export class Keys {
  readonly #database: KmsDatabase
  readonly #commit: GroupCommit
  readonly #recent = new RecentMap<string, Remembered>(mostRemembered)
  readonly #find
  readonly #record
  readonly #attributes
  readonly #addAttribute
  readonly #nextNumber
  readonly #insertKey
  readonly #insertRecord
  readonly #nameTaken
  readonly #changes = new Map<string, ReturnType<KmsDatabase['prepare']>>()

  constructor(database: KmsDatabase, commit: GroupCommit) {
    this.#database = database
    this.#commit = commit
    commit.onUndone(() => this.forget())
    this.#find = database.prepare(`SELECT ${selected} FROM keys WHERE id = ?`)
    this.#record = database.prepare('SELECT root, sealed FROM records WHERE key_id = ?')
    this.#attributes = database.prepare(
      'SELECT name, number, value FROM attributes WHERE key_id = ? ORDER BY name, number',
    )
    this.#addAttribute = database.prepare(
      'INSERT INTO attributes (key_id, name, number, value) VALUES (?, ?, ?, ?)',
    )
    this.#nextNumber = database.prepare(
      'SELECT COALESCE(MAX(number) + 1, 0) AS next FROM attributes WHERE key_id = ? AND name = ?',
    )
    this.#insertKey = database.prepare(
      `INSERT INTO keys (id, owner, algorithm, length, usage_mask, state, initial_date, last_change_date)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
    )
    this.#insertRecord = database.prepare('INSERT INTO records (key_id, root, sealed) VALUES (?, ?, ?)')
    this.#nameTaken = database.prepare(
      `SELECT 1 FROM attributes AS a JOIN keys AS k ON k.id = a.key_id
       WHERE a.name = 'Name' AND a.value = ? AND k.owner = ? AND k.state NOT IN (?, ?) LIMIT 1`,
    )
  }

  /** A Pre-Active key with its record. A name that its owner uses already is refused. */
  insert(key: KeyIdentity, record: SealedRecord, attributes: readonly Attribute[], now: number): void {
    const { id, owner, algorithm, length, usageMask } = key
    this.#commit.write(() => {
      this.#insertKey.run(id, owner, algorithm, length, usageMask, enumerations.State.PreActive, now, now)
      this.#insertRecord.run(id, record.root, record.sealed)
      for (const { name, value } of attributes) this.#attach(key, { name, value }, 'InvalidField')
    })
  }

  find(id: string): KeyRow | undefined {
    return this.#remembered(id)?.row
  }

  record(id: string): SealedRecord | undefined {
    const known = this.#remembered(id)
    if (!known || known.record) return known?.record
    const found = this.#record.get(id) as { root: number; sealed: Buffer } | undefined
    // The driver's row is let go of.
    if (found) known.record = { root: found.root, sealed: Buffer.from(found.sealed) }
    return known.record
  }

  change(id: string, change: KeyChange, now: number): void {
    this.#commit.write(() => this.#change(id, change, now))
  }

  /** Deletes the record and notes the state. */
  destroy(id: string, change: KeyChange, now: number): void {
    this.#commit.write(() => {
      this.#change(id, change, now)
      this.#database.prepare('DELETE FROM records WHERE key_id = ?').run(id)
    })
    this.#commit.purge()
  }

  /** The attributes that were stored with the key. */
  storedAttributes(id: string): Attribute[] {
    const rows = this.#attributes.all(id) as { name: string; number: number; value: ArrayBuffer }[]
    return rows.map(({ name, number, value }) => readStoredAttribute(name, number, new Uint8Array(value)))
  }

  /** Adds an instance of an attribute: its index. */
  addAttribute(key: KeyIdentity, attribute: Attribute, now: number): number {
    return this.#commit.write(() => {
      const index = this.#attach(key, attribute, 'IllegalOperation')
      this.#change(key.id, {}, now)
      return index
    })
  }

  /** Gives an instance that is there another value. */
  setAttribute(key: KeyIdentity, { name, index = 0, value }: Attribute, now: number): void {
    this.#commit.write(() => {
      this.#database
        .prepare('DELETE FROM attributes WHERE key_id = ? AND name = ? AND number = ?')
        .run(key.id, name, index)
      this.#attach(key, { name, index, value }, 'IllegalOperation')
      this.#change(key.id, {}, now)
    })
  }

  deleteAttributes(key: KeyIdentity, name: string, indexes: readonly number[], now: number): void {
    this.#commit.write(() => {
      for (const index of indexes)
        this.#database
          .prepare('DELETE FROM attributes WHERE key_id = ? AND name = ? AND number = ?')
          .run(key.id, name, index)
      this.#change(key.id, {}, now)
    })
  }

  /**
   * A new key in the place of `old`: its names move over, its other attributes are copied unless `attributes` has
   * others of the name, and the two are linked (KMIP 1.4, section 4.4).
   */
  replace(
    old: KeyRow,
    key: KeyIdentity,
    record: SealedRecord,
    attributes: readonly Attribute[],
    change: KeyChange,
    now: number,
  ): void {
    const copied = this.storedAttributes(old.id)
    if (copied.some(({ name, value }) => name === 'Link' && isLink(value, 'ReplacementObjectLink')))
      throw kmipFailure('IllegalOperation', `the key ${old.id} was replaced already`)
    const given = new Set(attributes.map(({ name }) => name))
    const kept = copied.filter(({ name }) => name !== 'Link' && !given.has(name))
    this.#commit.write(() => {
      if (!given.has('Name'))
        this.#database.prepare("DELETE FROM attributes WHERE key_id = ? AND name = 'Name'").run(old.id)
      this.insert(key, record, [...kept, ...attributes, link('ReplacedObjectLink', old.id)], now)
      this.#attach(old, link('ReplacementObjectLink', key.id), 'IllegalOperation')
      this.#change(old.id, {}, now)
      if (Object.keys(change).length > 0) this.#change(key.id, change, now)
    })
  }

  locate(sight: Sight, query: KeyQuery, limit: number, offset: number): { ids: string[]; total: number } {
    const seen = visible(sight)
    const where = `${seen.condition} AND ${query.condition}`
    const values = [...seen.values, ...query.values]
    const { total } = this.#database
      .prepare(`SELECT COUNT(*) AS total FROM keys WHERE ${where}`)
      .get(...values) as { total: number }
    const rows = this.#database
      .prepare(`SELECT id FROM keys WHERE ${where} ORDER BY sequence LIMIT ? OFFSET ?`)
      .all(...values, limit, offset) as { id: string }[]
    return { ids: rows.map((row) => row.id), total }
  }

  /** The next keys in order that have, or must have, a record. */
  sealed(after: number, limit: number): SealedKey[] {
    const { Destroyed, DestroyedCompromised } = enumerations.State
    return this.#sealed('state NOT IN (?, ?)', [Destroyed, DestroyedCompromised], after, limit)
  }

  /** Those of them whose record is not under the root key `version`. */
  sealedUnderOther(version: number, after: number, limit: number): SealedKey[] {
    return this.#sealed('root IS NOT NULL AND root <> ?', [version], after, limit)
  }

  replaceRecord(id: string, { root, sealed }: SealedRecord): void {
    this.#database.prepare('UPDATE records SET root = ?, sealed = ? WHERE key_id = ?').run(root, sealed, id)
    this.#recent.delete(id)
  }

  /** Reads the store again from now on. */
  forget(): void {
    this.#recent.clear()
  }

  #sealed(condition: string, values: readonly number[], after: number, limit: number): SealedKey[] {
    const rows = this.#database
      .prepare(
        `SELECT sequence, root, sealed, ${selected} FROM keys LEFT JOIN records ON key_id = id
         WHERE sequence > ? AND ${condition} ORDER BY sequence LIMIT ?`,
      )
      .all(after, ...values, limit) as (RawRow & {
      sequence: number
      root: number | null
      sealed: Buffer | null
    })[]
    return rows.map(({ sequence, root, sealed, ...row }) => ({
      sequence,
      identity: toRow(row),
      record: root === null || sealed === null ? undefined : { root, sealed: Buffer.from(sealed) },
    }))
  }

  #remembered(id: string): Remembered | undefined {
    const known = this.#recent.get(id)
    if (known) return known
    const raw = this.#find.get(id) as RawRow | undefined
    if (!raw) return undefined
    const found = { row: toRow(raw) }
    this.#recent.set(id, found)
    return found
  }

  #attach(
    { id, owner }: KeyIdentity,
    { name, index, value }: Attribute,
    taken: 'InvalidField' | 'IllegalOperation',
  ): number {
    const stored = storedValue(name, value)
    if (name === 'Name' && this.#nameIsTaken(owner, stored))
      throw kmipFailure(taken, 'another key of this client has this name')
    const number = index ?? (this.#nextNumber.get(id, name) as { next: number }).next
    this.#addAttribute.run(id, name, number, stored)
    return number
  }

  #nameIsTaken(owner: string, name: Buffer): boolean {
    const { Destroyed, DestroyedCompromised } = enumerations.State
    return this.#nameTaken.get(name, owner, Destroyed, DestroyedCompromised) !== undefined
  }

  #change(id: string, change: KeyChange, now: number): void {
    const entries = Object.entries(change) as [keyof KeyChange, string | number | null][]
    const set = ['last_change_date = ?', ...entries.map(([name]) => `${columns[name]} = ?`)].join(', ')
    const values = entries.map(([name, value]) =>
      name === 'state' ? enumerations.State[value as KeyState] : value,
    )
    const known = this.#changes.get(set)
    const statement = known ?? this.#database.prepare(`UPDATE keys SET ${set} WHERE id = ?`)
    if (!known) this.#changes.set(set, statement)
    statement.run(now, ...values, id)
    this.#recent.delete(id)
  }
}

function link(type: 'ReplacementObjectLink' | 'ReplacedObjectLink', id: string): Attribute {
  return { name: 'Link', value: { LinkType: type, LinkedObjectIdentifier: id } }
}

function isLink(value: AttributeValue, type: string): boolean {
  return typeof value === 'object' && 'LinkType' in value && value.LinkType === type
}

function toRow(raw: RawRow): KeyRow {
  return { ...raw, state: enumerationSymbol('State', raw.state) as KeyState }
}

function visible({ client, others }: Sight): KeyQuery {
  if (others === 'all') return { condition: 'TRUE', values: [] }
  if (others === 'none') return { condition: 'owner = ?', values: [client] }
  return {
    condition: `(owner = ? OR id IN
      (SELECT key_id FROM grants WHERE client = ? AND instr(operations, '"Locate"') > 0))`,
    values: [client, client],
  }
}
