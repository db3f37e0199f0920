/**
 * One key provider at work: the client side of a KMS cluster. A KEK passes through as a native handle that the caller
 * disposes of; only its id is known here.
 */
import { VmsealError, isVmsealError } from '../errors.js'
import type { KmipClient } from '../kmip/client.js'
import type { KmipCredential } from '../kmip/credential.js'
import type { KeyHandle } from '../native/load.js'
import type { KeyCreationTable, KeyProviderRecord, TrustedServer } from '../store/store.js'
import { Deadline } from './key-provider/deadline.js'
import { KeyCreations, type Creation } from './key-provider/key-creations.js'
import { KeyFetch, type BulkUse } from './key-provider/key-fetch.js'
import { ProviderErrors } from './key-provider/provider-errors.js'
import { NoAnswerError, Replicas, type AskOptions } from './key-provider/replicas.js'
import { KmsServer } from './key-provider/server.js'
import { acceptedCertificates } from './key-provider/server-trust.js'
import { defaultTiming, type KeyProviderTiming } from './key-provider/timing.js'

/** What a key is made for. Goes to the KMS as `x-` attributes, for its administrator to read. */
export interface KeyPurpose {
  /** Name of the VM. */
  readonly name: string
  /** UUID of the VM. */
  readonly identifier: string
  /** Further `x-` attributes. */
  readonly attributes?: Readonly<Record<string, string>>
}

/** There is a key, but it cannot be used now: the next call of `createKey` gets it. */
export class UnusedKeyError extends Error {
  constructor(
    readonly keyId: string,
    readonly reason: unknown,
  ) {
    super(`key ${keyId} was made and cannot be used`)
  }
}

export interface KeyProviderOptions {
  readonly record: KeyProviderRecord
  /** Path of the client's private key. */
  readonly privateKeyFile: string
  readonly creations: KeyCreationTable
  readonly trusted?: readonly TrustedServer[]
  /** User name and password, beside the certificate. */
  readonly credential?: KmipCredential | undefined
  readonly timing?: Partial<KeyProviderTiming>
  readonly clock?: () => Date
  /** No server can be used. */
  /** A server that did not answer does again. */
  readonly onReturn?: () => void
  readonly onUnreachable?: (message: string) => Promise<void>
  /** A server is not the one that is trusted. */
  readonly onDistrust?: (server: string, message: string) => Promise<void>
}

export const productAttributes = {
  'x-Vendor': 'vmseal',
  'x-Product': 'vmseal vCenter',
  'x-Product_Version': '0.1.0',
  'x-Component': 'Virtual Machine',
}

export class KeyProvider {
  readonly id: string
  readonly #replicas: Replicas
  readonly #creations: KeyCreations
  readonly #fetch: KeyFetch
  readonly #errors: ProviderErrors
  readonly #operationTimeoutMs: number
  /** Alarms that are being recorded. */
  #alarms: Promise<unknown> = Promise.resolve()
  #closed = false

  constructor(options: KeyProviderOptions) {
    const { record, privateKeyFile, creations, trusted = [], clock = () => new Date() } = options
    this.id = record.id
    const timing = { ...defaultTiming, ...options.timing }
    this.#operationTimeoutMs = timing.operationTimeoutMs
    this.#errors = new ProviderErrors(record.id, options.onUnreachable ?? (async () => {}))
    const servers = record.servers.map(
      (address) =>
        new KmsServer({
          address,
          identity: {
            accepted: acceptedCertificates(record.caCertificate, trusted, address),
            certificate: record.certificate,
            privateKeyFile,
            ...(options.credential ? { credential: options.credential } : {}),
          },
          timing,
          onReturn: options.onReturn,
          onDistrust: (server, error) => this.#alarm(options.onDistrust?.(server.name, error.message)),
        }),
    )
    this.#replicas = new Replicas(servers, timing.connectTimeoutMs)
    this.#creations = new KeyCreations(record.id, this.#replicas, creations, clock, timing.lateCreateMs)
    this.#fetch = new KeyFetch(this.#replicas, this.#errors, timing.hedgeDelayMs)
  }

  /**
   * Makes and activates an AES-256 key and returns its id. A lost answer is no reason for a second key: see
   * key-creations.ts. Rejects with `UnusedKeyError` if there is a key that cannot be activated,
   * VMSEAL_KEY_PROVIDER_UNREACHABLE, or VMSEAL_KMIP_OPERATION_FAILED.
   */
  async createKey(purpose: KeyPurpose): Promise<string> {
    const deadline = this.#begin()
    for (;;) {
      const creation = await this.#create(deadline)
      try {
        await this.#activate(creation, deadline)
      } catch (reason) {
        // A key of an earlier call may have been revoked meanwhile.
        if (creation.adopted && isVmsealError(reason, 'VMSEAL_KMIP_OPERATION_FAILED')) {
          await this.#creations.used(creation)
          continue
        }
        await this.#creations.leave(creation)
        throw new UnusedKeyError(creation.keyId, reason)
      }
      await this.#creations.used(creation)
      await this.#describe(creation, purpose, deadline)
      return creation.keyId
    }
  }

