/**
 * The embedded KMS: a KMIP server with its own authority and a store of sealed keys in one directory. One short method for each order
 * of an administrator, so this file is as long as that list.
 */
import { EventEmitter } from 'node:events'
import { join, resolve } from 'node:path'
import { VmsealError } from '../errors.js'
import { KmipListening } from '../kmip/listener.js'
import type { RejectedConnection } from '../kmip/listener.js'
import type { OperationRecord } from '../kmip/server.js'
import { AuditLog } from './audit-log.js'
import type { AuditHead, AuditRecord } from './audit-log.js'
import { verifyAudit, verifyServedAudit } from './audit-verification.js'
import type { AuditVerification } from './audit-verification.js'
import { restoreBackup, writeBackup } from './backup.js'
import type { RestoreOptions } from './backup.js'
import { Clients } from './clients.js'
import type { KmsClient, KmsGrant } from './clients.js'
import { closeDatabase, openDatabase } from './database.js'
import type { KmsDatabase } from './database.js'
import { DurableServer } from './durable-server.js'
import { Enrolment, checkClientName, done } from './enrolment.js'
import type { AuthorityRule, KmsAuthority, KmsCredentials } from './enrolment.js'
import { Facts } from './facts.js'
import { fileError } from './file-error.js'
import { GroupCommit } from './group-commit.js'
import {
  auditFile,
  openAuthority,
  openServerCertificate,
  prepareDirectory,
  storeFile,
  syncDirectory,
} from './installation.js'
import { Keys } from './keys.js'
import { checkOperations } from './permissions.js'
import type { KmsOperationName } from './permissions.js'
import { RootKeys } from './root-keys.js'
import { KeyService } from './service.js'
import { verifyStore } from './store-verification.js'
import type { StoreVerification } from './store-verification.js'

export type { KmsCredentials } from './enrolment.js'

export interface KmsOptions {
  /** Holds everything of this KMS; made when it is missing. */
  readonly directory: string
  /** Address to listen on; default 127.0.0.1. */
  readonly host?: string
  /** Default 0: the system chooses. */
  readonly port?: number
  /**
   * The root key is opened with this (Argon2id) instead of lying in a file: chosen at the first start, wanted at every
   * other. Wiped.
   */
  readonly passphrase?: Uint8Array
}

export interface KmsEndpoint {
  readonly host: string
  readonly port: number
}

/** An operation that was done or refused. */
export interface KmsOperation {
  readonly time: Date
  /** KMIP name of the operation; `Message` for one that could not be read as a whole. */
  readonly operation: string
  /** Absent for a certificate that is not enrolled. */
  readonly clientName?: string
  readonly keyId?: string
  /** `Success` or the KMIP result reason. */
  readonly result: string
}

/** Characters of a key id in the audit log: it may be anything that a client asked for. */
const longestId = 256

/** Emits `operation` before each answer leaves, and `rejected` for a connection that was not let in. */
export class Kms extends EventEmitter<{ operation: [KmsOperation]; rejected: [RejectedConnection] }> {
  readonly #directory: string
  readonly #host: string
  readonly #database: KmsDatabase
  readonly #facts: Facts
  readonly #clients: Clients
  readonly #enrolment: Enrolment
  readonly #keys: Keys
  readonly #roots: RootKeys
  readonly #audit: AuditLog
  readonly #commit: GroupCommit
  readonly #serving: KmipListening
  #moving: Promise<void> = Promise.resolve()
  #isStopping = false
  #stopped: Promise<void> | undefined

  /**
   * Makes what is missing on the first start and serves at once. Rejects with VMSEAL_FILE_LOCKED while another process
   * serves the directory, VMSEAL_STORE_INVALID when something of it is missing or damaged, VMSEAL_ALREADY_EXISTS when
   * the directory holds something else, VMSEAL_INVALID_ARGUMENT (subject `passphrase`) for a wrong passphrase.
   */
  static async start(options: KmsOptions): Promise<Kms> {
    const directory = resolve(options.directory)
    const opened: (() => void)[] = []
    try {
      prepareDirectory(directory)
      const database = openDatabase(join(directory, storeFile))
      opened.push(() => closeDatabase(database))
      const facts = new Facts(database)
      const roots = await RootKeys.open(directory, facts, options.passphrase)
      opened.push(() => roots.dispose())
      const audit = AuditLog.open(join(directory, auditFile), facts.getJson<AuditHead>('audit-head'))
      opened.push(() => void audit.close())
      return new Kms(options, directory, { database, facts, roots, audit })
    } catch (error) {
      options.passphrase?.fill(0)
      for (const close of opened.toReversed()) close()
      throw fileError(error)
    }
  }

  /**
   * Looks for any change, removal, insertion, reordering or truncation of the audit log. While a KMS serves the
   * directory a missing end is not found: ask the method of that KMS.
   */
  static verifyAudit(directory: string): Promise<AuditVerification> {
    return verifyAudit(resolve(directory))
  }

