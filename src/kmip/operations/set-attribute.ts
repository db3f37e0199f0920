/** SetAttribute (KMIP 2.1, section 6.1): adds the one instance of an attribute or gives it another value. */
import { attributeWire } from '../wire/attributes.js'
import type { AddAttributeRequest } from './add-attribute.js'
import { decodeIdentifier, decodeRequiredIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectResponse, OperationCodec } from './operation.js'

export const setAttribute: OperationCodec<AddAttributeRequest, ObjectResponse> = {
  name: 'SetAttribute',
  since: '2.0',
  encodeRequest: (request, version) => [
    ...encodeIdentifier(request),
    ...attributeWire(version).encodeNew(request.attribute, version),
  ],
  decodeRequest: (payload, version) => ({
    ...decodeIdentifier(payload, version),
    attribute: attributeWire(version).decodeNew(payload, version).attribute,
  }),
  encodeResponse: encodeIdentifier,
  decodeResponse: decodeRequiredIdentifier,
}
