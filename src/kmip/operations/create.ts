/** Create (KMIP 1.4, section 4.1; KMIP 2.1, section 6.1): the server makes a symmetric key. */
import type { Attribute } from '../attributes.js'
import { kmipFailure } from '../failure.js'
import { enumerations } from '../ttlv/enumerations.js'
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import { enumeration, textString } from '../ttlv/node.js'
import type { TtlvNode } from '../ttlv/node.js'
import type { StructureReader } from '../ttlv/reader.js'
import { tags } from '../ttlv/tags.js'
import { isSince } from '../version.js'
import type { ProtocolVersion } from '../version.js'
import { attributeWire } from '../wire/attributes.js'
import type { OperationCodec } from './operation.js'

export interface CreateRequest {
  readonly objectType: EnumerationSymbol<'ObjectType'> | number
  readonly attributes: readonly Attribute[]
}

export interface CreateResponse {
  readonly id: string
  readonly objectType: EnumerationSymbol<'ObjectType'> | number
  /** 1.x: what the server chose where the client left it open. */
  readonly attributes?: readonly Attribute[]
}

export const create: OperationCodec<CreateRequest, CreateResponse> = {
  name: 'Create',
  since: '1.0',
  encodeRequest: ({ objectType, attributes }, version) => [
    encodeObjectType(objectType),
    attributeWire(version).encodeTemplate(attributes, version),
  ],
  decodeRequest: (payload, version) => ({
    objectType: payload.requiredSymbol('ObjectType', 'ObjectType'),
    attributes: decodeNewAttributes(payload, version),
  }),
  encodeResponse: ({ id, objectType, attributes }, version) => [
    encodeObjectType(objectType),
    textString(tags.UniqueIdentifier, id),
    ...encodeChosen(attributes, version),
  ],
  decodeResponse: (payload, version) => ({
    objectType: payload.requiredSymbol('ObjectType', 'ObjectType'),
    id: payload.required('UniqueIdentifier', 'TextString'),
    ...decodeChosen(payload, version),
  }),
}

export function encodeObjectType(objectType: CreateRequest['objectType']): TtlvNode {
  return enumeration(
    tags.ObjectType,
    typeof objectType === 'number' ? objectType : enumerations.ObjectType[objectType],
  )
}

/** The attributes without which there is no new object. */
export function decodeNewAttributes(payload: StructureReader, version: ProtocolVersion): Attribute[] {
  const attributes = attributeWire(version).decodeTemplate(payload, version)
  if (attributes) return attributes
  throw kmipFailure('InvalidMessage', 'the request lacks the attributes of the new object')
}

/** What the server chose; answers of 2.x have no place for it. */
export function encodeChosen(
  attributes: readonly Attribute[] | undefined,
  version: ProtocolVersion,
): TtlvNode[] {
  if (!attributes || attributes.length === 0 || isSince(version, '2.0')) return []
  return [attributeWire(version).encodeTemplate(attributes, version)]
}

export function decodeChosen(
  payload: StructureReader,
  version: ProtocolVersion,
): { readonly attributes?: Attribute[] } {
  const attributes = attributeWire(version).decodeTemplate(payload, version)
  return attributes ? { attributes } : {}
}
