/** DeleteAttribute (KMIP 1.4, section 4.16; KMIP 2.1, section 6.1). */
import { attributeWire } from '../wire/attributes.js'
import type { AttributeInstance } from '../wire/attributes.js'
import { attributeAnswer } from './attribute-answer.js'
import { decodeIdentifier, encodeIdentifier } from './identifier.js'
import type { AttributeResponse, ObjectRequest, OperationCodec } from './operation.js'

/**
 * 1.x names the instance by its index (0 when absent). 2.x names it by its value, or all instances of the attribute
 * when there is none. The answer holds the deleted attribute in 1.x.
 */
export interface DeleteAttributeRequest extends ObjectRequest, AttributeInstance {}

export const deleteAttribute: OperationCodec<DeleteAttributeRequest, AttributeResponse> = {
  name: 'DeleteAttribute',
  since: '1.0',
  encodeRequest: (request, version) => [
    ...encodeIdentifier(request),
    ...attributeWire(version).encodeInstance(request, version),
  ],
  decodeRequest: (payload, version) => ({
    ...decodeIdentifier(payload, version),
    ...attributeWire(version).decodeInstance(payload, version),
  }),
  ...attributeAnswer,
}
