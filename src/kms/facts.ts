/** Single values of a KMS that belong together with its keys. */
import type { KmsDatabase } from './database.js'

export type FactName = 'root-check' | 'authority' | 'server'

export class Facts {
  readonly #get
  readonly #put

  constructor(database: KmsDatabase) {
    this.#get = database.prepare('SELECT value FROM facts WHERE name = ?')
    this.#put = database.prepare('INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)')
  }

  get(name: FactName): Buffer | undefined {
    return (this.#get.get(name) as { value: Buffer } | undefined)?.value
  }

  /** Durable when it returns. */
  put(name: FactName, value: Uint8Array | string): void {
    this.#put.run(name, Buffer.from(value))
  }
}