  /**
   * The key as a native handle, which the caller disposes of. VMSEAL_KEY_MISSING_IN_KMS when every server says so,
   * VMSEAL_KEY_NOT_ACTIVE, or VMSEAL_KEY_PROVIDER_UNREACHABLE.
   */
  fetchKey(keyId: string): Promise<KeyHandle> {
    return this.#within((deadline) => this.#fetch.fetch(keyId, deadline))
  }

  /**
   * Many keys, many in one message. Returns why for those that cannot be had: the codes of `fetchKey`, and what `use`
   * rejects with. Each message has a deadline of its own.
   */
  fetchKeys(
    keyIds: readonly string[],
    use: BulkUse['use'],
    pageDone?: BulkUse['pageDone'],
  ): Promise<Map<string, VmsealError>> {
    return this.#fetch.fetchMany(keyIds, pageDone ? { use, pageDone } : { use }, () => this.#begin())
  }

  /** The KMIP state of a key, or why it is not known: the codes of `fetchKey`. Never fetches the key. */
  keyState(keyId: string): Promise<unknown> {
    return this.#within((deadline) => this.#fetch.state(keyId, deadline))
  }

  /** For what may be asked of any server and more than once. VMSEAL_KEY_PROVIDER_UNREACHABLE or the first refusal. */
  async ask<Result>(
    request: (client: KmipClient) => Promise<Result>,
    options: AskOptions<Result> = {},
  ): Promise<Result> {
    try {
      return await this.#replicas.first(request, this.#begin(), options)
    } catch (error) {
      throw error instanceof NoAnswerError ? await this.#errors.refusalOrUnreachable(error) : error
    }
  }

  /** How many Creates are unclear or left a key that waits for its use. */
  unusedCreations(): Promise<number> {
    return this.#creations.countUnclear()
  }

  /** What is on its way is given up; alarms are recorded. */
  async close(): Promise<void> {
    this.#closed = true
    this.#replicas.close()
    await this.#alarms
  }

  /** Nobody who asks for a key waits for it. */
  #alarm(recording: Promise<void> | undefined): void {
    const recorded = (recording ?? Promise.resolve()).catch((error: unknown) => {
      if (!isVmsealError(error)) throw error
    })
    this.#alarms = Promise.all([this.#alarms, recorded])
  }

  async #within<Result>(work: (deadline: Deadline) => Promise<Result>): Promise<Result> {
    return work(this.#begin())
  }

  #begin(): Deadline {
    if (this.#closed) throw new VmsealError('VMSEAL_INVALID_STATE', `key provider ${this.id} is closed`)
    return Deadline.after(this.#operationTimeoutMs)
  }

  async #create(deadline: Deadline): Promise<Creation> {
    try {
      return await this.#creations.create(deadline)
    } catch (error) {
      throw error instanceof NoAnswerError ? await this.#errors.refusalOrUnreachable(error) : error
    }
  }

  /** Not harmful to repeat: a key that became active by a lost request answers so. */
  async #activate({ keyId, server }: Creation, deadline: Deadline): Promise<void> {
    try {
      await this.#replicas.first((client) => client.activate(keyId), deadline, { prefer: server })
    } catch (error) {
      if (!(error instanceof NoAnswerError)) throw error
      if (!error.failures.some((failure) => failure.refused)) throw await this.#errors.unreachable(error)
      // Only with the state is it clear whether the refusal is of any weight.
      const state = await this.#fetch.askState(keyId, deadline).catch(async (unknown: unknown) => {
        throw unknown instanceof NoAnswerError ? await this.#errors.unreachable(unknown) : unknown
      })
      if (state !== 'Active') throw await this.#errors.refusalOrUnreachable(error)
    }
  }

  /** For people only: a KMS without custom attributes serves as well. */
  async #describe({ keyId, server }: Creation, purpose: KeyPurpose, deadline: Deadline): Promise<void> {
    const attributes = {
      ...productAttributes,
      'x-Name': purpose.name,
      'x-Identifier': purpose.identifier,
      ...purpose.attributes,
    }
    const list = Object.entries(attributes)
      .filter(([, value]) => value !== '')
      .map(([name, value]) => ({ name, value }))
    try {
      await this.#replicas.first((client) => client.tryAddAttributes(keyId, list), deadline, {
        prefer: server,
      })
    } catch (error) {
      if (!(error instanceof NoAnswerError)) throw error
    }
  }
}
