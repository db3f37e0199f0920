/**
 * One owner for a directory of durable state. The lock is SQLite's own file lock on an empty database, so the
 * kernel gives it up when the process dies, however it dies.
 */
import path from 'node:path'
import type Database from 'libsql'
import { VmsealError } from '../errors.js'
import { connect } from './sqlite-database.js'

export class DirectoryLock {
  readonly #database: Database.Database

  /** VMSEAL_FILE_LOCKED if another owner, in this process or another, holds the directory. */
  static acquire(directory: string): DirectoryLock {
    const database = connect(path.join(directory, 'lock'))
    try {
      database.exec('BEGIN EXCLUSIVE')
    } catch (cause) {
      database.close()
      throw new VmsealError('VMSEAL_FILE_LOCKED', `${directory} is in use by another process or vCenter`, {
        cause,
        details: { subject: directory },
      })
    }
    return new DirectoryLock(database)
  }

  private constructor(database: Database.Database) {
    this.#database = database
  }

  release(): void {
    if (!this.#database.open) return
    this.#database.exec('ROLLBACK')
    this.#database.close()
  }
}
