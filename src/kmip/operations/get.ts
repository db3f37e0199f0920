/** Get of a symmetric key, in Raw form or wrapped under another key (KMIP 1.4, section 4.11). */
import { VmsealError } from '../../errors.js'
import { kmipFailure } from '../failure.js'
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import { structure, textString } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
import { isSince } from '../version.js'
import { encodeObjectType } from './create.js'
import { decodeIdentifier, encodeIdentifier } from './identifier.js'
import { decodeKeyBlock, encodeFormat, encodeKeyBlock } from './key-block.js'
import type { PlainKeyBlock, WrappedKeyBlock } from './key-block.js'
import { decodeKeyWrapping, encodeKeyWrapping } from './key-wrapping.js'
import type { KeyWrapping } from './key-wrapping.js'
import type { ObjectRequest, ObjectResponse, OperationCodec } from './operation.js'

export interface GetRequest extends ObjectRequest {
  /** Raw when absent. */
  readonly keyFormatType?: EnumerationSymbol<'KeyFormatType'> | number
  /** The answer is to hold the key wrapped like this. */
  readonly wrapping?: KeyWrapping
}

export interface PlainKey extends ObjectResponse, PlainKeyBlock {}

export interface WrappedKey extends ObjectResponse, WrappedKeyBlock {}

export type GetResponse = PlainKey | WrappedKey

export const get: OperationCodec<GetRequest, GetResponse> = {
  name: 'Get',
  since: '1.0',
  encodeRequest: (request, version) => [
    ...encodeIdentifier(request),
    ...(request.keyFormatType === undefined ? [] : [encodeFormat(request.keyFormatType)]),
    ...(request.wrapping === undefined
      ? []
      : [encodeKeyWrapping(tags.KeyWrappingSpecification, request.wrapping, version)]),
  ],
  decodeRequest(payload, version) {
    const request = decodeIdentifier(payload, version)
    const keyFormatType = payload.optionalSymbol('KeyFormatType', 'KeyFormatType')
    if (payload.optionalNode('KeyCompressionType'))
      throw kmipFailure('KeyCompressionTypeNotSupported', 'keys are not compressed here')
    const wrapping = payload.optionalStructure('KeyWrappingSpecification')
    // As Registered (2) and Not Wrapped (1) are the same for a key that never was wrapped.
    if (isSince(version, '1.4')) payload.optional('KeyWrapType', 'Enumeration')
    return {
      ...request,
      ...(keyFormatType === undefined ? {} : { keyFormatType }),
      ...(wrapping === undefined ? {} : { wrapping: decodeKeyWrapping(wrapping, version) }),
    }
  },
  encodeResponse: ({ id, ...block }, version) => [
    encodeObjectType('SymmetricKey'),
    textString(tags.UniqueIdentifier, id),
    structure(tags.SymmetricKey, [encodeKeyBlock(block, version)]),
  ],
  decodeResponse(payload, version) {
    const id = payload.required('UniqueIdentifier', 'TextString')
    const objectType = payload.requiredSymbol('ObjectType', 'ObjectType')
    if (objectType !== 'SymmetricKey')
      throw unusable(`the object ${id} is no symmetric key but ${objectType}`)
    const block = payload.structure('SymmetricKey').structure('KeyBlock')
    return { id, ...decodeKeyBlock(block, version, (what) => unusable(`${what} (key ${id})`)) }
  },
}

function unusable(what: string): VmsealError {
  return new VmsealError('VMSEAL_KMIP_MALFORMED', `unusable KMIP answer: ${what}`)
}
