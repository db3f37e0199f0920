/** AddAttribute (KMIP 1.4, section 4.14). */
import { decodeAttribute, encodeAttribute } from '../attributes.js'
import type { Attribute } from '../attributes.js'
import { textString } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
import { decodeIdentifier, decodeRequiredIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectRequest, ObjectResponse, OperationCodec } from './operation.js'

export interface AddAttributeRequest extends ObjectRequest {
  readonly attribute: Attribute
}

export interface AddAttributeResponse extends ObjectResponse {
  /** With the index that the server gave it. */
  readonly attribute: Attribute
}

export const addAttribute: OperationCodec<AddAttributeRequest, AddAttributeResponse> = {
  name: 'AddAttribute',
  since: '1.0',
  encodeRequest: (request, version) => [
    ...encodeIdentifier(request),
    encodeAttribute(request.attribute, version),
  ],
  decodeRequest: (payload, version) => ({
    ...decodeIdentifier(payload),
    attribute: decodeAttribute(payload.structure('Attribute'), version),
  }),
  encodeResponse: ({ id, attribute }, version) => [
    textString(tags.UniqueIdentifier, id),
    encodeAttribute(attribute, version),
  ],
  decodeResponse: (payload, version) => ({
    ...decodeRequiredIdentifier(payload),
    attribute: decodeAttribute(payload.structure('Attribute'), version),
  }),
}
