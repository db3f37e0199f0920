/** AdjustAttribute (KMIP 2.1, section 6.1): changes a number or a truth value by what it is. */
import { kmipFailure } from '../failure.js'
import { enumerations } from '../ttlv/enumerations.js'
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import { enumeration, integer } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
import { attributeWire } from '../wire/attributes.js'
import { decodeIdentifier, decodeRequiredIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectRequest, ObjectResponse, OperationCodec } from './operation.js'

export interface AdjustAttributeRequest extends ObjectRequest {
  readonly name: string
  readonly type: EnumerationSymbol<'AdjustmentType'> | number
  /** What to add or take away; 1 when absent. */
  readonly value?: number
}

export const adjustAttribute: OperationCodec<AdjustAttributeRequest, ObjectResponse> = {
  name: 'AdjustAttribute',
  since: '2.0',
  encodeRequest: ({ name, type, value, ...request }, version) => [
    ...encodeIdentifier(request),
    ...attributeWire(version).encodeNames([name], version),
    enumeration(tags.AdjustmentType, typeof type === 'number' ? type : enumerations.AdjustmentType[type]),
    ...(value === undefined ? [] : [integer(tags.AdjustmentValue, value)]),
  ],
  decodeRequest(payload, version) {
    const request = decodeIdentifier(payload, version)
    const [name, ...others] = attributeWire(version).decodeNames(payload, version)
    if (name === undefined || others.length > 0)
      throw kmipFailure('InvalidMessage', 'AdjustAttribute names one attribute')
    const type = payload.requiredSymbol('AdjustmentType', 'AdjustmentType')
    const value = payload.optional('AdjustmentValue', 'Integer')
    return { ...request, name, type, ...(value === undefined ? {} : { value }) }
  },
  encodeResponse: encodeIdentifier,
  decodeResponse: decodeRequiredIdentifier,
}
