/** GetAttributeList (KMIP 1.4, section 4.13): the names of the attributes that an object has. */
import { hasAttribute } from '../attribute-table.js'
import { textString } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
import { attributeWire } from '../wire/attributes.js'
import { decodeIdentifier, decodeRequiredIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectRequest, ObjectResponse, OperationCodec } from './operation.js'

export interface GetAttributeListResponse extends ObjectResponse {
  /** Each once. */
  readonly names: readonly string[]
}

export const getAttributeList: OperationCodec<ObjectRequest, GetAttributeListResponse> = {
  name: 'GetAttributeList',
  since: '1.0',
  encodeRequest: encodeIdentifier,
  decodeRequest: decodeIdentifier,
  encodeResponse: ({ id, names }, version) => [
    textString(tags.UniqueIdentifier, id),
    ...attributeWire(version).encodeNames(
      names.filter((name) => hasAttribute(name, version)),
      version,
    ),
  ],
  decodeResponse: (payload, version) => ({
    ...decodeRequiredIdentifier(payload),
    names: attributeWire(version).decodeNames(payload, version),
  }),
}
