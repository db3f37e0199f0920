/**
 * One key provider at work: a kept KMIP connection to one of its servers. A KEK passes through as a native handle
 * that the caller disposes of; only its id is known here.
 */
import { VmsealError, isVmsealError, type ErrorCode } from '../errors.js'
import { attributeValue } from '../kmip/attributes.js'
import { KmipClient, type ManagedKey } from '../kmip/client.js'
import type { KeyHandle } from '../native/load.js'
import type { KeyProviderRecord } from '../store/store.js'

/** What a key is made for. Goes to the KMS as `x-` attributes, for its administrator to read. */
export interface KeyPurpose {
  /** Name of the VM. */
  readonly name: string
  /** UUID of the VM. */
  readonly identifier: string
}

/** The KMS made a key, but it cannot be used: nobody will ask for it. */
export class UnusedKeyError extends Error {
  constructor(
    readonly keyId: string,
    readonly reason: unknown,
  ) {
    super(`key ${keyId} was made and cannot be used`)
  }
}

const productAttributes = {
  'x-Vendor': 'vmseal',
  'x-Product': 'vmseal vCenter',
  'x-Product_Version': '0.1.0',
  'x-Component': 'Virtual Machine',
}

export class KeyProvider {
  readonly #record: KeyProviderRecord
  readonly #privateKeyFile: string
  readonly #onUnreachable: (message: string) => Promise<void>
  #client: Promise<KmipClient> | undefined
  #closed = false

  constructor(
    record: KeyProviderRecord,
    privateKeyFile: string,
    onUnreachable: (message: string) => Promise<void>,
  ) {
    this.#record = record
    this.#privateKeyFile = privateKeyFile
    this.#onUnreachable = onUnreachable
  }

  /**
   * Makes and activates an AES-256 key and returns its id. Create is sent once: when its answer is lost, whether
   * there is a key is unknown, and the call fails. Rejects with `UnusedKeyError` if the key cannot be activated.
   */
  async createKey(purpose: KeyPurpose): Promise<string> {
    // A kept connection may have died unnoticed: find out, and connect again, before Create is at stake.
    await this.#retried((client) => client.discoverVersions())
    const { id } = await this.#once((client) => client.create({ algorithm: 'AES', length: 256 }))
    try {
      await this.#activate(id)
    } catch (reason) {
      throw new UnusedKeyError(id, reason)
    }
    await this.#describe(id, purpose)
    return id
  }

  /**
   * The key as a native handle, which the caller disposes of. VMSEAL_KEY_MISSING_IN_KMS, VMSEAL_KEY_NOT_ACTIVE, or
   * VMSEAL_KEY_PROVIDER_UNREACHABLE.
   */
  async fetchKey(keyId: string): Promise<KeyHandle> {
    let managed: ManagedKey
    try {
      managed = await this.#retried((client) => client.get(keyId, { state: true }))
    } catch (error) {
      throw await this.#explain(keyId, error)
    }
    if (managed.state === 'Active') return managed.key
    managed.key.dispose()
    throw this.#notActive(keyId, managed.state)
  }

  async close(): Promise<void> {
    this.#closed = true
    const client = this.#client
    this.#client = undefined
    await client?.then(
      (open) => open.close(),
      () => {},
    )
  }

  /** Not harmful to repeat: a key that became active by a lost request answers so. */
  async #activate(id: string): Promise<void> {
    try {
      await this.#retried((client) => client.activate(id))
    } catch (error) {
      if (!isVmsealError(error, 'VMSEAL_KMIP_OPERATION_FAILED') || (await this.#state(id)) !== 'Active')
        throw error
    }
  }

  /** For people only: a KMS without custom attributes serves as well. */
  async #describe(id: string, purpose: KeyPurpose): Promise<void> {
    const attributes = { ...productAttributes, 'x-Name': purpose.name, 'x-Identifier': purpose.identifier }
    const list = Object.entries(attributes).map(([name, value]) => ({ name, value }))
    try {
      await this.#send((client) => client.tryAddAttributes(id, list))
    } catch (error) {
      if (!isVmsealError(error)) throw error
    }
  }

