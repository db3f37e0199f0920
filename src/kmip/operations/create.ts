/** Create (KMIP 1.4, section 4.1): the server makes a symmetric key. */
import { decodeTemplateAttribute, encodeTemplateAttribute } from '../attributes.js'
import type { Attribute } from '../attributes.js'
import { enumerations } from '../ttlv/enumerations.js'
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import { enumeration, textString } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
import type { OperationCodec } from './operation.js'

export interface CreateRequest {
  readonly objectType: EnumerationSymbol<'ObjectType'> | number
  readonly attributes: readonly Attribute[]
}

export interface CreateResponse {
  readonly id: string
  readonly objectType: EnumerationSymbol<'ObjectType'> | number
  /** What the server chose where the client left it open. */
  readonly attributes?: readonly Attribute[]
}

export const create: OperationCodec<CreateRequest, CreateResponse> = {
  name: 'Create',
  since: '1.0',
  encodeRequest: ({ objectType, attributes }, version) => [
    encodeObjectType(objectType),
    encodeTemplateAttribute(attributes, version),
  ],
  decodeRequest: (payload, version) => ({
    objectType: payload.requiredSymbol('ObjectType', 'ObjectType'),
    attributes: decodeTemplateAttribute(payload.structure('TemplateAttribute'), version),
  }),
  encodeResponse: ({ id, objectType, attributes = [] }, version) => [
    encodeObjectType(objectType),
    textString(tags.UniqueIdentifier, id),
    ...(attributes.length === 0 ? [] : [encodeTemplateAttribute(attributes, version)]),
  ],
  decodeResponse(payload, version) {
    const chosen = payload.optionalStructure('TemplateAttribute')
    return {
      objectType: payload.requiredSymbol('ObjectType', 'ObjectType'),
      id: payload.required('UniqueIdentifier', 'TextString'),
      ...(chosen ? { attributes: decodeTemplateAttribute(chosen, version) } : {}),
    }
  },
}

function encodeObjectType(objectType: CreateRequest['objectType']) {
  return enumeration(
    tags.ObjectType,
    typeof objectType === 'number' ? objectType : enumerations.ObjectType[objectType],
  )
}
