/** The answer to a change of an attribute. */
import { textString } from '../ttlv/node.js'
import type { TtlvNode } from '../ttlv/node.js'
import type { StructureReader } from '../ttlv/reader.js'
import { tags } from '../ttlv/tags.js'
import type { ProtocolVersion } from '../version.js'
import { attributeWire } from '../wire/attributes.js'
import { decodeRequiredIdentifier } from './identifier.js'
import type { AttributeResponse } from './operation.js'

export const attributeAnswer = {
  encodeResponse: ({ id, attribute }: AttributeResponse, version: ProtocolVersion): TtlvNode[] => [
    textString(tags.UniqueIdentifier, id),
    ...attributeWire(version).encodeEcho(attribute, version),
  ],
  decodeResponse: (payload: StructureReader, version: ProtocolVersion): AttributeResponse => {
    const response = decodeRequiredIdentifier(payload)
    const attribute = attributeWire(version).decodeEcho(payload, version)
    return attribute ? { ...response, attribute } : response
  },
}
