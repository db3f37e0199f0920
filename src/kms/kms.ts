/** The embedded KMS: a KMIP server with its own authority and a store of sealed keys in one directory. */
import { EventEmitter } from 'node:events'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { VmsealError, isVmsealError } from '../errors.js'
import { native } from '../native/load.js'
import { KmipListening } from '../kmip/listener.js'
import { KmipServer } from '../kmip/server.js'
import type { OperationRecord } from '../kmip/server.js'
import { AuditLog } from './audit-log.js'
import { Clients } from './clients.js'
import type { KmsClient } from './clients.js'
import { closeDatabase, openDatabase } from './database.js'
import type { KmsDatabase } from './database.js'
import { Facts } from './facts.js'
import {
  openAuthority,
  openRoot,
  openServerCertificate,
  prepareDirectory,
  storeFile,
  syncDirectory,
} from './installation.js'
import type { Authority } from './installation.js'
import { Keys } from './keys.js'
import type { SealedRecords } from './sealed-records.js'
import { KeyService } from './service.js'

export interface KmsOptions {
  /** Holds everything of this KMS; made when it is missing. */
  readonly directory: string
  /** Address to listen on; default 127.0.0.1. */
  readonly host?: string
  /** Default 0: the system chooses. */
  readonly port?: number
}

export interface KmsEndpoint {
  readonly host: string
  readonly port: number
}

/** What a client needs to connect, besides the endpoint. */
export interface KmsCredentials {
  /** PEM of the authority that the server's certificate is under. */
  readonly caCertificate: string
  /** PEM. */
  readonly certificate: string
  /** Mode 0600. */
  readonly privateKeyFile: string
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

/** Emits `operation` before each answer leaves. */
export class Kms extends EventEmitter<{ operation: [KmsOperation] }> {
  readonly #directory: string
  readonly #host: string
  readonly #database: KmsDatabase
  readonly #clients: Clients
  readonly #authority: Authority
  readonly #records: SealedRecords
  readonly #audit: AuditLog
  readonly #listening: KmipListening
  #stopped: Promise<void> | undefined

  /**
   * Makes what is missing on the first start and serves at once. Rejects with VMSEAL_FILE_LOCKED while another process
   * serves the directory, VMSEAL_STORE_INVALID when something of it is missing or damaged, VMSEAL_ALREADY_EXISTS when
   * the directory holds something else.
   */
  static async start(options: KmsOptions): Promise<Kms> {
    try {
      return new Kms(options)
    } catch (error) {
      throw fileError(error)
    }
  }

