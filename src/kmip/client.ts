/** A KMIP client on one connection. */
import { VmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { KeyHandle, KmipConnection } from '../native/load.js'
import { nameValue } from './attributes.js'
import type { Attribute, AttributeValue } from './attributes.js'
import { settleBatch } from './batch.js'
import type { BatchRequest, BatchResults } from './batch.js'
import { askInBulk } from './bulk.js'
import type { Settled } from './bulk.js'
import type { KmipCredential } from './credential.js'
import { decodeResponse, encodeRequest } from './messages.js'
import type { RequestHeader, RequestMessage, ResponseMessage } from './messages.js'
import { commonVersion, discoveredVersions, discoveryRequest } from './negotiation.js'
import type {
  CreateOptions,
  GetOptions,
  KmipClientOptions,
  LocateFilters,
  ManagedKey,
  ReKeyOptions,
  WrapOptions,
} from './client-options.js'
import type { CheckedUse } from './operations/check.js'
import type { PlainKey, WrappedKey } from './operations/get.js'
import type { KeyWrapping } from './operations/key-wrapping.js'
import type { QueryFunction, QueryResponse } from './operations/query.js'
import type { RevocationReasonCode } from './operations/revoke.js'
import type { OperationName, RequestOf, ResponseOf } from './operations/table.js'
import { decodeTtlv, encodeTtlv } from './ttlv/codec.js'
import { cryptographicUsage } from './ttlv/enumerations.js'
import type { EnumerationSymbol } from './ttlv/enumerations.js'
import { attachKeys, collectKeys } from './ttlv/keys.js'
import { defaultVersions, isSince, versionNumber } from './version.js'
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
  readonly #connection: KmipConnection
  readonly #credential: KmipCredential | undefined
  #version: ProtocolVersion = '1.0'
  #last: Promise<unknown> = Promise.resolve()

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
    const client = new KmipClient(connection, options.credential)
    try {
      await client.#negotiate(wanted)
      return client
    } catch (error) {
      connection.close()
      throw error
    }
  }

  private constructor(connection: KmipConnection, credential: KmipCredential | undefined) {
    this.#connection = connection
    this.#credential = credential
  }

  /** The version of all messages on this connection. */
  get version(): ProtocolVersion {
    return this.#version
  }

  get closed(): boolean {
    return this.#connection.closed
  }

  /** Closes the connection; calls under way may reject. Idempotent. */
  close(): void {
    this.#connection.close()
  }

  /** The versions that the server speaks, in its order of preference. Empty when it does not know the operation. */
  async discoverVersions(): Promise<readonly VersionNumber[]> {
    const answer = await this.#exchange(discoveryRequest([], [this.#version], this.#credential))
    return discoveredVersions(answer)?.versions ?? []
  }

  query(
    functions: readonly QueryFunction[] = ['QueryOperations', 'QueryObjects', 'QueryServerInformation'],
  ): Promise<QueryResponse> {
    return this.#call('Query', { functions })
  }

  /** Makes a symmetric key at the server. */
  async create(options: CreateOptions = {}): Promise<{ readonly id: string }> {
    const { algorithm = 'AES', length = 256, attributes = [] } = options
    const usageMask = options.usageMask ?? cryptographicUsage.Encrypt | cryptographicUsage.Decrypt
    // In the order in which vCenter sends them.
    const response = await this.#call('Create', {
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
    const response = await this.#call('Register', {
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
    return { id: (await this.#call('ReKey', { id, ...options })).id }
  }

  /** The key itself, in locked memory; the caller disposes of it. */
  async get(id: string, options: GetOptions = {}): Promise<ManagedKey> {
    if (!options.state) return plain(await this.#call('Get', { id }))
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
      ...(isSince(this.#version, '1.1') ? { encodingOption: 'NoEncoding' } : {}),
      ...options,
      wrappingKeyId,
    }
    const answer = await this.#call('Get', { id, wrapping })
    if (!answer.key) return answer
    answer.key.dispose()
    throw new VmsealError(
      'VMSEAL_KMIP_MALFORMED',
      `unusable KMIP answer: the key ${id} comes without wrapping`,
    )
  }

  /** Without names: all that the server shows. A name that the key lacks is left out. */
  async getAttributes(id: string, names: readonly string[] = []): Promise<readonly Attribute[]> {
    return (await this.#call('GetAttributes', { id, names })).attributes
  }

  /** The names of the attributes that the object has. */
  async getAttributeList(id: string): Promise<readonly string[]> {
    return (await this.#call('GetAttributeList', { id })).names
  }

  /** Resolves with the attribute as the server has it: in 1.x with its index. */
  async addAttribute(id: string, attribute: Attribute): Promise<Attribute> {
    return (await this.#call('AddAttribute', { id, attribute })).attribute ?? attribute
  }

  /**
   * Another value for an attribute that the object has. Of several instances 1.x takes the one with the index of
   * `attribute`, 2.x the one whose value is `current`.
   */
  async modifyAttribute(id: string, attribute: Attribute, current?: AttributeValue): Promise<void> {
    await this.#call('ModifyAttribute', { id, attribute, ...(current === undefined ? {} : { current }) })
  }

  /** Of several instances 1.x takes the one with this index, 2.x the one with this value, and all without. */
  async deleteAttribute(id: string, instance: AttributeInstance): Promise<void> {
    await this.#call('DeleteAttribute', { id, ...instance })
  }

  /** Since 2.0: adds the one instance of an attribute, or gives it another value. */
  async setAttribute(id: string, attribute: Attribute): Promise<void> {
    await this.#call('SetAttribute', { id, attribute })
  }

  /** Since 2.0: adds to a number, takes from it, or turns a truth value round. */
  async adjustAttribute(
    id: string,
    name: Attribute['name'],
    type: EnumerationSymbol<'AdjustmentType'>,
    value?: number,
  ): Promise<void> {
    await this.#call('AdjustAttribute', { id, name, type, ...(value === undefined ? {} : { value }) })
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
    await this.#call('Activate', { id })
  }

  /** The ids of the objects that match all filters. */
  async locate(filters: LocateFilters = {}): Promise<readonly string[]> {
    const { name, state, objectType, attributes = [], ...limits } = filters
    const wanted: Attribute[] = [...attributes]
    if (name !== undefined) wanted.push({ name: 'Name', value: nameValue(name) })
    if (state !== undefined) wanted.push({ name: 'State', value: state })
    if (objectType !== undefined) wanted.push({ name: 'Object Type', value: objectType })
    return (await this.#call('Locate', { ...limits, attributes: wanted })).ids
  }

  /** KeyCompromise and CACompromise make the key Compromised, every other reason Deactivated. */
  async revoke(id: string, reason: RevocationReasonCode = 'Unspecified', message?: string): Promise<void> {
    await this.#call('Revoke', {
      id,
      reason,
      ...(message === undefined ? {} : { message }),
      ...(reason === 'KeyCompromise' || reason === 'CACompromise'
        ? { compromiseOccurrenceDate: new Date() }
        : {}),
    })
  }

  async destroy(id: string): Promise<void> {
    await this.#call('Destroy', { id })
  }

  /** What of this use the object does not allow; nothing when it allows it all. */
  async check(id: string, use: CheckedUse): Promise<CheckedUse> {
    const { id: _, ...refused } = await this.#call('Check', { id, ...use })
    return refused
  }

  /** Moves the object off-line: it cannot be used until it is recovered. */
  async archive(id: string): Promise<void> {
    await this.#call('Archive', { id })
  }

  async recover(id: string): Promise<void> {
    await this.#call('Recover', { id })
  }

  /** Several operations in one message; the server works on all of them whatever fails. One result for each, in order. */
  batch<const Requests extends readonly BatchRequest[]>(requests: Requests): Promise<BatchResults<Requests>> {
    return this.#batch(requests, 'Continue')
  }

  async #call<O extends OperationName>(operation: O, request: RequestOf<O>): Promise<ResponseOf<O>> {
    const [result] = await this.#batch([{ operation, request } as BatchRequest], 'Stop')
    if (result.status === 'rejected') throw result.reason
    return result.value as ResponseOf<O>
  }

  async #batch<const Requests extends readonly BatchRequest[]>(
    requests: Requests,
    continuation: 'Stop' | 'Continue',
  ): Promise<BatchResults<Requests>> {
    return this.#settle(requests, continuation === 'Continue' ? { batchErrorContinuation: continuation } : {})
  }

  /** The server is told what fits, so that it refuses an answer before the connection does. */
  #getAll(ids: readonly string[]) {
    const requests = ids.map((id) => ({ operation: 'Get' as const, request: { id } }))
    return this.#settle(requests, { batchErrorContinuation: 'Continue', maximumResponseSize })
  }

  #settle<const Requests extends readonly BatchRequest[]>(
    requests: Requests,
    rest: Omit<RequestHeader, 'version' | 'credential'>,
  ): Promise<BatchResults<Requests>> {
    const credential = this.#credential === undefined ? {} : { credential: this.#credential }
    return settleBatch(requests, { version: this.#version, ...credential, ...rest }, (message) =>
      this.#exchange(message),
    )
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
    const results = await this.#batch(requests, continuation)
    return results.flatMap((result) => (result.status === 'rejected' ? [result.reason as VmsealError] : []))
  }

  async #negotiate(wanted: readonly ProtocolVersion[]): Promise<void> {
    const [only, ...others] = wanted
    if (only && others.length === 0) this.#version = only
    else {
      const preferred = wanted.toSorted().toReversed().map(versionNumber)
      const question = discoveryRequest(preferred, wanted, this.#credential)
      this.#version = commonVersion(await this.#exchange(question), wanted)
    }
  }

  /** Sends a message when the ones before it are answered. */
  #exchange(message: RequestMessage): Promise<ResponseMessage> {
    const request = encodeRequest(message)
    const bytes = encodeTtlv(request)
    const sent = this.#last.then(() => this.#connection.request(bytes, collectKeys(request)))
    this.#last = sent.catch(() => undefined)
    return sent.then(({ message: answer, keys }) => readAnswer(answer, keys))
  }
}

/** What the native channel takes unless it is told otherwise. */
const maximumResponseSize = 1024 * 1024

function checkVersions(wanted: readonly ProtocolVersion[] = defaultVersions): readonly ProtocolVersion[] {
  if (wanted.length > 0) return wanted
  throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'protocolVersions names no version')
}

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

function readAnswer(answer: Buffer, keys: readonly KeyHandle[]): ResponseMessage {
  try {
    return decodeResponse(attachKeys(decodeTtlv(answer), keys))
  } catch (error) {
    for (const key of keys) key.dispose()
    throw error
  }
}
