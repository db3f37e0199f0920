/** The SQLite file of the KMS. One process holds it at a time. */
import { closeSync, existsSync, openSync } from 'node:fs'
import Database from 'libsql'
import { VmsealError } from '../errors.js'

export type KmsDatabase = Database.Database

const schemaVersion = 2

const schema = `
  CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
  ) STRICT;
  CREATE TABLE clients (
    name TEXT PRIMARY KEY,
    enabled INTEGER NOT NULL,
    enrolled_at INTEGER NOT NULL,
    operations TEXT
  ) STRICT;
  CREATE TABLE certificates (
    key_hash TEXT PRIMARY KEY,
    client TEXT NOT NULL REFERENCES clients (name),
    origin TEXT NOT NULL,
    pem TEXT
  ) STRICT;
  CREATE INDEX certificates_by_client ON certificates (client);
  CREATE TABLE authorities (
    key_hash TEXT PRIMARY KEY,
    pem TEXT NOT NULL,
    common_names TEXT,
    operations TEXT,
    trusted_at INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE keys (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL REFERENCES clients (name),
    algorithm INTEGER NOT NULL,
    length INTEGER NOT NULL,
    usage_mask INTEGER NOT NULL,
    state INTEGER NOT NULL,
    initial_date INTEGER NOT NULL,
    activation_date INTEGER,
    deactivation_date INTEGER,
    compromise_occurrence_date INTEGER,
    compromise_date INTEGER,
    destroy_date INTEGER,
    archive_date INTEGER,
    last_change_date INTEGER NOT NULL,
    revocation_reason INTEGER,
    revocation_message TEXT
  ) STRICT;
  CREATE INDEX keys_by_owner ON keys (owner, sequence);
  CREATE TABLE records (
    key_id TEXT PRIMARY KEY REFERENCES keys (id),
    root INTEGER NOT NULL,
    sealed BLOB NOT NULL
  ) STRICT;
  CREATE INDEX records_by_root ON records (root);
  CREATE TABLE grants (
    client TEXT NOT NULL REFERENCES clients (name),
    key_id TEXT NOT NULL,
    operations TEXT NOT NULL,
    PRIMARY KEY (client, key_id)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE attributes (
    key_id TEXT NOT NULL REFERENCES keys (id),
    name TEXT NOT NULL,
    number INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (key_id, name, number)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX attributes_by_value ON attributes (name, value);
`

/**
 * Opens or makes the store. Every commit is durable when it returns; deleted records are overwritten.
 * Throws VMSEAL_FILE_LOCKED while another process has it, VMSEAL_STORE_INVALID when it is damaged or newer.
 */
export function openDatabase(file: string): KmsDatabase {
  // SQLite gives its other files the mode of this one. A file that exists is left alone: closing it here would drop
  // the lock of another store in this process (POSIX advisory locks).
  if (!existsSync(file)) closeSync(openSync(file, 'wx', 0o600))
  let database: KmsDatabase | undefined
  try {
    database = new Database(file)
    database.pragma('locking_mode = EXCLUSIVE')
    database.pragma('journal_mode = WAL')
    database.pragma('synchronous = FULL')
    database.pragma('secure_delete = ON')
    database.pragma('foreign_keys = ON')
    migrate(database, file)
    return database
  } catch (error) {
    if (database) closeQuietly(database)
    throw translate(error, file)
  }
}

/**
 * Closes the store and gives its lock back. The driver keeps a connection until its statements are collected, so
 * closing alone would not: leaving the write-ahead log does (it cannot be shared again while it is in use).
 */
export function closeDatabase(database: KmsDatabase): void {
  try {
    database.pragma('journal_mode = DELETE')
    database.pragma('locking_mode = NORMAL')
    database.prepare('SELECT 1 FROM facts LIMIT 1').get()
  } finally {
    database.close()
  }
}

/** What was deleted does not stay behind in the write-ahead log. */
export function purgeLog(database: KmsDatabase): void {
  database.pragma('wal_checkpoint(TRUNCATE)')
}

function closeQuietly(database: KmsDatabase): void {
  try {
    closeDatabase(database)
  } catch {
    // The error that led here says more.
  }
}

function migrate(database: KmsDatabase, file: string): void {
  database
    .transaction(() => {
      const { user_version: version } = database.prepare('PRAGMA user_version').get() as {
        user_version: number
      }
      if (version > schemaVersion)
        throw new VmsealError('VMSEAL_STORE_INVALID', `${file} was written by a newer version of vmseal`)
      if (version === schemaVersion) return
      if (version !== 0)
        throw new VmsealError(
          'VMSEAL_STORE_INVALID',
          `${file} was written by a preview of vmseal; start a new directory`,
        )
      database.exec(schema)
      database.exec(`PRAGMA user_version = ${schemaVersion}`)
    })
    .exclusive()
}

function translate(error: unknown, file: string): unknown {
  if (!(error instanceof Database.SqliteError)) return error
  if (error.code.startsWith('SQLITE_BUSY') || error.code.startsWith('SQLITE_LOCKED'))
    return new VmsealError('VMSEAL_FILE_LOCKED', `another process serves ${file}`, { cause: error })
  if (error.code.startsWith('SQLITE_CANTOPEN') || error.code.startsWith('SQLITE_IOERR'))
    return new VmsealError('VMSEAL_IO', `cannot open ${file}: ${error.message}`, { cause: error })
  return new VmsealError('VMSEAL_STORE_INVALID', `cannot use ${file}: ${error.message}`, { cause: error })
}
