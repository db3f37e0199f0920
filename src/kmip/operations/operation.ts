import type { Attribute } from '../attributes.js'
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import type { TtlvNode } from '../ttlv/node.js'
import type { StructureReader } from '../ttlv/reader.js'
import type { ProtocolVersion } from '../version.js'

/**
 * The payloads of one operation, both ways, for both sides. What a version lacks is left out when encoding
 * and counts as an unknown field when decoding. Decoders throw VMSEAL_KMIP_MALFORMED, or
 * VMSEAL_KMIP_OPERATION_FAILED when the content is readable and not allowed.
 */
export interface OperationCodec<Request, Response> {
  readonly name: EnumerationSymbol<'Operation'>
  readonly since: ProtocolVersion
  encodeRequest(request: Request, version: ProtocolVersion): TtlvNode[]
  decodeRequest(payload: StructureReader, version: ProtocolVersion): Request
  encodeResponse(response: Response, version: ProtocolVersion): TtlvNode[]
  decodeResponse(payload: StructureReader, version: ProtocolVersion): Response
}

/** Requests about one object. Without an id the server takes the ID Placeholder of the batch. */
export interface ObjectRequest {
  readonly id?: string
}

export interface ObjectResponse {
  readonly id: string
}

export interface AttributeResponse extends ObjectResponse {
  /** As the server has it, with its index. 1.x repeats it, 2.x does not. */
  readonly attribute?: Attribute
}
