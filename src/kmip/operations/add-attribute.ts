/** AddAttribute (KMIP 1.4, section 4.14; KMIP 2.1, section 6.1). */
import type { Attribute } from '../attributes.js'
import { attributeWire } from '../wire/attributes.js'
import { attributeAnswer } from './attribute-answer.js'
import { decodeIdentifier, encodeIdentifier } from './identifier.js'
import type { AttributeResponse, ObjectRequest, OperationCodec } from './operation.js'

export interface AddAttributeRequest extends ObjectRequest {
  readonly attribute: Attribute
}

export const addAttribute: OperationCodec<AddAttributeRequest, AttributeResponse> = {
  name: 'AddAttribute',
  since: '1.0',
  encodeRequest: (request, version) => [
    ...encodeIdentifier(request),
    ...attributeWire(version).encodeNew(request.attribute, version),
  ],
  decodeRequest: (payload, version) => ({
    ...decodeIdentifier(payload, version),
    attribute: attributeWire(version).decodeNew(payload, version).attribute,
  }),
  ...attributeAnswer,
}
