/** The Unique Identifier field that most payloads begin with. */
import { kmipFailure } from '../failure.js'
import { textString } from '../ttlv/node.js'
import type { TtlvNode } from '../ttlv/node.js'
import type { StructureReader } from '../ttlv/reader.js'
import { tags } from '../ttlv/tags.js'
import { isSince } from '../version.js'
import type { ProtocolVersion } from '../version.js'
import type { ObjectRequest, ObjectResponse } from './operation.js'

export function encodeIdentifier({ id }: ObjectRequest): TtlvNode[] {
  return id === undefined ? [] : [textString(tags.UniqueIdentifier, id)]
}

/** In 2.x an identifier may be an enumeration, of which the ID Placeholder is known here (KMIP 2.1, section 11.60). */
export function decodeIdentifier(payload: StructureReader, version: ProtocolVersion): ObjectRequest {
  const node = payload.optionalNode('UniqueIdentifier')
  if (node === undefined) return {}
  if (node.type === 'TextString') return { id: node.value }
  if (isSince(version, '2.0') && node.type === 'Enumeration' && node.value === idPlaceholder) return {}
  throw isSince(version, '2.0') && (node.type === 'Enumeration' || node.type === 'Integer')
    ? kmipFailure('FeatureNotSupported', 'of special identifiers only the ID Placeholder is known here')
    : kmipFailure('InvalidMessage', `UniqueIdentifier is of type ${node.type} instead of TextString`)
}

export function decodeRequiredIdentifier(payload: StructureReader): ObjectResponse {
  return { id: payload.required('UniqueIdentifier', 'TextString') }
}

const idPlaceholder = 1
