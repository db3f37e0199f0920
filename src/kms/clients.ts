/** Who may use the KMS: a client is a name, known by the public keys of its certificates. */
import type { KmsDatabase } from './database.js'

export interface KmsClient {
  readonly name: string
  readonly enabled: boolean
  readonly enrolledAt: Date
}

interface ClientRow {
  readonly name: string
  readonly enabled: number
  readonly enrolled_at: number
}

export class Clients {
  readonly #database: KmsDatabase
  readonly #byKeyHash
  readonly #insert
  readonly #certify

  constructor(database: KmsDatabase) {
    this.#database = database
    this.#byKeyHash = database.prepare(
      'SELECT c.* FROM certificates AS i JOIN clients AS c ON c.name = i.client WHERE i.key_hash = ?',
    )
    this.#insert = database.prepare(
      'INSERT INTO clients (name, enabled, enrolled_at) VALUES (?, 1, ?) ON CONFLICT DO NOTHING',
    )
    this.#certify = database.prepare('INSERT INTO certificates (key_hash, client, pem) VALUES (?, ?, ?)')
  }

  /** The client that a public key belongs to. */
  byKeyHash(keyHash: string): KmsClient | undefined {
    const row = this.#byKeyHash.get(keyHash) as ClientRow | undefined
    return row && toClient(row)
  }

  /** Adds a certificate to a client, which is made if it is new. Its earlier certificates stay good. */
  add(name: string, keyHash: string, pem: string): void {
    this.#database.transaction(() => {
      this.#insert.run(name, Math.floor(Date.now() / 1000))
      this.#certify.run(keyHash, name, pem)
    })()
  }

  list(): KmsClient[] {
    return (this.#database.prepare('SELECT * FROM clients ORDER BY name').all() as ClientRow[]).map(toClient)
  }

  keyHashes(name: string): string[] {
    const rows = this.#database.prepare('SELECT key_hash FROM certificates WHERE client = ?').all(name)
    return (rows as { key_hash: string }[]).map((row) => row.key_hash)
  }

  /** False if there is no such client. */
  setEnabled(name: string, enabled: boolean): boolean {
    return (
      this.#database.prepare('UPDATE clients SET enabled = ? WHERE name = ?').run(Number(enabled), name)
        .changes > 0
    )
  }
}

function toClient({ name, enabled, enrolled_at }: ClientRow): KmsClient {
  return { name, enabled: enabled === 1, enrolledAt: new Date(enrolled_at * 1000) }
}
