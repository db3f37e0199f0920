/** ReKey (KMIP 1.4, section 4.4): a new key in the place of an old one, under the old one's name. */
import type { Attribute } from '../attributes.js'
import { textString } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
import { attributeWire } from '../wire/attributes.js'
import { decodeChosen, encodeChosen } from './create.js'
import { decodeIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectRequest, OperationCodec } from './operation.js'
import type { RegisterResponse } from './register.js'

export interface ReKeyRequest extends ObjectRequest {
  /** Seconds from the new key's Initial Date to its Activation Date; without it no dates are set. */
  readonly offset?: number
  /** Replace those that the new key takes over from the old one. */
  readonly attributes?: readonly Attribute[]
}

export const reKey: OperationCodec<ReKeyRequest, RegisterResponse> = {
  name: 'ReKey',
  since: '1.0',
  encodeRequest: ({ offset, attributes, ...request }, version) => [
    ...encodeIdentifier(request),
    ...(offset === undefined ? [] : [{ tag: tags.Offset, type: 'Interval', value: offset } as const]),
    ...(attributes === undefined ? [] : [attributeWire(version).encodeTemplate(attributes, version)]),
  ],
  decodeRequest(payload, version) {
    const request = decodeIdentifier(payload, version)
    const offset = payload.optional('Offset', 'Interval')
    const attributes = attributeWire(version).decodeTemplate(payload, version)
    return {
      ...request,
      ...(offset === undefined ? {} : { offset }),
      ...(attributes === undefined ? {} : { attributes }),
    }
  },
  encodeResponse: ({ id, attributes }, version) => [
    textString(tags.UniqueIdentifier, id),
    ...encodeChosen(attributes, version),
  ],
  decodeResponse: (payload, version) => ({
    id: payload.required('UniqueIdentifier', 'TextString'),
    ...decodeChosen(payload, version),
  }),
}
