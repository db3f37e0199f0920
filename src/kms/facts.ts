/** Single values of a KMS that belong together with its keys. */
import { VmsealError } from '../errors.js'
import type { KmsDatabase } from './database.js'

export type FactName = 'root' | 'authority' | 'server' | 'audit-head' | 'audit-origin'

export class Facts {
  readonly #database: KmsDatabase
  readonly #get
  readonly #put

  constructor(database: KmsDatabase) {
    this.#database = database
    this.#get = database.prepare('SELECT value FROM facts WHERE name = ?')
    this.#put = database.prepare('INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)')
  }

  get(name: FactName): Buffer | undefined {
    return (this.#get.get(name) as { value: Buffer } | undefined)?.value
  }

  /** A value that `putJson` wrote. Throws VMSEAL_STORE_INVALID if it was altered. */
  getJson<T>(name: FactName): T | undefined {
    const text = this.get(name)?.toString()
    if (text === undefined) return undefined
    try {
      return JSON.parse(text) as T
    } catch (cause) {
      throw new VmsealError('VMSEAL_STORE_INVALID', `the fact ${name} of the store was altered`, { cause })
    }
  }

  /** Durable when it returns, outside of a transaction. */
  put(name: FactName, value: Uint8Array | string): void {
    this.#put.run(name, Buffer.from(value))
  }

  remove(name: FactName): void {
    this.#database.prepare('DELETE FROM facts WHERE name = ?').run(name)
  }

  putJson(name: FactName, value: unknown): void {
    this.put(name, JSON.stringify(value))
  }
}
