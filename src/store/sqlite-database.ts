/**
 * One SQLite file by libsql: durable settings, numbered migrations, errors of the table.
 * The driver is seen by this file and the lock alone.
 */
import Database from 'libsql'
import { VmsealError, type ErrorCode } from '../errors.js'

type Value = string | number | null
export type Parameters = Readonly<Record<string, Value>>

/** A record as its row: the named fields are JSON text. */
export type Stored<Record, Json extends keyof Record> = Omit<Record, Json> & {
  readonly [Name in Json]: string
}

/** Schema changes in order; number n takes the schema from version n to n + 1. A released one is never edited. */
export type Migrations = readonly string[]

interface GroupMember {
  readonly work: () => unknown
  readonly resolve: (result: unknown) => void
  readonly reject: (error: unknown) => void
}

export class SqliteDatabase {
  readonly #database: Database.Database
  readonly #file: string
  readonly #statements = new Map<string, Database.Statement>()
  /** Asked for in this turn of the event loop, in this order. */
  #group: GroupMember[] = []

  /** Opens or creates `file`. VMSEAL_STORE_INVALID if it is no database or has a newer schema. */
  static open(file: string, migrations: Migrations): SqliteDatabase {
    const store = new SqliteDatabase(file)
    try {
      store.#translate(() => store.#prepareFile(migrations))
    } catch (error) {
      store.close()
      throw error
    }
    return store
  }

  private constructor(file: string) {
    this.#file = file
    this.#database = connect(file)
  }

  /** Rows of a query. `Row` is what its SELECT names. */
  all<Row>(sql: string, parameters: Parameters = {}): Row[] {
    return this.#translate(() => this.#statement(sql).all(parameters)) as Row[]
  }

  first<Row>(sql: string, parameters: Parameters = {}): Row | undefined {
    return this.all<Row>(sql, parameters)[0]
  }

  /** Runs a statement; returns the number of changed rows. */
  run(sql: string, parameters: Parameters = {}): number {
    return this.#translate(() => this.#statement(sql).run(parameters)).changes
  }

  /** All of `work` or nothing; it must be synchronous. */
  transaction<Result>(work: () => Result): Result {
    this.#translate(() => this.#database.exec('BEGIN IMMEDIATE'))
    try {
      const result = work()
      this.#translate(() => this.#database.exec('COMMIT'))
      return result
    } catch (error) {
      if (this.#database.inTransaction) this.#database.exec('ROLLBACK')
      throw error
    }
  }

  /**
   * As `transaction`, with one sync to the disk for all that is asked for in the same turn of the event loop: a key that is
   * pushed to 64 hosts is on record 64 times. Each is done as a whole or not at all, in the order of asking, and is durable
   * when it resolves. `work` may not begin a transaction of its own.
   */
  inGroup<Result>(work: () => Result): Promise<Result> {
    return new Promise<Result>((resolve, reject) => {
      this.#group.push({ work, resolve: resolve as (result: unknown) => void, reject })
      if (this.#group.length === 1) setImmediate(() => this.#commitGroup())
    })
  }

  #commitGroup(): void {
    const group = this.#group
    this.#group = []
    if (group.length === 0) return
    const settle: (() => void)[] = []
    try {
      this.transaction(() => {
        for (const member of group) settle.push(this.#doMember(member, group.length > 1))
      })
    } catch (error) {
      for (const { reject } of group) reject(error)
      return
    }
    for (const tell of settle) tell()
  }

  /** What it comes to once the group is committed. One that fails takes nothing of the others with it. */
  #doMember({ work, resolve, reject }: GroupMember, isOneOfMany: boolean): () => void {
    if (!isOneOfMany) {
      const result = work()
      return () => resolve(result)
    }
    this.#translate(() => this.#database.exec('SAVEPOINT member'))
    try {
      const result = work()
      this.#translate(() => this.#database.exec('RELEASE member'))
      return () => resolve(result)
    } catch (error) {
      this.#translate(() => this.#database.exec('ROLLBACK TO member; RELEASE member'))
      return () => reject(error)
    }
  }

  close(): void {
    if (this.#database.open) this.#commitGroup()
    this.#statements.clear()
    if (this.#database.open) this.#database.close()
  }

  #prepareFile(migrations: Migrations): void {
    this.#database.pragma('journal_mode = WAL')
    this.#database.pragma('synchronous = FULL')
    this.#database.pragma('foreign_keys = ON')
    const version = this.first<{ user_version: number }>('PRAGMA user_version')?.user_version ?? 0
    if (version > migrations.length)
      throw new VmsealError(
        'VMSEAL_STORE_INVALID',
        `${this.#file} has schema version ${version}; this vmseal knows ${migrations.length}. Use the version that wrote it`,
        { details: { subject: this.#file } },
      )
    for (const [index, sql] of migrations.entries())
      if (index >= version)
        this.transaction(() => this.#database.exec(`${sql}; PRAGMA user_version = ${index + 1}`))
  }

  #statement(sql: string): Database.Statement {
    const known = this.#statements.get(sql)
    if (known) return known
    const statement = this.#database.prepare(sql)
    this.#statements.set(sql, statement)
    return statement
  }

  #translate<Result>(work: () => Result): Result {
    if (!this.#database.open) throw new VmsealError('VMSEAL_INVALID_STATE', `${this.#file} is closed`)
    try {
      return work()
    } catch (error) {
      if (!(error instanceof Error) || error.name !== 'SqliteError') throw error
      const code = codeOf((error as { code?: string }).code ?? '')
      throw new VmsealError(code, `${this.#file}: ${error.message}`, {
        cause: error,
        details: { subject: this.#file },
      })
    }
  }
}

/** A connection; the driver's errors here carry no code. VMSEAL_IO if the file cannot be opened or made. */
export function connect(file: string): Database.Database {
  try {
    return new Database(file)
  } catch (cause) {
    throw new VmsealError('VMSEAL_IO', `cannot open the database ${file}: ${String(cause)}`, {
      cause,
      details: { subject: file },
    })
  }
}

function codeOf(sqlite: string): ErrorCode {
  if (sqlite === 'SQLITE_CONSTRAINT_UNIQUE' || sqlite === 'SQLITE_CONSTRAINT_PRIMARYKEY')
    return 'VMSEAL_ALREADY_EXISTS'
  if (sqlite === 'SQLITE_CONSTRAINT_FOREIGNKEY') return 'VMSEAL_INVALID_STATE'
  if (sqlite === 'SQLITE_NOTADB' || sqlite.startsWith('SQLITE_CORRUPT')) return 'VMSEAL_STORE_INVALID'
  if (sqlite.startsWith('SQLITE_BUSY')) return 'VMSEAL_FILE_LOCKED'
  if (sqlite === 'SQLITE_FULL') return 'VMSEAL_NO_SPACE'
  if (/^SQLITE_(IOERR|CANTOPEN|READONLY)/.test(sqlite)) return 'VMSEAL_IO'
  return 'VMSEAL_INTERNAL'
}
