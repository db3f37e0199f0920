/** Who may use the KMS: a client is a name, known by the public keys of its certificates. */
import { VmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { KmsDatabase } from './database.js'
import type { GroupCommit } from './group-commit.js'
import { isAllowed, readOperations, writeOperations } from './permissions.js'
import type { KmsOperationName } from './permissions.js'
import { RecentMap } from './recent-map.js'

/** How a certificate came to be known: made here, signed here, pinned, or under an authority that was uploaded. */
export type CertificateOrigin = 'issued' | 'signed' | 'pinned' | 'authority'

interface KmsClientCertificate {
  /** Hex SHA-256 of the public key (SPKI). */
  readonly keyHash: string
  readonly origin: CertificateOrigin
  /** Absent for one under an uploaded authority: its end is checked at each connection, and is not known here. */
  readonly expires?: Date
}

export interface KmsClient {
  readonly name: string
  readonly enabled: boolean
  readonly enrolledAt: Date
  /** Absent: all that the KMS offers. */
  readonly operations?: readonly KmsOperationName[]
  readonly certificates: readonly KmsClientCertificate[]
}

export interface KmsGrant {
  readonly client: string
  /** `all`: every key, also of clients to come. */
  readonly keyId: string
  readonly operations: readonly KmsOperationName[]
}

/** What is asked at every operation. */
export class Caller {
  readonly name: string
  readonly enabled: boolean
  readonly #operations: readonly string[] | undefined
  readonly #grants: ReadonlyMap<string, readonly string[]>

  constructor(row: ClientRow, grants: readonly GrantRow[]) {
    this.name = row.name
    this.enabled = row.enabled === 1
    this.#operations = readOperations(row.operations)
    this.#grants = new Map(grants.map((grant) => [grant.key_id, readOperations(grant.operations) ?? []]))
  }

  may(operation: string): boolean {
    return isAllowed(operation, this.#operations)
  }

  /** Whether a key of somebody else is there for this client, and for this operation. */
  grantOf(keyId: string, operation: string): 'none' | 'other' | 'granted' {
    const granted = [this.#grants.get(keyId), this.#grants.get('all')].filter((list) => list !== undefined)
    if (granted.length === 0) return 'none'
    return granted.some((list) => list.includes(operation)) ? 'granted' : 'other'
  }

  get locates(): 'none' | 'some' | 'all' {
    if (this.#grants.get('all')?.includes('Locate')) return 'all'
    return [...this.#grants.values()].some((list) => list.includes('Locate')) ? 'some' : 'none'
  }
}

interface ClientRow {
  readonly name: string
  readonly enabled: number
  readonly enrolled_at: number
  readonly operations: string | null
}

interface CertificateRow {
  readonly key_hash: string
  readonly client: string
  readonly origin: CertificateOrigin
  readonly pem: string | null
}

interface GrantRow {
  readonly client: string
  readonly key_id: string
  readonly operations: string
}

const mostRemembered = 10_000

/** Changes are part of the group that is under way. */
export class Clients {
  readonly #database: KmsDatabase
  readonly #commit: GroupCommit
  readonly #callers = new RecentMap<string, Caller>(mostRemembered)
  readonly #byKeyHash
  readonly #grantsOf

  constructor(database: KmsDatabase, commit: GroupCommit) {
    this.#database = database
    this.#commit = commit
    commit.onUndone(() => this.#callers.clear())
    this.#byKeyHash = database.prepare(
      'SELECT c.* FROM certificates AS i JOIN clients AS c ON c.name = i.client WHERE i.key_hash = ?',
    )
    this.#grantsOf = database.prepare('SELECT * FROM grants WHERE client = ? ORDER BY key_id')
  }

  /** The client that a public key belongs to. */
  byKeyHash(keyHash: string): Caller | undefined {
    const known = this.#callers.get(keyHash)
    if (known) return known
    const row = this.#byKeyHash.get(keyHash) as ClientRow | undefined
    if (!row) return undefined
    const caller = new Caller(row, this.#grantsOf.all(row.name) as GrantRow[])
    this.#callers.set(keyHash, caller)
    return caller
  }

  /** Adds a certificate to a client, which is made if it is new. Its earlier certificates stay good. */
  add(
    name: string,
    certificate: { readonly keyHash: string; readonly origin: CertificateOrigin; readonly pem?: string },
    operations?: readonly KmsOperationName[],
  ): void {
    this.#change(() => {
      this.#database
        .prepare(
          `INSERT INTO clients (name, enabled, enrolled_at, operations) VALUES (?, 1, ?, ?)
           ON CONFLICT DO NOTHING`,
        )
        .run(name, Math.floor(Date.now() / 1000), writeOperations(operations))
      this.#database
        .prepare('INSERT INTO certificates (key_hash, client, origin, pem) VALUES (?, ?, ?, ?)')
        .run(certificate.keyHash, name, certificate.origin, certificate.pem ?? null)
    })
  }

  list(): KmsClient[] {
    const certificates = this.#database
      .prepare('SELECT * FROM certificates ORDER BY rowid')
      .all() as CertificateRow[]
    const byClient = new Map<string, CertificateRow[]>()
    for (const certificate of certificates) {
      const others = byClient.get(certificate.client)
      if (others) others.push(certificate)
      else byClient.set(certificate.client, [certificate])
    }
    return (this.#database.prepare('SELECT * FROM clients ORDER BY name').all() as ClientRow[]).map((row) =>
      toClient(row, byClient.get(row.name) ?? []),
    )
  }

  has(name: string): boolean {
    return this.#database.prepare('SELECT 1 FROM clients WHERE name = ?').get(name) !== undefined
  }

  keyHashes(name: string): string[] {
    const rows = this.#database.prepare('SELECT key_hash FROM certificates WHERE client = ?').all(name)
    return (rows as { key_hash: string }[]).map((row) => row.key_hash)
  }

  /** The public keys of all certificates that do not owe their admission to an uploaded authority. */
  ownKeyHashes(): string[] {
    const rows = this.#database.prepare("SELECT key_hash FROM certificates WHERE origin <> 'authority'").all()
    return (rows as { key_hash: string }[]).map((row) => row.key_hash)
  }

  setEnabled(name: string, enabled: boolean): void {
    this.#update('UPDATE clients SET enabled = ? WHERE name = ?', Number(enabled), name)
  }

  setOperations(name: string, operations: readonly KmsOperationName[] | undefined): void {
    this.#update('UPDATE clients SET operations = ? WHERE name = ?', writeOperations(operations), name)
  }

  grants(): KmsGrant[] {
    const rows = this.#database.prepare('SELECT * FROM grants ORDER BY client, key_id').all() as GrantRow[]
    return rows.map(({ client, key_id, operations }) => ({
      client,
      keyId: key_id,
      operations: (readOperations(operations) ?? []) as KmsOperationName[],
    }))
  }

  grant({ client, keyId, operations }: KmsGrant): void {
    this.#change(() =>
      this.#database
        .prepare('INSERT OR REPLACE INTO grants (client, key_id, operations) VALUES (?, ?, ?)')
        .run(client, keyId, writeOperations(operations)),
    )
  }

  /** Throws VMSEAL_NOT_FOUND. */
  revokeGrant(client: string, keyId: string): void {
    this.#update('DELETE FROM grants WHERE client = ? AND key_id = ?', client, keyId)
  }

  #update(sql: string, ...values: (string | number | null)[]): void {
    const { changes } = this.#change(() => this.#database.prepare(sql).run(...values))
    if (changes === 0) throw new VmsealError('VMSEAL_NOT_FOUND', 'the KMS has no such client or grant')
  }

  #change<T>(work: () => T): T {
    const result = this.#commit.write(work)
    this.#callers.clear()
    return result
  }
}

function toClient(row: ClientRow, certificates: readonly CertificateRow[]): KmsClient {
  const operations = readOperations(row.operations) as KmsOperationName[] | undefined
  return {
    name: row.name,
    enabled: row.enabled === 1,
    enrolledAt: new Date(row.enrolled_at * 1000),
    ...(operations ? { operations } : {}),
    certificates: certificates.map(({ key_hash, origin, pem }) => ({
      keyHash: key_hash,
      origin,
      ...(pem === null ? {} : { expires: new Date(native.describeCertificate(pem).notAfter * 1000) }),
    })),
  }
}
