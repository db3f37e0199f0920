/** Register of a symmetric key that was made elsewhere, Raw and not wrapped (KMIP 1.4, section 4.3). */
import type { KeyHandle } from '../../native/load.js'
import type { Attribute } from '../attributes.js'
import { kmipFailure } from '../failure.js'
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import { structure, textString } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
import { attributeWire } from '../wire/attributes.js'
import { decodeChosen, decodeNewAttributes, encodeChosen, encodeObjectType } from './create.js'
import { decodeKeyBlock, encodeKeyBlock } from './key-block.js'
import type { ObjectResponse, OperationCodec } from './operation.js'

export interface RegisterRequest {
  /** In native memory. A client disposes of its own; the server's is gone when the operation is done. */
  readonly key: KeyHandle
  readonly algorithm: EnumerationSymbol<'CryptographicAlgorithm'> | number
  /** Bits; those of `key`. */
  readonly length: number
  readonly attributes: readonly Attribute[]
}

export interface RegisterResponse extends ObjectResponse {
  /** 1.x: what the server chose. */
  readonly attributes?: readonly Attribute[]
}

export const register: OperationCodec<RegisterRequest, RegisterResponse> = {
  name: 'Register',
  since: '1.0',
  encodeRequest: ({ key, algorithm, length, attributes }, version) => [
    encodeObjectType('SymmetricKey'),
    attributeWire(version).encodeTemplate(attributes, version),
    structure(tags.SymmetricKey, [encodeKeyBlock({ key, algorithm, length }, version)]),
  ],
  decodeRequest(payload, version) {
    const objectType = payload.requiredSymbol('ObjectType', 'ObjectType')
    if (objectType !== 'SymmetricKey')
      throw kmipFailure('InvalidField', `only symmetric keys are registered here, not ${objectType}`)
    const attributes = decodeNewAttributes(payload, version)
    const object = payload.structure('SymmetricKey')
    const block = decodeKeyBlock(object.structure('KeyBlock'), version, refuse)
    object.end()
    if (!block.key) throw kmipFailure('FeatureNotSupported', 'wrapped keys are not registered here')
    const { key, algorithm, length } = block
    return { key, algorithm, length, attributes }
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

function refuse(what: string) {
  return kmipFailure('InvalidField', what)
}
