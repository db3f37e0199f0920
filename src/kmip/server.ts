/**
 * The protocol side of a KMIP server: a request message in, a response message out, whatever came in. What the
 * operations do is a `KmipService`'s business; connections are `listener.ts`'s.
 */
import type { KeyHandle } from '../native/load.js'
import { VmsealError } from '../errors.js'
import { kmipFailure, toFailure } from './failure.js'
import type { Failure } from './failure.js'
import type { KmipCredential } from './credential.js'
import type { ResultReason } from './result-reason.js'
import {
  decodeRequest,
  encodeResponse,
  encodeResponseItem,
  failedItem,
  peekRequestVersion,
} from './messages.js'
import type { RequestItem, RequestMessage, ResponseItem } from './messages.js'
import { discover } from './negotiation.js'
import type { VersionList } from './operations/discover-versions.js'
import type { GetRequest, GetResponse } from './operations/get.js'
import type { ObjectRequest } from './operations/operation.js'
import type { QueryRequest, QueryResponse } from './operations/query.js'
import { operationCodec, operationName, operationTable } from './operations/table.js'
import type { OperationName, RequestOf, ResponseOf } from './operations/table.js'
import { toReply, wireLength } from './reply.js'
import type { KmipReply } from './reply.js'
import { decodeTtlv, encodedLength } from './ttlv/codec.js'
import { enumerationSymbol } from './ttlv/enumerations.js'
import { attachKeys, disposeKeys } from './ttlv/keys.js'
import { structure } from './ttlv/node.js'
import type { TtlvNode } from './ttlv/node.js'
import { StructureReader } from './ttlv/reader.js'
import { tags } from './ttlv/tags.js'
import { defaultVersions, highestOf, isSince, knownVersion, protocolVersions } from './version.js'
import type { ProtocolVersion, VersionNumber } from './version.js'

/** Who asks. */
export interface KmipCaller {
  readonly connectionId: number
  /** Hex SHA-256 of the client's public key (SPKI): its identity. */
  readonly clientKeyHash: string
  /** A label only. */
  readonly commonName?: string
  /** Address and port of the peer. */
  readonly remoteAddress?: string
}

export interface OperationContext extends KmipCaller {
  readonly version: ProtocolVersion
  /** The user name and password that the request brought, unchecked. */
  readonly credential?: KmipCredential
}

/** With the id resolved: the request's own, or the ID Placeholder of the batch. */
type Resolved<Request> = 'id' extends keyof Request ? Request & { readonly id: string } : Request

type ServiceOperation = Exclude<OperationName, 'DiscoverVersions' | 'Query'>

/**
 * What the operations do; one that is left out is answered with Operation Not Supported. They throw `kmipFailure`s;
 * any other error becomes a General Failure. The keys of a response are disposed of once they are sent.
 */
export type KmipService = {
  readonly [O in ServiceOperation]?: (
    request: Resolved<RequestOf<O>>,
    context: OperationContext,
  ) => ResponseOf<O> | Promise<ResponseOf<O>>
}

/** One operation that was done or refused. */
export interface OperationRecord {
  readonly operation: string
  readonly caller: KmipCaller
  readonly version: ProtocolVersion
  readonly id?: string
  readonly result: 'Success' | ResultReason
  readonly message?: string
}

export interface KmipServerOptions {
  readonly vendorIdentification?: string
  /** Bytes of the longest response; default 1 MiB. */
  readonly maxMessageBytes?: number
  /** Default 1000. */
  readonly maxBatchItems?: number
  /** What is spoken; default: all of 1.0 to 2.1. */
  readonly protocolVersions?: readonly ProtocolVersion[]
  /** Throws to keep a caller out. */
  readonly authenticate?: (caller: KmipCaller, credential: KmipCredential | undefined) => void
  /** Runs before the answer is sent. If it throws, the item fails and its key is not sent. */
  readonly observe?: (record: OperationRecord) => void
}

/** More than an answer needs beyond what it repeats of the request. */
const answerRoom = 256
/** These change something: their answer must fit before they are begun. How large it may be beyond the request. */
const changing: ReadonlyMap<string, number> = new Map<OperationName, number>([
  ['Create', answerRoom],
  ['Register', answerRoom],
  ['ReKey', answerRoom],
  ['AddAttribute', answerRoom],
  ['ModifyAttribute', answerRoom],
  // In 1.x it shows the value that was deleted.
  ['DeleteAttribute', answerRoom + 20 * 1024],
  ['SetAttribute', answerRoom],
  ['AdjustAttribute', answerRoom],
  ['Activate', answerRoom],
  ['Revoke', answerRoom],
  ['Destroy', answerRoom],
  ['Archive', answerRoom],
  ['Recover', answerRoom],
])
/** Their request names no object, so the ID Placeholder is nothing to them. */
const withoutObject: ReadonlySet<string> = new Set<OperationName>(['Create', 'Register', 'Locate'])
/** Their answer names a new object. */
const making: ReadonlySet<string> = new Set<OperationName>(['Create', 'Register', 'ReKey'])

