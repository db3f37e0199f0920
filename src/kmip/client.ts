/** A KMIP client on one connection. */
import { VmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { KeyHandle, KmipConnection } from '../native/load.js'
import { nameValue } from './attributes.js'
import type { Attribute } from './attributes.js'
import { settleBatch } from './batch.js'
import type { BatchRequest, BatchResults } from './batch.js'
import { decodeResponse, encodeRequest } from './messages.js'
import type { RequestMessage, ResponseMessage } from './messages.js'
import { commonVersion, discoveredVersions, discoveryRequest } from './negotiation.js'
import type { GetResponse } from './operations/get.js'
import type { QueryFunction, QueryResponse } from './operations/query.js'
import type { RevocationReasonCode } from './operations/revoke.js'
import type { OperationName, RequestOf, ResponseOf } from './operations/table.js'
import { decodeTtlv, encodeTtlv } from './ttlv/codec.js'
import { cryptographicUsage } from './ttlv/enumerations.js'
import type { EnumerationSymbol } from './ttlv/enumerations.js'
import { attachKeys, collectKeys } from './ttlv/keys.js'
import { protocolVersions, versionNumber } from './version.js'
import type { ProtocolVersion, VersionNumber } from './version.js'

export interface KmipClientOptions {
  readonly host: string
  readonly port: number
  /** PEM, one or more. */
  readonly caCertificate: string
  /** PEM chain of the client. */
  readonly certificate: string
  /** PEM file; it is read natively. */
  readonly privateKeyFile: string
  /** Name or address in the server's certificate; default: `host`. */
  readonly serverName?: string
  readonly connectTimeoutMs?: number
  readonly requestTimeoutMs?: number
  /** What may be spoken; default: all of 1.0 to 1.4. With one alone, the server is not asked. */
  readonly protocolVersions?: readonly ProtocolVersion[]
}

export interface CreateOptions {
  /** Default AES. */
  readonly algorithm?: EnumerationSymbol<'CryptographicAlgorithm'>
  /** Bits; default 256. */
  readonly length?: number
  /** Bits of `cryptographicUsage`; default Encrypt and Decrypt. */
  readonly usageMask?: number
  readonly attributes?: readonly Attribute[]
}

export interface GetOptions {
  /** Asks for the State of the key in the same message. */
  readonly state?: boolean
}

export interface ManagedKey extends GetResponse {
  readonly state?: EnumerationSymbol<'State'> | number
}

export interface LocateFilters {
  readonly name?: string
  readonly state?: EnumerationSymbol<'State'>
  readonly objectType?: EnumerationSymbol<'ObjectType'>
  /** All must match. */
  readonly attributes?: readonly Attribute[]
  readonly maximumItems?: number
  /** Since 1.3. */
  readonly offsetItems?: number
}

/**
 * Methods reject with VMSEAL_KMIP_OPERATION_FAILED when the server refuses (`details.resultReason` says why), with
 * VMSEAL_KMIP_MALFORMED for an answer that cannot be used, and with VMSEAL_KMIP_CONNECTION, VMSEAL_KMIP_TIMEOUT and the
 * like when the connection fails: it is closed then. Calls may overlap; their messages go one after another.
 */
export class KmipClient {
  readonly #connection: KmipConnection
  #version: ProtocolVersion = '1.0'
  #last: Promise<unknown> = Promise.resolve()

  /** Connects and agrees on the version. */
  static async connect(options: KmipClientOptions): Promise<KmipClient> {
    const { caCertificate, protocolVersions: wanted = protocolVersions, ...rest } = options
    if (wanted.length === 0)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'protocolVersions names no version')
    const connection = await native.KmipConnection.open({ ...rest, caCertificates: caCertificate })
    const client = new KmipClient(connection)
    try {
      await client.#negotiate(wanted)
      return client
    } catch (error) {
      connection.close()
      throw error
    }
  }

  private constructor(connection: KmipConnection) {
    this.#connection = connection
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
    const answer = await this.#exchange(discoveryRequest([]))
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

  /** The key itself, in locked memory; the caller disposes of it. */
  async get(id: string, options: GetOptions = {}): Promise<ManagedKey> {
    if (!options.state) return this.#call('Get', { id })
    const [key, attributes] = await this.batch([
      { operation: 'Get', request: { id } },
      { operation: 'GetAttributes', request: { id, names: ['State'] } },
    ])
    if (key.status === 'rejected') throw key.reason
    if (attributes.status === 'rejected') {
      key.value.key.dispose()
      throw attributes.reason
    }
    const state = attributes.value.attributes.find(({ name }) => name === 'State')?.value
    return typeof state === 'string' || typeof state === 'number'
      ? { ...key.value, state: state as EnumerationSymbol<'State'> }
      : key.value
  }

  /** Without names: all that the server shows. A name that the key lacks is left out. */
  async getAttributes(id: string, names: readonly string[] = []): Promise<readonly Attribute[]> {
    return (await this.#call('GetAttributes', { id, names })).attributes
  }

  /** Resolves with the attribute as the server has it, with its index. */
  async addAttribute(id: string, attribute: Attribute): Promise<Attribute> {
    return (await this.#call('AddAttribute', { id, attribute })).attribute
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
    return settleBatch(requests, continuation, this.#version, (message) => this.#exchange(message))
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
      this.#version = commonVersion(await this.#exchange(discoveryRequest(preferred)), wanted)
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

function readAnswer(answer: Buffer, keys: readonly KeyHandle[]): ResponseMessage {
  try {
    return decodeResponse(attachKeys(decodeTtlv(answer), keys))
  } catch (error) {
    for (const key of keys) key.dispose()
    throw error
  }
}