  async #state(id: string): Promise<unknown> {
    return attributeValue(await this.#retried((client) => client.getAttributes(id, ['State'])), 'State')
  }

  /** Why a Get was refused: servers differ in the reason they give for a key that is destroyed or not active. */
  async #explain(keyId: string, error: unknown): Promise<unknown> {
    if (!isVmsealError(error, 'VMSEAL_KMIP_OPERATION_FAILED')) return error
    if (error.details.resultReason === 'ItemNotFound') return this.#missing(keyId, error)
    const state = await this.#state(keyId).catch(() => undefined)
    if (state === 'Destroyed' || state === 'DestroyedCompromised') return this.#missing(keyId, error)
    return state === undefined || state === 'Active' ? error : this.#notActive(keyId, state)
  }

  #missing(keyId: string, cause: VmsealError): VmsealError {
    const text = `key provider ${this.#record.id} does not know key ${keyId}. Restore it at the KMS under this id`
    return new VmsealError('VMSEAL_KEY_MISSING_IN_KMS', text, { cause, details: { subject: keyId } })
  }

  #notActive(keyId: string, state: unknown): VmsealError {
    const text = `key ${keyId} of key provider ${this.#record.id} is ${String(state)}, not Active`
    return new VmsealError('VMSEAL_KEY_NOT_ACTIVE', text, { details: { subject: keyId } })
  }

  /** For what may be done twice: a lost connection is replaced once. */
  async #retried<Result>(request: (client: KmipClient) => Promise<Result>): Promise<Result> {
    const reused = this.#client !== undefined
    try {
      return await this.#send(request)
    } catch (error) {
      if (!isLost(error)) throw error
      if (!reused) throw await this.#unreachable([error.message], error)
    }
    return this.#once(request)
  }

  async #once<Result>(request: (client: KmipClient) => Promise<Result>): Promise<Result> {
    try {
      return await this.#send(request)
    } catch (error) {
      throw isLost(error) ? await this.#unreachable([error.message], error) : error
    }
  }

  async #send<Result>(request: (client: KmipClient) => Promise<Result>): Promise<Result> {
    if (this.#closed)
      throw new VmsealError('VMSEAL_INVALID_STATE', `key provider ${this.#record.id} is closed`)
    const connecting = (this.#client ??= this.#connect())
    try {
      const client = await connecting
      return await request(client)
    } catch (error) {
      // The connection is of no use after a failure of its own; one that another call made stays.
      const failed = await connecting.then(
        (client) => client.closed,
        () => true,
      )
      if (failed && this.#client === connecting) this.#client = undefined
      throw error
    }
  }

  /** The first server that answers, in the order in which they were given. */
  async #connect(): Promise<KmipClient> {
    const reasons: string[] = []
    let cause: VmsealError | undefined
    const { servers, caCertificate, certificate } = this.#record
    for (const server of servers)
      try {
        const client = await KmipClient.connect({
          ...server,
          caCertificate,
          certificate,
          privateKeyFile: this.#privateKeyFile,
        })
        if (!this.#closed) return client
        client.close()
      } catch (error) {
        if (!isVmsealError(error)) throw error
        reasons.push(`${server.host}:${server.port}: ${error.message}`)
        cause ??= error
      }
    throw await this.#unreachable(reasons, cause)
  }

  async #unreachable(reasons: readonly string[], cause: VmsealError | undefined): Promise<VmsealError> {
    const { id } = this.#record
    const message = `no server of key provider ${id} can be used. ${reasons.join('; ')}`
    await this.#onUnreachable(message)
    return new VmsealError('VMSEAL_KEY_PROVIDER_UNREACHABLE', message, { cause, details: { subject: id } })
  }
}

const lostCodes = new Set<ErrorCode>(['VMSEAL_KMIP_CONNECTION', 'VMSEAL_KMIP_TIMEOUT', 'VMSEAL_KMIP_TLS'])

function isLost(error: unknown): error is VmsealError {
  return isVmsealError(error) && lostCodes.has(error.code)
}
