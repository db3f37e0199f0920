/** A KMIP client on one connection. */
import { VmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { KeyHandle, KmipConnection } from '../native/load.js'
import { nameValue } from './attributes.js'
import type { Attribute, AttributeValue } from './attributes.js'
import type { BatchRequest, BatchResults } from './batch.js'
import { askInBulk } from './bulk.js'
import type { Settled } from './bulk.js'
import type {
  CreateOptions,
  GetOptions,
  KmipClientOptions,
  LocateFilters,
  ManagedKey,
  ReKeyOptions,
  WrapOptions,
} from './client-options.js'
import { Conversation, checkVersions } from './conversation.js'
import type { CheckedUse } from './operations/check.js'
import type { PlainKey, WrappedKey } from './operations/get.js'
import type { KeyWrapping } from './operations/key-wrapping.js'
import type { QueryFunction, QueryResponse } from './operations/query.js'
import type { RevocationReasonCode } from './operations/revoke.js'
import { cryptographicUsage } from './ttlv/enumerations.js'
import type { EnumerationSymbol } from './ttlv/enumerations.js'
import { isSince } from './version.js'
import type { ProtocolVersion, VersionNumber } from './version.js'
import type { AttributeInstance } from './wire/attributes.js'

export type {
  CreateOptions,
  GetOptions,
  KmipClientOptions,
  LocateFilters,
  ManagedKey,
  ReKeyOptions,
  WrapOptions,
} from './client-options.js'

/**
 * Methods reject with VMSEAL_KMIP_OPERATION_FAILED when the server refuses (`details.resultReason` says why), with
 * VMSEAL_KMIP_MALFORMED for an answer that cannot be used, and with VMSEAL_KMIP_CONNECTION, VMSEAL_KMIP_TIMEOUT and the
 * like when the connection fails: it is closed then. Calls may overlap; their messages go one after another.
 */
export class KmipClient {
  readonly #conversation: Conversation

  /** Connects and agrees on the version. */
  static async connect(options: KmipClientOptions): Promise<KmipClient> {
    const { caCertificate, protocolVersions, credential: _, ...rest } = options
    checkVersions(protocolVersions)
    const connection = await native.KmipConnection.open({ ...rest, caCertificates: caCertificate })
    return KmipClient.over(connection, options)
  }

  /** On a connection that is open already and belongs to the client from now on. */
  static async over(
    connection: KmipConnection,
    options: Pick<KmipClientOptions, 'protocolVersions' | 'credential'> = {},
  ): Promise<KmipClient> {
    const wanted = checkVersions(options.protocolVersions)
    const client = new KmipClient(new Conversation(connection, options.credential))
    try {
      await client.#conversation.negotiate(wanted)
      return client
    } catch (error) {
      connection.close()
      throw error
    }
  }

  private constructor(conversation: Conversation) {
    this.#conversation = conversation
  }

  /** The version of all messages on this connection. */
  get version(): ProtocolVersion {
    return this.#conversation.version
  }

  get closed(): boolean {
    return this.#conversation.closed
  }

  /** Closes the connection; calls under way may reject. Idempotent. */
  close(): void {
    this.#conversation.close()
  }

  /** The versions that the server speaks, in its order of preference. Empty when it does not know the operation. */
  discoverVersions(): Promise<readonly VersionNumber[]> {
    return this.#conversation.discoverVersions()
  }

  query(
    functions: readonly QueryFunction[] = ['QueryOperations', 'QueryObjects', 'QueryServerInformation'],
  ): Promise<QueryResponse> {
    return this.#conversation.call('Query', { functions })
  }

  /** Makes a symmetric key at the server. */
  async create(options: CreateOptions = {}): Promise<{ readonly id: string }> {
    const { algorithm = 'AES', length = 256, attributes = [] } = options
    const usageMask = options.usageMask ?? cryptographicUsage.Encrypt | cryptographicUsage.Decrypt
    // In the order in which vCenter sends them.
    const response = await this.#conversation.call('Create', {
      objectType: 'SymmetricKey',
      attributes: [
        { name: 'Cryptographic Algorithm', value: algorithm },
        { name: 'Cryptographic Usage Mask', value: usageMask },
        { name: 'Cryptographic Length', value: length },
        ...attributes,
      ],
    })
    return { id: response.id }
  }

  /** Gives the server a key that was made elsewhere. The caller goes on to own `key`. */
  async register(
    key: KeyHandle,
    options: Omit<CreateOptions, 'length'> = {},
  ): Promise<{ readonly id: string }> {
    const { algorithm = 'AES', attributes = [] } = options
    const usageMask = options.usageMask ?? cryptographicUsage.Encrypt | cryptographicUsage.Decrypt
    const length = key.length * 8
    const response = await this.#conversation.call('Register', {
      key,
      algorithm,
      length,
      attributes: [
        { name: 'Cryptographic Algorithm', value: algorithm },
        { name: 'Cryptographic Usage Mask', value: usageMask },
        { name: 'Cryptographic Length', value: length },
        ...attributes,
      ],
    })
    return { id: response.id }
  }

  /** Makes a key in the place of another, which takes over its name. */
  async reKey(id: string, options: ReKeyOptions = {}): Promise<{ readonly id: string }> {
    return { id: (await this.#conversation.call('ReKey', { id, ...options })).id }
  }

  /** The key itself, in locked memory; the caller disposes of it. */
  async get(id: string, options: GetOptions = {}): Promise<ManagedKey> {
    if (!options.state) return plain(await this.#conversation.call('Get', { id }))
    const [key, attributes] = await this.batch([
      { operation: 'Get', request: { id } },
      { operation: 'GetAttributes', request: { id, names: ['State'] } },
    ])
    if (key.status === 'rejected') throw key.reason
    const got = plain(key.value)
    if (attributes.status === 'rejected') {
      got.key.dispose()
      throw attributes.reason
    }
    const state = attributes.value.attributes.find(({ name }) => name === 'State')?.value
    return typeof state === 'string' || typeof state === 'number'
      ? { ...got, state: state as EnumerationSymbol<'State'> }
      : got
  }

  /**
   * Many keys in few messages, which become smaller where the server cannot answer at once: one result for each id, in
   * order. Rejects only when the connection fails; no key is left behind then.
   */
  getMany(ids: readonly string[], batchSize = 100): Promise<Settled<PlainKey>[]> {
    return askInBulk(
      ids,
      Math.max(1, Math.floor(batchSize)),
      async (some) => (await this.#getAll(some)).map(plainResult),
      ({ key }) => key.dispose(),
    )
  }

  /** The key under another key of the server: `wrapped` is ciphertext. Without encoding unless said otherwise. */
  async getWrapped(id: string, wrappingKeyId: string, options: WrapOptions = {}): Promise<WrappedKey> {
    const wrapping: KeyWrapping = {
      method: 'Encrypt',
      ...(options.paddingMethod === undefined ? { blockCipherMode: 'NISTKeyWrap' } : {}),
      ...(isSince(this.version, '1.1') ? { encodingOption: 'NoEncoding' } : {}),
      ...options,
      wrappingKeyId,
    }
    const answer = await this.#conversation.call('Get', { id, wrapping })
    if (!answer.key) return answer
    answer.key.dispose()
    throw new VmsealError(
      'VMSEAL_KMIP_MALFORMED',
      `unusable KMIP answer: the key ${id} comes without wrapping`,
    )
  }

  /** Without names: all that the server shows. A name that the key lacks is left out. */
  async getAttributes(id: string, names: readonly string[] = []): Promise<readonly Attribute[]> {
    return (await this.#conversation.call('GetAttributes', { id, names })).attributes
  }

  /** The names of the attributes that the object has. */
  async getAttributeList(id: string): Promise<readonly string[]> {
    return (await this.#conversation.call('GetAttributeList', { id })).names
  }

  /** Resolves with the attribute as the server has it: in 1.x with its index. */
  async addAttribute(id: string, attribute: Attribute): Promise<Attribute> {
    return (await this.#conversation.call('AddAttribute', { id, attribute })).attribute ?? attribute
  }

  /**
   * Another value for an attribute that the object has. Of several instances 1.x takes the one with the index of
   * `attribute`, 2.x the one whose value is `current`.
   */
  async modifyAttribute(id: string, attribute: Attribute, current?: AttributeValue): Promise<void> {
    await this.#conversation.call('ModifyAttribute', {
      id,
      attribute,
      ...(current === undefined ? {} : { current }),
    })
  }

  /** Of several instances 1.x takes the one with this index, 2.x the one with this value, and all without. */
  async deleteAttribute(id: string, instance: AttributeInstance): Promise<void> {
    await this.#conversation.call('DeleteAttribute', { id, ...instance })
  }

  /** Since 2.0: adds the one instance of an attribute, or gives it another value. */
  async setAttribute(id: string, attribute: Attribute): Promise<void> {
    await this.#conversation.call('SetAttribute', { id, attribute })
  }

  /** Since 2.0: adds to a number, takes from it, or turns a truth value round. */
  async adjustAttribute(
    id: string,
    name: Attribute['name'],
    type: EnumerationSymbol<'AdjustmentType'>,
    value?: number,
  ): Promise<void> {
    await this.#conversation.call('AdjustAttribute', {
      id,
      name,
      type,
      ...(value === undefined ? {} : { value }),
    })
  }

  /** In one message. The first refusal rejects; those before it were added. */
  async addAttributes(id: string, attributes: readonly Attribute[]): Promise<void> {
    const [failure] = await this.#addEach(id, attributes, 'Stop')
    if (failure) throw failure
  }

  /**
   * In one message, best effort: resolves with the refusals. Servers without AddAttribute are common, and what is
   * added here only describes the key.
   */
  tryAddAttributes(id: string, attributes: readonly Attribute[]): Promise<readonly VmsealError[]> {
    return this.#addEach(id, attributes, 'Continue')
  }

  async activate(id: string): Promise<void> {
    await this.#conversation.call('Activate', { id })
  }

  /** The ids of the objects that match all filters. */
  async locate(filters: LocateFilters = {}): Promise<readonly string[]> {
    const { name, state, objectType, attributes = [], ...limits } = filters
    const wanted: Attribute[] = [...attributes]
    if (name !== undefined) wanted.push({ name: 'Name', value: nameValue(name) })
    if (state !== undefined) wanted.push({ name: 'State', value: state })
    if (objectType !== undefined) wanted.push({ name: 'Object Type', value: objectType })
    return (await this.#conversation.call('Locate', { ...limits, attributes: wanted })).ids
  }

  /** KeyCompromise and CACompromise make the key Compromised, every other reason Deactivated. */
  async revoke(id: string, reason: RevocationReasonCode = 'Unspecified', message?: string): Promise<void> {
    await this.#conversation.call('Revoke', {
      id,
      reason,
      ...(message === undefined ? {} : { message }),
      ...(reason === 'KeyCompromise' || reason === 'CACompromise'
        ? { compromiseOccurrenceDate: new Date() }
        : {}),
    })
  }

  async destroy(id: string): Promise<void> {
    await this.#conversation.call('Destroy', { id })
  }

  /** What of this use the object does not allow; nothing when it allows it all. */
  async check(id: string, use: CheckedUse): Promise<CheckedUse> {
    const { id: _, ...refused } = await this.#conversation.call('Check', { id, ...use })
    return refused
  }

  /** Moves the object off-line: it cannot be used until it is recovered. */
  async archive(id: string): Promise<void> {
    await this.#conversation.call('Archive', { id })
  }

  async recover(id: string): Promise<void> {
    await this.#conversation.call('Recover', { id })
  }

  /** Several operations in one message; the server works on all of them whatever fails. One result for each, in order. */
  batch<const Requests extends readonly BatchRequest[]>(requests: Requests): Promise<BatchResults<Requests>> {
    return this.#conversation.batch(requests, { batchErrorContinuation: 'Continue' })
  }

  /** The server is told what fits, so that it refuses an answer before the connection does. */
  #getAll(ids: readonly string[]) {
    const requests = ids.map((id) => ({ operation: 'Get' as const, request: { id } }))
    return this.#conversation.batch(requests, { batchErrorContinuation: 'Continue', maximumResponseSize })
  }

  async #addEach(
    id: string,
    attributes: readonly Attribute[],
    continuation: 'Stop' | 'Continue',
  ): Promise<VmsealError[]> {
    if (attributes.length === 0) return []
    const requests = attributes.map((attribute) => ({
      operation: 'AddAttribute' as const,
      request: { id, attribute },
    }))
    const rest = continuation === 'Continue' ? { batchErrorContinuation: continuation } : {}
    const results = await this.#conversation.batch(requests, rest)
    return results.flatMap((result) => (result.status === 'rejected' ? [result.reason as VmsealError] : []))
  }
}

/** What the native channel takes unless it is told otherwise. */
const maximumResponseSize = 1024 * 1024

/** A key that was not asked to be wrapped. */
function plain(answer: PlainKey | WrappedKey): PlainKey {
  if (answer.key) return answer
  throw new VmsealError('VMSEAL_KMIP_MALFORMED', `unusable KMIP answer: the key ${answer.id} comes wrapped`)
}

function plainResult(result: Settled<PlainKey | WrappedKey>): Settled<PlainKey> {
  if (result.status === 'rejected') return result
  try {
    return { status: 'fulfilled', value: plain(result.value) }
  } catch (reason) {
    return { status: 'rejected', reason }
  }
}