interface Batch {
  readonly request: RequestMessage
  readonly caller: KmipCaller
  /** ID Placeholder (KMIP 1.4, section 4). */
  placeholder?: string
}

interface Done {
  readonly response: object & { readonly id?: string }
  readonly payload: TtlvNode
}

export class KmipServer {
  readonly #service: KmipService
  readonly #options: KmipServerOptions
  readonly #maxBytes: number
  readonly #versions: readonly ProtocolVersion[]

  constructor(service: KmipService, options: KmipServerOptions = {}) {
    const { protocolVersions: spoken = protocolVersions } = options
    this.#versions = protocolVersions.filter((version) => spoken.includes(version))
    this.#service = service
    this.#options = options
    this.#maxBytes = options.maxMessageBytes ?? 1024 * 1024
  }

  /** Answers a request message. Never rejects; takes the keys over. */
  async process(message: Uint8Array, keys: readonly KeyHandle[], caller: KmipCaller): Promise<KmipReply> {
    let node: TtlvNode | undefined
    try {
      node = attachKeys(decodeTtlv(message), keys)
      const request = decodeRequest(node)
      this.#checkVersion(request)
      this.#options.authenticate?.(caller, request.header.credential)
      this.#checkBatch(request)
      return await this.#answer({ request, caller })
    } catch (error) {
      return this.#refuse(node, error, caller)
    } finally {
      for (const key of keys) key.dispose()
    }
  }

  #checkVersion({ header: { version } }: RequestMessage): void {
    if (!this.#versions.includes(version))
      throw new VmsealError('VMSEAL_KMIP_VERSION', `KMIP ${version} is not spoken here`)
  }

