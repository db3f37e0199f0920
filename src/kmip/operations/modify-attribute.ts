/** ModifyAttribute (KMIP 1.4, section 4.15; KMIP 2.1, section 6.1). */
import type { Attribute, AttributeValue } from '../attributes.js'
import { attributeWire } from '../wire/attributes.js'
import { attributeAnswer } from './attribute-answer.js'
import { decodeIdentifier, encodeIdentifier } from './identifier.js'
import type { AttributeResponse, ObjectRequest, OperationCodec } from './operation.js'

export interface ModifyAttributeRequest extends ObjectRequest {
  /** The new value; in 1.x its index says of which instance (0 when absent). */
  readonly attribute: Attribute
  /** 2.x: the value of the instance that is to change; needed only where there are several. */
  readonly current?: AttributeValue
}

export const modifyAttribute: OperationCodec<ModifyAttributeRequest, AttributeResponse> = {
  name: 'ModifyAttribute',
  since: '1.0',
  encodeRequest: ({ attribute, current, ...request }, version) => [
    ...encodeIdentifier(request),
    ...attributeWire(version).encodeNew(attribute, version, current),
  ],
  decodeRequest: (payload, version) => ({
    ...decodeIdentifier(payload, version),
    ...attributeWire(version).decodeNew(payload, version),
  }),
  ...attributeAnswer,
}