  /** Makes the directory of a KMS from a backup; nothing is left behind if it fails. */
  static async restore(file: string, options: RestoreOptions): Promise<void> {
    try {
      await restoreBackup(resolve(file), { ...options, directory: resolve(options.directory) })
    } catch (error) {
      throw fileError(error)
    }
  }

  private constructor({ host = '127.0.0.1', port = 0 }: KmsOptions, directory: string, open: OpenStore) {
    super()
    this.#directory = directory
    this.#host = host
    this.#database = open.database
    this.#facts = open.facts
    this.#roots = open.roots
    this.#audit = open.audit
    this.#commit = new GroupCommit(open.database, open.audit)
    const authority = openAuthority(directory, open.facts)
    const server = openServerCertificate(directory, open.facts, authority, host)
    this.#clients = new Clients(open.database, this.#commit)
    this.#keys = new Keys(open.database, this.#commit)
    this.#enrolment = new Enrolment(this.#clients, open.database, this.#commit, authority)
    syncDirectory(directory)
    const service = new KeyService(this.#keys, this.#enrolment, open.roots.records)
    const kmip = new DurableServer(
      service,
      {
        vendorIdentification: 'vmseal',
        authenticate: (caller) => void service.authenticate(caller),
        observe: (record) => this.#observe(record),
      },
      this.#commit,
    )
    this.#serving = KmipListening.start(
      kmip,
      {
        host,
        port,
        certificate: server.certificate,
        privateKeyFile: server.privateKeyFile,
        ...this.#enrolment.trust(),
      },
      (rejection) => this.#emit(() => this.emit('rejected', rejection)),
    )
    // A replacement of the root key that a crash broke off goes on.
    if (open.roots.isMoving) this.#move().catch(() => {})
  }