  #checkBatch({ header, items }: RequestMessage): void {
    const limit = this.#options.maxBatchItems ?? 1000
    if (items.length > limit) throw kmipFailure('InvalidMessage', `a batch has at most ${limit} items here`)
    if (header.batchErrorContinuation === 'Undo')
      throw kmipFailure('FeatureNotSupported', 'batches are not undone here; use Stop or Continue')
  }

  async #answer(batch: Batch): Promise<KmipReply> {
    const { header, items } = batch.request
    const limit = Math.min(header.maximumResponseSize ?? this.#maxBytes, this.#maxBytes)
    const responseHeader = { version: header.version, timeStamp: new Date(), ...correlation(header) }
    const answers: TtlvNode[] = []
    let size = encodedLength(encodeResponse(responseHeader, []))
    for (const item of items) {
      const answer = await this.#answerItem(item, batch, limit - size)
      answers.push(answer.node)
      size += wireLength(answer.node)
      if (answer.failed && header.batchErrorContinuation !== 'Continue') break
    }
    return toReply(encodeResponse(responseHeader, answers))
  }

  async #answerItem(
    item: RequestItem,
    batch: Batch,
    room: number,
  ): Promise<{ node: TtlvNode; failed: boolean }> {
    const of = {
      operation: item.operation,
      ...(item.uniqueBatchItemId ? { uniqueBatchItemId: item.uniqueBatchItemId } : {}),
    }
    const asked: { id?: string } = {}
    let answer: TtlvNode | undefined
    try {
      const { payload, response } = await this.#perform(item, batch, room, asked)
      answer = encodeResponseItem({ ...of, status: 'Success', payload })
      if (wireLength(answer) > room && !changing.has(String(operationName(item.operation))))
        throw kmipFailure('ResponseTooLarge', 'the answer exceeds the maximum response size')
      this.#observe(item, batch, response.id ?? asked.id)
      return { node: answer, failed: false }
    } catch (error) {
      if (answer) disposeKeys(answer)
      return { node: this.#failure(item, batch, of, error, asked.id), failed: true }
    }
  }

  async #perform(item: RequestItem, batch: Batch, room: number, asked: { id?: string }): Promise<Done> {
    const { version } = batch.request.header
    const name = operationName(item.operation)
    if (!name || !this.#offers(name, version))
      throw kmipFailure(
        'OperationNotSupported',
        `${enumerationSymbol('Operation', item.operation)} is not offered in KMIP ${version} here`,
      )
    if (item.criticalExtension)
      throw kmipFailure('FeatureNotSupported', 'a message extension that must be understood is unknown here')
    const needed = changing.get(name)
    if (needed !== undefined && room < needed + encodedLength(item.payload))
      throw kmipFailure(
        'ResponseTooLarge',
        'the answer may exceed the maximum response size; nothing was done',
      )
    const codec = operationCodec(name)
    const reader = new StructureReader(item.payload, batch.request.lenient)
    const request = codec.decodeRequest(reader, version) as object & ObjectRequest
    if (request.id !== undefined) asked.id = request.id
    reader.end()
    const response = (await this.#run(name, request, batch, asked)) as Done['response']
    if (name === 'Get') refusePlain(request, response as unknown as GetResponse)
    setPlaceholder(batch, name, response)
    return { response, payload: structure(tags.ResponsePayload, codec.encodeResponse(response, version)) }
  }

  #run(name: OperationName, request: object & ObjectRequest, batch: Batch, asked: { id?: string }): unknown {
    const { version } = batch.request.header
    if (name === 'DiscoverVersions') return discover(request as VersionList, this.#versions)
    if (name === 'Query') return this.#query(request as QueryRequest, version)
    const handler = this.#service[name] as (request: object, context: OperationContext) => unknown
    const { credential } = batch.request.header
    const context = { ...batch.caller, version, ...(credential ? { credential } : {}) }
    if (withoutObject.has(name)) return handler.call(this.#service, request, context)
    const id = request.id ?? batch.placeholder
    if (id === undefined)
      throw kmipFailure('ItemNotFound', 'no unique identifier is given and the ID placeholder is empty')
    asked.id = id
    return handler.call(this.#service, { ...request, id }, context)
  }

  #offers(name: OperationName, version: ProtocolVersion): boolean {
    if (!isSince(version, operationTable[name].since)) return false
    return name === 'DiscoverVersions' || name === 'Query' || this.#service[name] !== undefined
  }

  #query({ functions }: QueryRequest, version: ProtocolVersion): QueryResponse {
    const names = Object.keys(operationTable) as OperationName[]
    const { vendorIdentification } = this.#options
    return {
      operations: functions.includes('QueryOperations')
        ? names.filter((name) => this.#offers(name, version))
        : [],
      objectTypes: functions.includes('QueryObjects') ? ['SymmetricKey'] : [],
      applicationNamespaces: [],
      ...(functions.includes('QueryServerInformation') && vendorIdentification !== undefined
        ? { vendorIdentification }
        : {}),
    }
  }

  #observe(item: RequestItem, batch: Batch, id: string | undefined, failure?: Failure): void {
    this.#options.observe?.({
      operation: String(enumerationSymbol('Operation', item.operation)),
      caller: batch.caller,
      version: batch.request.header.version,
      result: failure ? failure.reason : 'Success',
      ...(id === undefined ? {} : { id }),
      ...(failure ? { message: failure.message } : {}),
    })
  }

  #failure(
    item: RequestItem,
    batch: Batch,
    of: Pick<ResponseItem, 'operation'>,
    error: unknown,
    id: string | undefined,
  ): TtlvNode {
    try {
      this.#observe(item, batch, id, toFailure(error))
    } catch (unobserved) {
      return encodeResponseItem(failedItem(unobserved, batch.request.header.version, of))
    }
    return encodeResponseItem(failedItem(error, batch.request.header.version, of))
  }

  /** In the version of the request where it is spoken, else the highest of its kind, and 1.0 where there is none. */
  #versionOfRefusal(number: VersionNumber | undefined): ProtocolVersion {
    if (!number) return this.#versions[0] ?? '1.0'
    const named = knownVersion(number) ?? highestOf(number.major)
    if (named && this.#versions.includes(named)) return named
    return this.#versions.findLast((version) => isDefault(version)) ?? this.#versions.at(-1) ?? '1.0'
  }

  /** The answer to a message that cannot be worked on at all: one item without an operation. */
  #refuse(node: TtlvNode | undefined, error: unknown, caller: KmipCaller): KmipReply {
    const number = node && peekRequestVersion(node)
    const version = this.#versionOfRefusal(number)
    const failure = toFailure(error)
    try {
      this.#options.observe?.({
        operation: 'Message',
        caller,
        version,
        result: failure.reason,
        message: failure.message,
      })
    } catch {
      // Nothing was done and nothing is handed out: the refusal stands without its record.
    }
    return toReply(
      encodeResponse({ version, timeStamp: new Date() }, [encodeResponseItem(failedItem(error, version))]),
    )
  }
}

/** A key that is asked for wrapped never leaves otherwise, whatever the service makes of the request. */
function refusePlain({ wrapping }: GetRequest, { key }: GetResponse): void {
  if (!wrapping || !key) return
  key.dispose()
  throw kmipFailure('FeatureNotSupported', 'keys are not wrapped for Get here')
}

function isDefault(version: ProtocolVersion): boolean {
  const defaults: readonly ProtocolVersion[] = defaultVersions
  return defaults.includes(version)
}

function correlation({ clientCorrelationValue }: RequestMessage['header']) {
  return clientCorrelationValue === undefined ? {} : { clientCorrelationValue }
}

function setPlaceholder(batch: Batch, name: OperationName, response: Done['response']): void {
  if (making.has(name) && response.id !== undefined) batch.placeholder = response.id
  if (name !== 'Locate') return
  const { ids } = response as unknown as { readonly ids: readonly string[] }
  delete batch.placeholder
  if (ids.length === 1 && ids[0] !== undefined) batch.placeholder = ids[0]
}
