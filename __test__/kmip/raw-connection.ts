/** Messages that our client would not send, over a connection of the native channel. */
import type { ExecutionContext } from 'ava'
import { decodeResponse, encodeRequest } from '../../src/kmip/messages.js'
import type { RequestHeader, ResponseMessage } from '../../src/kmip/messages.js'
import { operationCodec } from '../../src/kmip/operations/table.js'
import type { OperationName, RequestOf } from '../../src/kmip/operations/table.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { enumerations } from '../../src/kmip/ttlv/enumerations.js'
import { structure } from '../../src/kmip/ttlv/node.js'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import type { ProtocolVersion } from '../../src/kmip/version.js'
import type { Kms, KmsCredentials } from '../../src/kms/kms.js'
import { native } from '../../src/native/load.js'
import type { KmipConnection } from '../../src/native/load.js'

export interface RawItem {
  readonly operation: number
  readonly payload: TtlvNode
}

export function item(operation: keyof typeof enumerations.Operation, fields: readonly TtlvNode[]): RawItem {
  return { operation: enumerations.Operation[operation], payload: structure(tags.RequestPayload, fields) }
}

export function operationPayload<O extends OperationName>(
  name: O,
  content: RequestOf<O>,
  version: ProtocolVersion = '1.4',
): TtlvNode[] {
  return operationCodec(name).encodeRequest(content, version)
}

export function request(
  version: ProtocolVersion,
  items: readonly RawItem[],
  header: Omit<RequestHeader, 'version'> = {},
): TtlvNode {
  const withIds = items.map((one, index) => ({
    ...one,
    uniqueBatchItemId: Uint8Array.of(index >> 8, index & 255),
  }))
  return encodeRequest({ header: { version, ...header }, items: items.length > 1 ? withIds : items })
}

export interface RawAnswer extends ResponseMessage {
  readonly statuses: (string | number)[]
  readonly reasons: (string | number)[]
  /** How many keys came with it. */
  readonly keys: number
}

export async function openRaw(
  t: ExecutionContext,
  kms: Kms,
  credentials: KmsCredentials,
): Promise<KmipConnection> {
  const { caCertificate, ...rest } = credentials
  const connection = await native.KmipConnection.open({
    ...kms.endpoint,
    ...rest,
    caCertificates: caCertificate,
  })
  t.teardown(() => connection.close())
  return connection
}

export async function send(connection: KmipConnection, message: TtlvNode | Uint8Array): Promise<RawAnswer> {
  const bytes = message instanceof Uint8Array ? message : encodeTtlv(message)
  const { message: answer, keys } = await connection.request(bytes, [])
  for (const key of keys) key.dispose()
  const response = decodeResponse(decodeTtlv(answer))
  return {
    ...response,
    statuses: response.items.map(({ status }) => status),
    reasons: response.items.flatMap(({ reason }) => (reason === undefined ? [] : [reason])),
    keys: keys.length,
  }
}

/** One message on a connection of its own. */
export async function exchange(
  t: ExecutionContext,
  kms: Kms,
  credentials: KmsCredentials,
  message: TtlvNode | Uint8Array,
): Promise<RawAnswer> {
  const connection = await openRaw(t, kms, credentials)
  try {
    return await send(connection, message)
  } finally {
    connection.close()
  }
}
