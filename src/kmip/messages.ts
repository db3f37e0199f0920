/** Request and response messages (KMIP 1.4, sections 6 and 7; KMIP 2.1, section 8). Payloads stay TTLV here: `operations/` reads them. */
import { VmsealError } from '../errors.js'
import { decodeAuthentication, encodeAuthentication } from './credential.js'
import type { KmipCredential } from './credential.js'
import { kmipFailure, toFailure } from './failure.js'
import { reasonIn } from './result-reason.js'
import type { ResultReason } from './result-reason.js'
import { enumerations } from './ttlv/enumerations.js'
import type { EnumerationSymbol } from './ttlv/enumerations.js'
import { byteString, dateTime, enumeration, integer, structure, textString } from './ttlv/node.js'
import type { TtlvNode } from './ttlv/node.js'
import { StructureReader } from './ttlv/reader.js'
import { tags } from './ttlv/tags.js'
import { decodeVersion, encodeVersion, highestOf, isSince, knownVersion } from './version.js'
import type { ProtocolVersion, VersionNumber } from './version.js'

export interface RequestHeader {
  /** The version whose rules apply; the highest of its major version when the request names a later. */
  readonly version: ProtocolVersion
  /** Bytes. */
  readonly maximumResponseSize?: number
  readonly clientCorrelationValue?: string
  readonly credential?: KmipCredential
  readonly batchErrorContinuation?: EnumerationSymbol<'BatchErrorContinuationOption'>
}

export interface RequestItem {
  /** Operation code. */
  readonly operation: number
  readonly uniqueBatchItemId?: Uint8Array
  readonly payload: TtlvNode
  /** An extension of the message that must be understood (KMIP 1.4, section 6.16). */
  readonly criticalExtension?: boolean
}

export interface RequestMessage {
  readonly header: RequestHeader
  /** From a later minor version: unknown fields are ignored (KMIP 1.4, section 11.1). */
  readonly lenient?: boolean
  readonly items: readonly RequestItem[]
}

export interface ResponseItem {
  /** Operation code; absent when the server could not read the item. */
  readonly operation?: number
  readonly uniqueBatchItemId?: Uint8Array
  readonly status: EnumerationSymbol<'ResultStatus'> | number
  readonly reason?: ResultReason | number
  readonly message?: string
  readonly payload?: TtlvNode
}

export interface ResponseHeader {
  readonly version: ProtocolVersion
  readonly timeStamp: Date
  readonly clientCorrelationValue?: string
}

export interface ResponseMessage {
  /** As the server wrote it; it need not be one that is spoken here. */
  readonly version: VersionNumber
  readonly items: readonly ResponseItem[]
}

export function encodeRequest({ header, items }: RequestMessage): TtlvNode {
  const fields = [encodeVersion(header.version)]
  if (header.maximumResponseSize !== undefined)
    fields.push(integer(tags.MaximumResponseSize, header.maximumResponseSize))
  if (header.clientCorrelationValue !== undefined && isSince(header.version, '1.4'))
    fields.push(textString(tags.ClientCorrelationValue, header.clientCorrelationValue))
  if (header.credential) fields.push(encodeAuthentication(header.credential))
  if (header.batchErrorContinuation)
    fields.push(
      enumeration(
        tags.BatchErrorContinuationOption,
        enumerations.BatchErrorContinuationOption[header.batchErrorContinuation],
      ),
    )
  fields.push(integer(tags.BatchCount, items.length))
  return structure(tags.RequestMessage, [
    structure(tags.RequestHeader, fields),
    ...items.map(({ operation, uniqueBatchItemId, payload }) => {
      const id = uniqueBatchItemId ? [byteString(tags.UniqueBatchItemID, uniqueBatchItemId)] : []
      return structure(tags.BatchItem, [enumeration(tags.Operation, operation), ...id, payload])
    }),
  ])
}

/** Throws VMSEAL_KMIP_VERSION for another major version, VMSEAL_KMIP_MALFORMED for a broken message. */
export function decodeRequest(node: TtlvNode): RequestMessage {
  const number = peekRequestVersion(node)
  if (!number) throw malformed('the request has no protocol version')
  const known = knownVersion(number)
  const version = known ?? highestOf(number.major)
  if (!version)
    throw new VmsealError('VMSEAL_KMIP_VERSION', `KMIP ${number.major}.${number.minor} is not spoken here`)
  if (!known && number.minor < 0) throw malformed('the protocol version is negative')
  const lenient = !known
  const message = new StructureReader(node, lenient)
  const header = message.structure('RequestHeader')
  const batchCount = header.required('BatchCount', 'Integer')
  const decoded = decodeRequestHeader(header, version)
  const items = message.structures('BatchItem').map((item) => decodeRequestItem(item, version))
  message.end()
  if (items.length !== batchCount || batchCount === 0)
    throw malformed(`the batch count is ${batchCount} and there are ${items.length} items`)
  return { header: decoded, lenient, items }
}

/** The version in a request header, as far as it can be read. */
export function peekRequestVersion(node: TtlvNode): VersionNumber | undefined {
  try {
    if (node.tag !== tags.RequestMessage) return undefined
    return decodeVersion(new StructureReader(node).structure('RequestHeader').structure('ProtocolVersion'))
  } catch {
    return undefined
  }
}

/** The items come encoded: their sizes decide what fits into the message. */
export function encodeResponse(header: ResponseHeader, items: readonly TtlvNode[]): TtlvNode {
  const { version, timeStamp, clientCorrelationValue } = header
  const fields = [encodeVersion(version), dateTime(tags.TimeStamp, timeStamp)]
  if (clientCorrelationValue !== undefined && isSince(version, '1.4'))
    fields.push(textString(tags.ClientCorrelationValue, clientCorrelationValue))
  fields.push(integer(tags.BatchCount, items.length))
  return structure(tags.ResponseMessage, [structure(tags.ResponseHeader, fields), ...items])
}

