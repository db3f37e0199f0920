/**
 * The four ways to become a client: certificate and key issued, request signed, certificate pinned, authority uploaded.
 * A client is its public key, whatever its certificate is called.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { VmsealError } from '../errors.js'
import type { KmipCaller } from '../kmip/server.js'
import { native } from '../native/load.js'
import type { AuditRecord } from './audit-log.js'
import type { Caller, CertificateOrigin, Clients } from './clients.js'
import type { KmsDatabase } from './database.js'
import type { GroupCommit } from './group-commit.js'
import type { Authority } from './installation.js'
import { checkOperations, readOperations, writeOperations } from './permissions.js'
import type { KmsOperationName } from './permissions.js'

/** What a client needs to connect, besides the endpoint. */
export interface KmsCredentials {
  /** PEM of the authority that the server's certificate is under. */
  readonly caCertificate: string
  /** PEM. */
  readonly certificate: string
  /** Mode 0600. */
  readonly privateKeyFile: string
}

export interface KmsAuthority {
  /** Hex SHA-256 of the public key (SPKI). */
  readonly keyHash: string
  readonly subject: string
  readonly expires: Date
  readonly trustedAt: Date
  /** Absent: clients of any name. */
  readonly commonNames?: readonly string[]
  /** Of the clients that come under it; absent: all. */
  readonly operations?: readonly KmsOperationName[]
}

export interface AuthorityRule {
  /** Only clients whose certificate has one of these common names become clients; default: all. */
  readonly commonNames?: readonly string[]
  /** What they may do; default: all. */
  readonly operations?: readonly KmsOperationName[]
}

interface AuthorityRow {
  readonly key_hash: string
  readonly pem: string
  readonly common_names: string | null
  readonly operations: string | null
  readonly trusted_at: number
}

export class Enrolment {
  readonly #clients: Clients
  readonly #database: KmsDatabase
  readonly #commit: GroupCommit
  readonly #authority: Authority

  constructor(clients: Clients, database: KmsDatabase, commit: GroupCommit, authority: Authority) {
    this.#clients = clients
    this.#database = database
    this.#commit = commit
    this.#authority = authority
  }

  /** A new key in a file of `directory`, and its certificate. */
  issue(name: string, directory: string): KmsCredentials {
    mkdirSync(directory, { recursive: true, mode: 0o700 })
    const stem = freeStem(directory)
    const privateKeyFile = join(directory, `${stem}.key`)
    const { certificate: caCertificate, keyFile } = this.#authority
    const certificate = native.issueClientCertificate(caCertificate, keyFile, name, privateKeyFile)
    writeFileSync(join(directory, `${stem}.pem`), certificate)
    writeFileSync(join(directory, 'ca.pem'), caCertificate)
    this.#add(name, certificate, 'issued')
    return { caCertificate, certificate, privateKeyFile }
  }

  /** Signs a certificate signing request (PEM); its key never leaves the client. */
  sign(name: string, request: string): { caCertificate: string; certificate: string } {
    const { certificate: caCertificate, keyFile } = this.#authority
    const certificate = native.signCertificateRequest(caCertificate, keyFile, request, name)
    this.#add(name, certificate, 'signed')
    return { caCertificate, certificate }
  }

  /** Lets in the one certificate (PEM), whoever issued it. */
  pin(name: string, certificate: string): void {
    if (native.describeCertificate(certificate).notAfter * 1000 <= Date.now())
      throw new VmsealError('VMSEAL_CERTIFICATE_INVALID', 'the certificate has expired')
    this.#add(name, certificate, 'pinned')
  }