  get endpoint(): KmsEndpoint {
    return { host: this.#host, port: this.#serving.port }
  }

  /** The clients in order of their names. */
  get clients(): readonly KmsClient[] {
    return this.#clients.list()
  }

  /** The authorities that were uploaded. */
  get authorities(): readonly KmsAuthority[] {
    return this.#enrolment.authorities()
  }

  get grants(): readonly KmsGrant[] {
    return this.#clients.grants()
  }

  /**
   * Issues a certificate for the client `name`, which is made if it is new; its earlier certificates stay good. The key
   * and copies of both certificates go to `directory`, default `issued/<name>` of the KMS.
   */
  async enrol(name: string, options: { readonly directory?: string } = {}): Promise<KmsCredentials> {
    checkClientName(name)
    const directory = resolve(options.directory ?? join(this.#directory, 'issued', name))
    return this.#enrolled(name, () => this.#enrolment.issue(name, directory))
  }

  /**
   * Signs the certificate signing request (PEM) of the client `name`: its certificate and that of the authority, PEM.
   * Rejects with VMSEAL_CERTIFICATE_INVALID, VMSEAL_ALREADY_EXISTS for a public key that is enrolled.
   */
  async enrolRequest(
    name: string,
    request: string,
  ): Promise<Pick<KmsCredentials, 'caCertificate' | 'certificate'>> {
    return this.#enrolled(name, () => this.#enrolment.sign(name, request))
  }

  /** Lets in the client `name` with this one certificate (PEM), whoever issued it, until it expires. */
  async pin(name: string, certificate: string): Promise<void> {
    this.#enrolled(name, () => this.#enrolment.pin(name, certificate))
  }

  /**
   * Lets in whoever has a certificate of this authority (PEM) and fits the rule. A client is recorded at its first
   * message, named after its common name and its public key. The answer is what `distrustAuthority` takes.
   */
  async trustAuthority(certificate: string, rule: AuthorityRule = {}): Promise<string> {
    const keyHash = this.#enrolment.trustAuthority(certificate, rule)
    this.#setTrust()
    return keyHash
  }

  /** Closes the connections of its clients. Throws VMSEAL_NOT_FOUND. */
  distrustAuthority(keyHash: string): void {
    this.#enrolment.distrustAuthority(keyHash)
    this.#setTrust()
  }

  /** Refuses a client from now on, on its open connections too. Its keys stay. */
  disable(name: string): void {
    this.#administer(done('Disable', name), () => this.#clients.setEnabled(name, false))
    for (const keyHash of this.#clients.keyHashes(name)) this.#serving.disconnect(keyHash)
  }

  enable(name: string): void {
    this.#administer(done('Enable', name), () => this.#clients.setEnabled(name, true))
  }

  /** What a client may do from its next request on; undefined: all. DiscoverVersions and Query are always allowed. */
  allow(name: string, operations: readonly KmsOperationName[] | undefined): void {
    checkOperations(operations ?? [])
    this.#administer(done('Allow', name, operations?.join(' ') ?? 'all'), () =>
      this.#clients.setOperations(name, operations),
    )
  }

  /** Lets a client use a key of another, or `all` keys, for these operations. An earlier grant of it is replaced. */
  grant(keyId: string, client: string, operations: readonly KmsOperationName[]): void {
    checkOperations(operations)
    if (operations.length === 0)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'a grant names at least one operation')
    if (!this.#clients.has(client)) throw notFound(`there is no client ${client}`, client)
    if (keyId !== 'all' && !this.#keys.find(keyId)) throw notFound(`there is no key ${keyId}`, keyId)
    this.#administer({ ...done('Grant', client, operations.join(' ')), keyId }, () =>
      this.#clients.grant({ client, keyId, operations }),
    )
  }

  /** Throws VMSEAL_NOT_FOUND. */
  revokeGrant(keyId: string, client: string): void {
    this.#administer({ ...done('RevokeGrant', client), keyId: keyId.slice(0, longestId) }, () =>
      this.#clients.revokeGrant(client, keyId),
    )
  }

  /**
   * Seals every record under a new root key while it serves. Rejects with VMSEAL_SEALED_RECORD_INVALID when a record
   * does not open; the old root key is kept then. After a crash the next start goes on with it.
   */
  async rotateRootKey(): Promise<void> {
    await this.#moving.catch(() => {})
    if (!this.#roots.isMoving) this.#roots.begin(this.#commit)
    await this.#move()
  }

  /** What the static method finds, while this KMS serves: up to the last record of now. */
  async verifyAudit(): Promise<AuditVerification> {
    await this.#commit.drain()
    return verifyServedAudit(this.#directory, this.#facts)
  }

  /** Opens every record of the store and names those that do not open. */
  verify(): Promise<StoreVerification> {
    return verifyStore(this.#keys, this.#roots.records)
  }

  /**
   * Writes an encrypted backup to a new file: keys, attributes, clients, the authority, the head of the audit log. With
   * a passphrase (wiped) it needs nothing else to be restored, without one it needs the root key.
   */
  async backup(file: string, passphrase?: Uint8Array): Promise<void> {
    await this.#moving.catch(() => {})
    const target = resolve(file)
    this.#administer(done('Backup', undefined, target), () => {})
    try {
      await writeBackup(target, {
        directory: this.#directory,
        database: this.#database,
        facts: this.#facts,
        roots: this.#roots,
        ...(passphrase ? { passphrase } : {}),
      })
    } catch (error) {
      throw fileError(error)
    }
  }

  /** Closes every connection and the store. Idempotent. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop()
    return this.#stopped
  }

  #enrolled<T>(name: string, enrol: () => T): T {
    checkClientName(name)
    try {
      const result = enrol()
      this.#setTrust()
      return result
    } catch (error) {
      throw fileError(error)
    }
  }

  #administer(record: AuditRecord, work: () => void): void {
    this.#commit.writeNow(work, () => record)
  }

  #setTrust(): void {
    const { clientAuthorities, pinnedClients } = this.#enrolment.trust()
    this.#serving.setTrust(clientAuthorities, pinnedClients)
  }

  #move(): Promise<void> {
    this.#moving = this.#roots.move(this.#keys, this.#commit, () => this.#isStopping)
    return this.#moving
  }

  async #stop(): Promise<void> {
    this.#isStopping = true
    await this.#serving.stop()
    await this.#moving.catch(() => {})
    try {
      await this.#commit.drain()
    } finally {
      this.#facts.putJson('audit-head', this.#audit.close())
      this.#roots.dispose()
      closeDatabase(this.#database)
    }
  }

  #observe({ operation, caller, version, id, result, message }: OperationRecord): void {
    const time = new Date()
    const clientName = this.#clients.byKeyHash(caller.clientKeyHash)?.name
    this.#commit.record({
      time: time.toISOString(),
      operation,
      client: clientName,
      clientKeyHash: caller.clientKeyHash,
      address: caller.remoteAddress,
      keyId: id?.slice(0, longestId),
      protocolVersion: version,
      result,
      message,
    })
    if (this.listenerCount('operation') === 0) return
    this.#emit(() =>
      this.emit('operation', {
        time,
        operation,
        ...(clientName === undefined ? {} : { clientName }),
        ...(id === undefined ? {} : { keyId: id }),
        result,
      }),
    )
  }

  /** A listener's fault is its own: it must not change what the client is told. */
  #emit(emit: () => void): void {
    try {
      emit()
    } catch (error) {
      process.nextTick(() => {
        throw error
      })
    }
  }
}

interface OpenStore {
  readonly database: KmsDatabase
  readonly facts: Facts
  readonly roots: RootKeys
  readonly audit: AuditLog
}

function notFound(message: string, subject: string): VmsealError {
  return new VmsealError('VMSEAL_NOT_FOUND', message, { details: { subject } })
}