export function encodeResponseItem(item: ResponseItem): TtlvNode {
  const fields: TtlvNode[] = []
  if (item.operation !== undefined) fields.push(enumeration(tags.Operation, item.operation))
  if (item.uniqueBatchItemId) fields.push(byteString(tags.UniqueBatchItemID, item.uniqueBatchItemId))
  fields.push(enumeration(tags.ResultStatus, symbolValue(enumerations.ResultStatus, item.status)))
  if (item.reason !== undefined)
    fields.push(enumeration(tags.ResultReason, symbolValue(enumerations.ResultReason, item.reason)))
  if (item.message !== undefined) fields.push(textString(tags.ResultMessage, item.message))
  if (item.payload) fields.push(item.payload)
  return structure(tags.BatchItem, fields)
}

/** Lenient: a server may add fields, answer in another minor version, or leave out Operation and ids. */
export function decodeResponse(node: TtlvNode): ResponseMessage {
  if (node.tag !== tags.ResponseMessage) throw malformed('the answer is no response message')
  const message = new StructureReader(node, true)
  const header = message.structure('ResponseHeader')
  return {
    version: decodeVersion(header.structure('ProtocolVersion')),
    items: message.structures('BatchItem').map(decodeResponseItem),
  }
}

/** The failed item for an error, as `version` can say it. */
export function failedItem(
  error: unknown,
  version: ProtocolVersion,
  of: Pick<ResponseItem, 'operation' | 'uniqueBatchItemId'> = {},
): ResponseItem {
  const { reason, message } = toFailure(error)
  return { ...of, status: 'OperationFailed', reason: reasonIn(version, reason), message }
}

function decodeRequestHeader(header: StructureReader, version: ProtocolVersion): RequestHeader {
  header.node('ProtocolVersion')
  const maximumResponseSize = header.optional('MaximumResponseSize', 'Integer')
  const continuation = header.optionalSymbol('BatchErrorContinuationOption', 'BatchErrorContinuationOption')
  if (typeof continuation === 'number')
    throw malformed(`there is no batch error continuation option ${continuation}`)
  if (isSince(version, '2.0')) {
    if (header.optional('AsynchronousIndicator', 'Enumeration') === mandatory)
      throw kmipFailure('FeatureNotSupported', 'every answer is given at once here')
    // An asynchronous answer is offered in 1.x, never demanded.
  } else header.optional('AsynchronousIndicator', 'Boolean')
  // Items are always worked on in order.
  header.optional('BatchOrderOption', 'Boolean')
  const authentication = header.optionalStructure('Authentication')
  const credential = authentication && decodeAuthentication(authentication)
  header.optional('TimeStamp', 'DateTime')
  if (isSince(version, '1.2')) {
    header.optional('AttestationCapableIndicator', 'Boolean')
    header.nodes('AttestationType')
  }
  const correlation = isSince(version, '1.4')
    ? header.optional('ClientCorrelationValue', 'TextString')
    : undefined
  if (isSince(version, '1.4')) header.optional('ServerCorrelationValue', 'TextString')
  header.end()
  return {
    version,
    ...(maximumResponseSize === undefined ? {} : { maximumResponseSize }),
    ...(continuation === undefined ? {} : { batchErrorContinuation: continuation }),
    ...(correlation === undefined ? {} : { clientCorrelationValue: correlation }),
    ...(credential ? { credential } : {}),
  }
}

/** The Asynchronous Indicator of 2.x that demands an answer later. */
const mandatory = 1

function decodeRequestItem(item: StructureReader, version: ProtocolVersion): RequestItem {
  const operation = item.required('Operation', 'Enumeration')
  if (isSince(version, '2.0') && item.optional('Ephemeral', 'Boolean') === true)
    throw kmipFailure('FeatureNotSupported', 'every object is kept here: Ephemeral cannot be true')
  const id = item.optional('UniqueBatchItemID', 'ByteString')
  const payload = item.node('RequestPayload')
  const critical = item
    .structures('MessageExtension')
    .some((extension) => extension.required('CriticalityIndicator', 'Boolean'))
  item.end()
  return {
    operation,
    payload,
    ...(id === undefined ? {} : { uniqueBatchItemId: id }),
    ...(critical ? { criticalExtension: true } : {}),
  }
}

function decodeResponseItem(item: StructureReader): ResponseItem {
  const operation = item.optional('Operation', 'Enumeration')
  const id = item.optional('UniqueBatchItemID', 'ByteString')
  const reason = item.optionalSymbol('ResultReason', 'ResultReason')
  const message = item.optional('ResultMessage', 'TextString')
  const payload = item.optionalNode('ResponsePayload')
  return {
    status: item.requiredSymbol('ResultStatus', 'ResultStatus'),
    ...(operation === undefined ? {} : { operation }),
    ...(id === undefined ? {} : { uniqueBatchItemId: id }),
    ...(reason === undefined ? {} : { reason }),
    ...(message === undefined ? {} : { message }),
    ...(payload === undefined ? {} : { payload }),
  }
}

function symbolValue(table: Readonly<Record<string, number>>, symbol: string | number): number {
  return typeof symbol === 'number' ? symbol : (table[symbol] as number)
}

function malformed(what: string): VmsealError {
  return new VmsealError('VMSEAL_KMIP_MALFORMED', `broken KMIP message: ${what}`)
}
