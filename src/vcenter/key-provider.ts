/**
 * One key provider at work: the client side of a KMS cluster. A KEK passes through as a native handle that the caller
 * disposes of; only its id is known here.
 */
import { VmsealError, isVmsealError } from '../errors.js'
import { attributeValue } from '../kmip/attributes.js'
import type { KmipClient, ManagedKey } from '../kmip/client.js'
import type { KmipCredential } from '../kmip/credential.js'
import type { KeyHandle } from '../native/load.js'
import type { KeyCreationTable, KeyProviderRecord, TrustedServer } from '../store/store.js'
import { Deadline } from './key-provider/deadline.js'
import { KeyCreations, type Creation } from './key-provider/key-creations.js'
import { NoAnswerError, Replicas, type AskOptions } from './key-provider/replicas.js'
import { KmsServer, type ServerFailure } from './key-provider/server.js'
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

/** Keys in one message, and messages at once, of `fetchKeys`. */
const fetchedTogether = 32
const pagesAtOnce = 4

export class KeyProvider {
  readonly id: string
  readonly #replicas: Replicas
  readonly #creations: KeyCreations
  readonly #timing: KeyProviderTiming
  readonly #onUnreachable: (message: string) => Promise<void>
  #closed = false

  constructor(options: KeyProviderOptions) {
    const { record, privateKeyFile, creations, trusted = [], clock = () => new Date() } = options
    this.id = record.id
    this.#timing = { ...defaultTiming, ...options.timing }
    this.#onUnreachable = options.onUnreachable ?? (async () => {})
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
          timing: this.#timing,
          onDistrust: (server, error) => void options.onDistrust?.(server.name, error.message),
        }),
    )
    this.#replicas = new Replicas(servers, this.#timing.connectTimeoutMs)
    this.#creations = new KeyCreations(record.id, this.#replicas, creations, clock, this.#timing.lateCreateMs)
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
  async fetchKey(keyId: string): Promise<KeyHandle> {
    const deadline = this.#begin()
    const { hedgeDelayMs } = this.#timing
    try {
      const { key } = await this.#replicas.first((client) => client.get(keyId, { state: true }), deadline, {
        hedgeDelayMs,
        reject: ({ state }: ManagedKey) => (state === 'Active' ? undefined : this.#notActive(keyId, state)),
        discard: (managed) => managed.key.dispose(),
      })
      return key
    } catch (error) {
      if (error instanceof NoAnswerError) throw await this.#explain(keyId, error, deadline)
      throw error
    }
  }

  /**
   * Many keys, several in one message: `use` gets each as a handle that is wiped when it is done. Returns why for those
   * that cannot be had: the codes of `fetchKey`, which is asked for each of them again.
   */
  async fetchKeys(
    keyIds: readonly string[],
    use: (keyId: string, key: KeyHandle) => Promise<void> | void,
  ): Promise<Map<string, VmsealError>> {
    const failures = new Map<string, VmsealError>()
    const pages = Array.from({ length: Math.ceil(keyIds.length / fetchedTogether) }, (_, page) =>
      keyIds.slice(page * fetchedTogether, (page + 1) * fetchedTogether),
    )
    const work = async (): Promise<void> => {
      for (let page = pages.shift(); page; page = pages.shift()) {
        const handles = await this.#fetchPage(page)
        try {
          for (const [index, keyId] of page.entries()) {
            try {
              const key = handles[index] ?? (await this.fetchKey(keyId))
              handles[index] = key
              await use(keyId, key)
            } catch (error) {
              if (!isVmsealError(error)) throw error
              failures.set(keyId, error)
            }
          }
        } finally {
          disposeAll(handles)
        }
      }
    }
    await Promise.all(Array.from({ length: pagesAtOnce }, work))
    return failures
  }

  /** The KMIP state of a key, or why it is not known: the codes of `fetchKey`. Never fetches the key. */
  async keyState(keyId: string): Promise<unknown> {
    const deadline = this.#begin()
    try {
      return await this.#stateOf(keyId, deadline)
    } catch (error) {
      if (error instanceof NoAnswerError) throw await this.#explain(keyId, error, deadline)
      throw error
    }
  }

  /** For what may be asked of any server and more than once. VMSEAL_KEY_PROVIDER_UNREACHABLE or the first refusal. */
  async ask<Result>(
    request: (client: KmipClient) => Promise<Result>,
    options: AskOptions<Result> = {},
  ): Promise<Result> {
    try {
      return await this.#replicas.first(request, this.#begin(), options)
    } catch (error) {
      throw error instanceof NoAnswerError ? await this.#explainAll(error) : error
    }
  }

  /** How many Creates are unclear or left a key that waits for its use. */
  unusedCreations(): Promise<number> {
    return this.#creations.countUnclear()
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#replicas.close()
  }

  /** The keys of one message; absent: not to be had so. */
  async #fetchPage(keyIds: readonly string[]): Promise<(KeyHandle | undefined)[]> {
    const requests = keyIds.flatMap((id) => [
      { operation: 'Get' as const, request: { id } },
      { operation: 'GetAttributes' as const, request: { id, names: ['State'] } },
    ])
    const ask = async (client: KmipClient): Promise<(KeyHandle | undefined)[]> => {
      const answers = await client.batch(requests)
      return keyIds.map((_, index) => {
        const [get, state] = [answers[2 * index], answers[2 * index + 1]]
        const key = get?.status === 'fulfilled' && 'key' in get.value ? get.value.key : undefined
        if (!key) return undefined
        const attributes =
          state?.status === 'fulfilled' && 'attributes' in state.value ? state.value.attributes : []
        if (attributeValue(attributes, 'State') === 'Active') return key
        key.dispose()
        return undefined
      })
    }
    const { hedgeDelayMs } = this.#timing
    try {
      return await this.#replicas.first(ask, this.#begin(), { hedgeDelayMs, discard: disposeAll })
    } catch (error) {
      if (error instanceof NoAnswerError) return []
      throw error
    }
  }

  #begin(): Deadline {
    if (this.#closed) throw new VmsealError('VMSEAL_INVALID_STATE', `key provider ${this.id} is closed`)
    return Deadline.after(this.#timing.operationTimeoutMs)
  }

  async #create(deadline: Deadline): Promise<Creation> {
    try {
      return await this.#creations.create(deadline)
    } catch (error) {
      throw error instanceof NoAnswerError ? await this.#explainAll(error) : error
    }
  }

  /** Not harmful to repeat: a key that became active by a lost request answers so. */
  async #activate({ keyId, server }: Creation, deadline: Deadline): Promise<void> {
    try {
      await this.#replicas.first((client) => client.activate(keyId), deadline, { prefer: server })
    } catch (error) {
      if (!(error instanceof NoAnswerError)) throw error
      if (!error.failures.some((failure) => failure.refused)) throw await this.#unreachable(error)
      // Only with the state is it clear whether the refusal is of any weight.
      const state = await this.#stateOf(keyId, deadline).catch((unknown: unknown) =>
        unknown instanceof NoAnswerError ? this.#unreachable(unknown) : Promise.reject(unknown as Error),
      )
      if (state instanceof VmsealError) throw state
      if (state !== 'Active') throw await this.#explainAll(error)
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

  async #stateOf(keyId: string, deadline: Deadline): Promise<unknown> {
    const { hedgeDelayMs } = this.#timing
    const attributes = await this.#replicas.first(
      (client) => client.getAttributes(keyId, ['State']),
      deadline,
      { hedgeDelayMs },
    )
    return attributeValue(attributes, 'State')
  }

  /** Why no server gave the key: servers differ in the reason they give for one that is destroyed or not active. */
  async #explain(keyId: string, none: NoAnswerError, deadline: Deadline): Promise<VmsealError> {
    const inactive = none.failures.find(({ cause }) => cause.code === 'VMSEAL_KEY_NOT_ACTIVE')
    if (inactive) return inactive.cause
    const refusal = none.failures.find(
      (failure) => failure.refused && failure.resultReason !== 'ItemNotFound',
    )
    if (refusal) {
      const state = await this.#stateOf(keyId, deadline).catch(() => undefined)
      if (state === 'Destroyed' || state === 'DestroyedCompromised') return this.#missing(keyId, refusal)
      return state === undefined || state === 'Active' ? refusal.cause : this.#notActive(keyId, state)
    }
    // One that does not answer may have it.
    const [first] = none.failures
    return first && none.failures.every((failure) => failure.refused)
      ? this.#missing(keyId, first)
      : this.#unreachable(none)
  }

  /** The first refusal of a server that answers, else unreachable. */
  async #explainAll(none: NoAnswerError): Promise<VmsealError> {
    return none.failures.find((failure) => failure.refused)?.cause ?? (await this.#unreachable(none))
  }

  #missing(keyId: string, { cause }: ServerFailure): VmsealError {
    const text = `key provider ${this.id} does not know key ${keyId}. Restore it at the KMS under this id`
    return new VmsealError('VMSEAL_KEY_MISSING_IN_KMS', text, { cause, details: { subject: keyId } })
  }

  #notActive(keyId: string, state: unknown): VmsealError {
    const text = `key ${keyId} of key provider ${this.id} is ${String(state)}, not Active`
    return new VmsealError('VMSEAL_KEY_NOT_ACTIVE', text, { details: { subject: keyId } })
  }

  async #unreachable({ failures, message: reasons }: NoAnswerError): Promise<VmsealError> {
    const message = `no server of key provider ${this.id} can be used. ${reasons}`
    await this.#onUnreachable(message)
    const lost = failures.find((failure) => !failure.refused)
    return new VmsealError('VMSEAL_KEY_PROVIDER_UNREACHABLE', message, {
      cause: lost?.cause,
      details: { subject: this.id },
    })
  }
}

function disposeAll(keys: readonly (KeyHandle | undefined)[]): void {
  for (const key of keys) key?.dispose()
}
