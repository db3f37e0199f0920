/** Several operations in one message: which answer belongs to which request. */
import { VmsealError } from '../errors.js'
import type { RequestHeader, RequestMessage, ResponseItem, ResponseMessage } from './messages.js'
import { operationCodec } from './operations/table.js'
import type { OperationName, RequestOf, ResponseOf } from './operations/table.js'
import { commonReason, isResultReason } from './result-reason.js'
import { enumerations, enumerationSymbol } from './ttlv/enumerations.js'
import { disposeKeys } from './ttlv/keys.js'
import { structure } from './ttlv/node.js'
import { StructureReader } from './ttlv/reader.js'
import { tags } from './ttlv/tags.js'
import { isSince } from './version.js'
import type { ProtocolVersion } from './version.js'

export type BatchRequest = {
  [O in OperationName]: { readonly operation: O; readonly request: RequestOf<O> }
}[OperationName]

/** For each request its result; the reason of a rejected one is a `VmsealError`. */
export type BatchResults<Requests extends readonly BatchRequest[]> = {
  -readonly [I in keyof Requests]: PromiseSettledResult<ResponseOf<Requests[I]['operation']>>
}

/**
 * Sends the requests as one message, under `header`; its continuation matters to several requests only. Rejects only
 * when the message as a whole fails to be exchanged.
 */
export async function settleBatch<const Requests extends readonly BatchRequest[]>(
  requests: Requests,
  header: RequestHeader,
  exchange: (message: RequestMessage) => Promise<ResponseMessage>,
): Promise<BatchResults<Requests>> {
  if (requests.length === 0) return [] as unknown as BatchResults<Requests>
  const { version } = header
  const answer = await exchange(toMessage(requests, header))
  const answers = matchAnswers(requests.length, answer)
  const results = answers.map((item, index) => settle(requests[index] as BatchRequest, item, version))
  if (answers.length > 1 && answers[0] !== undefined && answers[0] === answers[1])
    for (const result of results)
      if (result.status === 'rejected') refusalsOfWhole.add(result.reason as object)
  return results as unknown as BatchResults<Requests>
}

/** True for the refusal of a message as a whole: its requests may succeed in smaller messages. */
export function refusesWhole(reason: unknown): boolean {
  return typeof reason === 'object' && reason !== null && refusalsOfWhole.has(reason)
}

const refusalsOfWhole = new WeakSet<object>()

function toMessage(requests: readonly BatchRequest[], header: RequestHeader): RequestMessage {
  const single = requests.length === 1
  const { version } = header
  const { batchErrorContinuation: _, ...alone } = header
  return {
    header: single ? alone : header,
    items: requests.map(({ operation, request }, index) => {
      const codec = operationCodec(operation)
      if (!isSince(version, codec.since))
        throw new VmsealError(
          'VMSEAL_KMIP_VERSION',
          `KMIP ${version}, which the KMS speaks, has no ${operation}`,
        )
      return {
        operation: enumerations.Operation[operation],
        ...(single ? {} : { uniqueBatchItemId: itemId(index) }),
        payload: structure(tags.RequestPayload, codec.encodeRequest(request, version)),
      }
    }),
  }
}

/**
 * The answer to each request: by id where the server repeats it, else by position. One item without a place for
 * several requests is a refusal of the message as a whole and stands for each of them.
 */
function matchAnswers(count: number, { items }: ResponseMessage): (ResponseItem | undefined)[] {
  const [first] = items
  if (count > 1 && items.length === 1 && first && !first.uniqueBatchItemId && first.operation === undefined)
    return Array.from({ length: count }, () => first)
  const matched = Array.from({ length: count }, (): ResponseItem | undefined => undefined)
  items.forEach((item, position) => {
    const index = item.uniqueBatchItemId && count > 1 ? itemIndex(item.uniqueBatchItemId) : position
    if (index >= count || matched[index]) {
      for (const { payload } of items) if (payload) disposeKeys(payload)
      throw malformed('an item answers no request')
    }
    matched[index] = item
  })
  return matched
}

function settle(
  { operation }: BatchRequest,
  item: ResponseItem | undefined,
  version: ProtocolVersion,
): PromiseSettledResult<unknown> {
  try {
    return { status: 'fulfilled', value: readItem(operation, item, version) }
  } catch (reason) {
    if (item?.payload) disposeKeys(item.payload)
    return { status: 'rejected', reason }
  }
}

function readItem(
  operation: OperationName,
  item: ResponseItem | undefined,
  version: ProtocolVersion,
): unknown {
  if (!item)
    throw new VmsealError(
      'VMSEAL_KMIP_OPERATION_FAILED',
      `the KMS did not answer to ${operation}: it stopped at an earlier failure`,
    )
  if (item.operation !== undefined && item.operation !== enumerations.Operation[operation])
    throw malformed(`${enumerationSymbol('Operation', item.operation)} is the answer to ${operation}`)
  if (item.status !== 'Success') throw refusal(operation, item)
  if (!item.payload) throw malformed(`the answer to ${operation} has no payload`)
  return operationCodec(operation).decodeResponse(new StructureReader(item.payload, true), version)
}

function refusal(operation: OperationName, { status, reason, message }: ResponseItem): VmsealError {
  const why =
    reason === undefined ? `${status}` : typeof reason === 'number' ? `0x${reason.toString(16)}` : reason
  const text = message === undefined ? '' : `: ${message}`
  const resultReason = isResultReason(why) ? commonReason(why) : why
  return new VmsealError('VMSEAL_KMIP_OPERATION_FAILED', `the KMS refused ${operation} (${why})${text}`, {
    details: { resultReason },
  })
}

function itemId(index: number): Uint8Array {
  const id = Buffer.alloc(4)
  id.writeUInt32BE(index)
  return new Uint8Array(id)
}

function itemIndex(id: Uint8Array): number {
  return id.byteLength === 4 ? Buffer.from(id).readUInt32BE() : Number.POSITIVE_INFINITY
}

function malformed(what: string): VmsealError {
  return new VmsealError('VMSEAL_KMIP_MALFORMED', `unusable KMIP answer: ${what}`)
}