  private constructor({ directory, host = '127.0.0.1', port = 0 }: KmsOptions) {
    super()
    this.#directory = resolve(directory)
    this.#host = host
    prepareDirectory(this.#directory)
    const opened: (() => void)[] = []
    try {
      this.#database = openDatabase(join(this.#directory, storeFile))
      opened.push(() => closeDatabase(this.#database))
      const facts = new Facts(this.#database)
      this.#records = openRoot(this.#directory, facts)
      opened.push(() => this.#records.dispose())
      this.#authority = openAuthority(this.#directory, facts)
      const server = openServerCertificate(this.#directory, facts, this.#authority, host)
      this.#clients = new Clients(this.#database)
      this.#audit = new AuditLog(join(this.#directory, 'audit.log'))
      opened.push(() => this.#audit.close())
      syncDirectory(this.#directory)
      const service = new KeyService(new Keys(this.#database), this.#clients, this.#records)
      const kmip = new KmipServer(service, {
        vendorIdentification: 'vmseal',
        authenticate: ({ clientKeyHash }) => void service.authenticate(clientKeyHash),
        observe: (record) => this.#observe(record),
      })
      this.#listening = KmipListening.start(kmip, {
        host,
        port,
        certificate: server.certificate,
        privateKeyFile: server.privateKeyFile,
        clientAuthorities: this.#authority.certificate,
        pinnedClients: [],
      })
    } catch (error) {
      for (const close of opened.toReversed()) close()
      throw error
    }
  }

  get endpoint(): KmsEndpoint {
    return { host: this.#host, port: this.#listening.port }
  }

  /** The clients in order of their names. */
  get clients(): readonly KmsClient[] {
    return this.#clients.list()
  }

  /**
   * Issues a certificate for the client `name`, which is made if it is new; its earlier certificates stay good. The key
   * and copies of both certificates go to `directory`, default `issued/<name>` of the KMS.
   */
  async enrol(name: string, options: { readonly directory?: string } = {}): Promise<KmsCredentials> {
    if (!/^[A-Za-z0-9._-]{1,64}$/.test(name) || name === '.' || name === '..')
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        'a client name is 1 to 64 of A-Z, a-z, 0-9, ".", "_" and "-"',
      )
    try {
      return this.#issue(name, resolve(options.directory ?? join(this.#directory, 'issued', name)))
    } catch (error) {
      throw fileError(error)
    }
  }

  /** Refuses a client from now on, on its open connections too. Its keys stay. */
  disable(name: string): void {
    this.#setEnabled(name, false)
    for (const keyHash of this.#clients.keyHashes(name)) this.#listening.disconnect(keyHash)
  }

  enable(name: string): void {
    this.#setEnabled(name, true)
  }

  /** Closes every connection and the store. Idempotent. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop()
    return this.#stopped
  }

  #issue(name: string, directory: string): KmsCredentials {
    mkdirSync(directory, { recursive: true, mode: 0o700 })
    const stem = freeStem(directory)
    const privateKeyFile = join(directory, `${stem}.key`)
    const { certificate: caCertificate, keyFile } = this.#authority
    const certificate = native.issueClientCertificate(caCertificate, keyFile, name, privateKeyFile)
    writeFileSync(join(directory, `${stem}.pem`), certificate)
    writeFileSync(join(directory, 'ca.pem'), caCertificate)
    this.#clients.add(name, native.describeCertificate(certificate).keyHash, certificate)
    return { caCertificate, certificate, privateKeyFile }
  }

  async #stop(): Promise<void> {
    await this.#listening.stop()
    this.#records.dispose()
    this.#audit.close()
    closeDatabase(this.#database)
  }

  #setEnabled(name: string, enabled: boolean): void {
    if (!this.#clients.setEnabled(name, enabled))
      throw new VmsealError('VMSEAL_NOT_FOUND', `there is no client ${name}`, { details: { subject: name } })
  }

  #observe({ operation, caller, version, id, result, message }: OperationRecord): void {
    const time = new Date()
    const clientName = this.#clients.byKeyHash(caller.clientKeyHash)?.name
    this.#audit.append({
      time: time.toISOString(),
      operation,
      ...(clientName === undefined ? {} : { client: clientName }),
      clientKeyHash: caller.clientKeyHash,
      ...(id === undefined ? {} : { keyId: id }),
      protocolVersion: version,
      result,
      ...(message === undefined ? {} : { message }),
    })
    try {
      this.emit('operation', {
        time,
        operation,
        ...(clientName === undefined ? {} : { clientName }),
        ...(id === undefined ? {} : { keyId: id }),
        result,
      })
    } catch (error) {
      // A listener's fault is its own: it must not change what the client is told.
      process.nextTick(() => {
        throw error
      })
    }
  }
}

/** What the file system refuses, in the words of this package. */
function fileError(error: unknown): unknown {
  if (!(error instanceof Error) || isVmsealError(error)) return error
  const { code, path } = error as NodeJS.ErrnoException
  if (code === undefined || path === undefined) return error
  const denied = code === 'EACCES' || code === 'EPERM'
  return new VmsealError(denied ? 'VMSEAL_PERMISSION_DENIED' : 'VMSEAL_IO', error.message, {
    cause: error,
    details: { subject: path },
  })
}

/** A name under which the directory has no key yet: `client`, `client-2`, ... */
function freeStem(directory: string): string {
  for (let number = 1; ; number++) {
    const stem = number === 1 ? 'client' : `client-${number}`
    if (!existsSync(join(directory, `${stem}.key`))) return stem
  }
}
