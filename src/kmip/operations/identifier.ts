/** The Unique Identifier field that most payloads begin with. */
import { textString } from '../ttlv/node.js'
import type { TtlvNode } from '../ttlv/node.js'
import type { StructureReader } from '../ttlv/reader.js'
import { tags } from '../ttlv/tags.js'
import type { ObjectRequest, ObjectResponse } from './operation.js'

export function encodeIdentifier({ id }: ObjectRequest): TtlvNode[] {
  return id === undefined ? [] : [textString(tags.UniqueIdentifier, id)]
}

export function decodeIdentifier(payload: StructureReader): ObjectRequest {
  const id = payload.optional('UniqueIdentifier', 'TextString')
  return id === undefined ? {} : { id }
}

export function decodeRequiredIdentifier(payload: StructureReader): ObjectResponse {
  return { id: payload.required('UniqueIdentifier', 'TextString') }
}