  trustAuthority(certificate: string, { commonNames, operations }: AuthorityRule): string {
    checkOperations(operations ?? [])
    const { keyHash, subject } = native.describeCertificate(certificate)
    this.#commit.writeNow(
      () =>
        this.#database
          .prepare(
            `INSERT OR REPLACE INTO authorities (key_hash, pem, common_names, operations, trusted_at)
             VALUES (?, ?, ?, ?, ?)`,
          )
          .run(
            keyHash,
            certificate,
            commonNames ? JSON.stringify(commonNames) : null,
            writeOperations(operations),
            Math.floor(Date.now() / 1000),
          ),
      () => done('TrustAuthority', undefined, subject),
    )
    return keyHash
  }

  /** Its clients are no longer let in; their records and keys stay. */
  distrustAuthority(keyHash: string): void {
    this.#commit.writeNow(
      () => {
        const { changes } = this.#database.prepare('DELETE FROM authorities WHERE key_hash = ?').run(keyHash)
        if (changes === 0) throw new VmsealError('VMSEAL_NOT_FOUND', 'the KMS trusts no such authority')
      },
      () => done('DistrustAuthority', undefined, keyHash),
    )
  }

  authorities(): KmsAuthority[] {
    return this.#rows().map(({ key_hash, pem, common_names, operations, trusted_at }) => {
      const { subject, notAfter } = native.describeCertificate(pem)
      const names = readOperations(common_names)
      const allowed = readOperations(operations) as KmsOperationName[] | undefined
      return {
        keyHash: key_hash,
        subject,
        expires: new Date(notAfter * 1000),
        trustedAt: new Date(trusted_at * 1000),
        ...(names ? { commonNames: names } : {}),
        ...(allowed ? { operations: allowed } : {}),
      }
    })
  }

  /**
   * Whom TLS lets in. Clients of our own are let in by their public keys alone, so that whoever else comes in is under
   * an uploaded authority.
   */
  trust(): { clientAuthorities: string; pinnedClients: string[] } {
    return {
      clientAuthorities: this.#rows()
        .map(({ pem }) => pem)
        .join('\n'),
      pinnedClients: this.#clients.ownKeyHashes(),
    }
  }

  /** The client of a caller: the recorded one, or a new record for one that an uploaded authority vouches for. */
  clientOf({ clientKeyHash, commonName }: KmipCaller): Caller | undefined {
    const known = this.#clients.byKeyHash(clientKeyHash)
    if (known) return known
    const rule = this.#rows().find(({ common_names }) => {
      const names = readOperations(common_names)
      return names === undefined || (commonName !== undefined && names.includes(commonName))
    })
    if (!rule) return undefined
    const label = (commonName ?? 'client').replaceAll(/[^A-Za-z0-9._-]/g, '-').slice(0, 40)
    // Two authorities may use one name: the key tells their clients apart.
    const name = `${label}-${clientKeyHash.slice(0, 16)}`
    const operations = readOperations(rule.operations) as KmsOperationName[] | undefined
    this.#clients.add(name, { keyHash: clientKeyHash, origin: 'authority' }, operations)
    this.#commit.record({ ...done('Admit', name), clientKeyHash })
    return this.#clients.byKeyHash(clientKeyHash)
  }

  #add(name: string, pem: string, origin: CertificateOrigin): void {
    const { keyHash } = native.describeCertificate(pem)
    if (this.#clients.byKeyHash(keyHash))
      throw new VmsealError(
        'VMSEAL_ALREADY_EXISTS',
        'the public key of this certificate is enrolled already',
        {
          details: { subject: keyHash },
        },
      )
    this.#commit.writeNow(
      () => this.#clients.add(name, { keyHash, origin, pem }),
      () => ({ ...done(enrolmentNames[origin], name), clientKeyHash: keyHash }),
    )
  }

  #rows(): AuthorityRow[] {
    return this.#database
      .prepare('SELECT * FROM authorities ORDER BY trusted_at, key_hash')
      .all() as AuthorityRow[]
  }
}

const enrolmentNames = { issued: 'Enrol', signed: 'EnrolRequest', pinned: 'Pin', authority: 'Admit' } as const

/** The record of something that was done at the KMS itself. */
export function done(operation: string, client?: string, message?: string): AuditRecord {
  return {
    time: new Date().toISOString(),
    operation,
    ...(client === undefined ? {} : { client }),
    result: 'Success',
    ...(message === undefined ? {} : { message }),
  }
}

/** Throws VMSEAL_INVALID_ARGUMENT for what is no name of a client. */
export function checkClientName(name: string): void {
  if (typeof name !== 'string' || !/^[A-Za-z0-9._-]{1,64}$/.test(name) || name === '.' || name === '..')
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'a client name is 1 to 64 of A-Z, a-z, 0-9, ".", "_" and "-"',
    )
}

/** A name under which the directory has no key yet: `client`, `client-2`, ... */
function freeStem(directory: string): string {
  for (let number = 1; ; number++) {
    const stem = number === 1 ? 'client' : `client-${number}`
    if (!existsSync(join(directory, `${stem}.key`))) return stem
  }
}
