/** GetAttributes (KMIP 1.4, section 4.12). */
import { attributeDefinition, isCustomAttribute } from '../attribute-table.js'
import { decodeAttributes, encodeAttribute } from '../attributes.js'
import type { Attribute } from '../attributes.js'
import { textString } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
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
  encodeRequest: (request) => [
    ...encodeIdentifier(request),
    ...request.names.map((name) => textString(tags.AttributeName, name)),
  ],
  decodeRequest: (payload) => ({
    ...decodeIdentifier(payload),
    names: payload.all('AttributeName', 'TextString'),
  }),
  // An attribute that the version lacks would break the client.
  encodeResponse: ({ id, attributes }, version) => [
    textString(tags.UniqueIdentifier, id),
    ...attributes
      .filter(({ name }) => isCustomAttribute(name) || attributeDefinition(name, version))
      .map((attribute) => encodeAttribute(attribute, version)),
  ],
  decodeResponse: (payload, version) => ({
    ...decodeRequiredIdentifier(payload),
    attributes: decodeAttributes(payload, version),
  }),
}
