/** Get of a symmetric key in Raw form (KMIP 1.4, section 4.11; Key Block: section 2.1.3). */
import { VmsealError } from '../../errors.js'
import type { KeyHandle } from '../../native/load.js'
import { kmipFailure } from '../failure.js'
import { enumerations } from '../ttlv/enumerations.js'
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import { enumeration, integer, keyString, structure, textString } from '../ttlv/node.js'
import type { TtlvNode } from '../ttlv/node.js'
import type { StructureReader } from '../ttlv/reader.js'
import { tags } from '../ttlv/tags.js'
import { isSince } from '../version.js'
import { decodeIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectRequest, OperationCodec } from './operation.js'

export interface GetRequest extends ObjectRequest {
  /** Raw when absent. */
  readonly keyFormatType?: EnumerationSymbol<'KeyFormatType'> | number
}

export interface GetResponse {
  readonly id: string
  /** Who receives it disposes of it. */
  readonly key: KeyHandle
  readonly algorithm: EnumerationSymbol<'CryptographicAlgorithm'> | number
  /** Bits. */
  readonly length: number
}

export const get: OperationCodec<GetRequest, GetResponse> = {
  name: 'Get',
  since: '1.0',
  encodeRequest: (request) => [
    ...encodeIdentifier(request),
    ...(request.keyFormatType === undefined ? [] : [encodeFormat(request.keyFormatType)]),
  ],
  decodeRequest(payload, version) {
    const request = decodeIdentifier(payload)
    const keyFormatType = payload.optionalSymbol('KeyFormatType', 'KeyFormatType')
    if (payload.optionalNode('KeyCompressionType'))
      throw kmipFailure('KeyCompressionTypeNotSupported', 'keys are not compressed here')
    if (payload.optionalNode('KeyWrappingSpecification'))
      throw kmipFailure('FeatureNotSupported', 'keys are not wrapped for Get here')
    // As Registered (2) and Not Wrapped (1) are the same for a key that never was wrapped.
    if (isSince(version, '1.4')) payload.optional('KeyWrapType', 'Enumeration')
    return keyFormatType === undefined ? request : { ...request, keyFormatType }
  },
  encodeResponse: ({ id, key, algorithm, length }) => [
    enumeration(tags.ObjectType, enumerations.ObjectType.SymmetricKey),
    textString(tags.UniqueIdentifier, id),
    structure(tags.SymmetricKey, [
      structure(tags.KeyBlock, [
        encodeFormat('Raw'),
        structure(tags.KeyValue, [keyString(tags.KeyMaterial, key)]),
        enumeration(
          tags.CryptographicAlgorithm,
          typeof algorithm === 'number' ? algorithm : enumerations.CryptographicAlgorithm[algorithm],
        ),
        integer(tags.CryptographicLength, length),
      ]),
    ]),
  ],
  decodeResponse(payload) {
    const id = payload.required('UniqueIdentifier', 'TextString')
    const objectType = payload.requiredSymbol('ObjectType', 'ObjectType')
    if (objectType !== 'SymmetricKey')
      throw malformed(`the object ${id} is no symmetric key but ${objectType}`)
    const block = payload.structure('SymmetricKey').structure('KeyBlock')
    const format = block.requiredSymbol('KeyFormatType', 'KeyFormatType')
    if (format !== 'Raw') throw malformed(`the key ${id} comes in the format ${format} instead of Raw`)
    if (block.optionalNode('KeyWrappingData')) throw malformed(`the key ${id} comes wrapped`)
    const key = decodeMaterial(block.structure('KeyValue'), id)
    const algorithm = block.requiredSymbol('CryptographicAlgorithm', 'CryptographicAlgorithm')
    const length = block.required('CryptographicLength', 'Integer')
    if (length !== key.length * 8)
      throw malformed(`the key ${id} has ${key.length} bytes and claims ${length} bits`)
    return { id, key, algorithm, length }
  },
}

function encodeFormat(format: EnumerationSymbol<'KeyFormatType'> | number): TtlvNode {
  return enumeration(
    tags.KeyFormatType,
    typeof format === 'number' ? format : enumerations.KeyFormatType[format],
  )
}

function decodeMaterial(value: StructureReader, id: string): KeyHandle {
  const material = value.node('KeyMaterial')
  if (material.type !== 'ByteString' || !material.key) throw malformed(`the answer for ${id} holds no key`)
  return material.key
}

function malformed(what: string): VmsealError {
  return new VmsealError('VMSEAL_KMIP_MALFORMED', `unusable KMIP answer: ${what}`)
}
