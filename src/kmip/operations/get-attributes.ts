/** GetAttributes (KMIP 1.4, section 4.12; KMIP 2.1, section 6.1). */
import { hasAttribute } from '../attribute-table.js'
import type { Attribute } from '../attributes.js'
import { textString } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
import { attributeWire } from '../wire/attributes.js'
import { decodeIdentifier, decodeRequiredIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectRequest, ObjectResponse, OperationCodec } from './operation.js'

export interface GetAttributesRequest extends ObjectRequest {
  /** None asks for all. */
  readonly names: readonly string[]
}

export interface GetAttributesResponse extends ObjectResponse {
  readonly attributes: readonly Attribute[]
}

export const getAttributes: OperationCodec<GetAttributesRequest, GetAttributesResponse> = {
  name: 'GetAttributes',
  since: '1.0',
  encodeRequest: (request, version) => [
    ...encodeIdentifier(request),
    ...attributeWire(version).encodeNames(request.names, version),
  ],
  decodeRequest: (payload, version) => ({
    ...decodeIdentifier(payload, version),
    names: attributeWire(version).decodeNames(payload, version),
  }),
  // An attribute that the version lacks would break the client.
  encodeResponse: ({ id, attributes }, version) => [
    textString(tags.UniqueIdentifier, id),
    ...attributeWire(version).encodeList(
      attributes.filter(({ name }) => hasAttribute(name, version)),
      version,
    ),
  ],
  decodeResponse: (payload, version) => ({
    ...decodeRequiredIdentifier(payload),
    attributes: attributeWire(version).decodeList(payload, version),
  }),
}
