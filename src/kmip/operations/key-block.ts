/** Key Block (KMIP 1.4, section 2.1.3): a key in Raw form, or one that is wrapped. */
import type { VmsealError } from '../../errors.js'
import type { KeyHandle } from '../../native/load.js'
import { enumerations } from '../ttlv/enumerations.js'
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import { byteString, enumeration, integer, keyString, structure } from '../ttlv/node.js'
import type { TtlvNode } from '../ttlv/node.js'
import { StructureReader } from '../ttlv/reader.js'
import { tags } from '../ttlv/tags.js'
import type { ProtocolVersion } from '../version.js'
import { decodeKeyWrapping, encodeKeyWrapping } from './key-wrapping.js'
import type { KeyWrapping } from './key-wrapping.js'

export interface PlainKeyBlock {
  /** Who receives it disposes of it. */
  readonly key: KeyHandle
  readonly wrapped?: undefined
  readonly algorithm: EnumerationSymbol<'CryptographicAlgorithm'> | number
  /** Bits. */
  readonly length: number
}

/** Its algorithm and length may be left out. */
export interface WrappedKeyBlock {
  readonly key?: undefined
  /** The key under the wrapping key: ciphertext. */
  readonly wrapped: Uint8Array
  readonly wrapping: KeyWrapping
  readonly algorithm?: EnumerationSymbol<'CryptographicAlgorithm'> | number
  /** Bits of the key inside. */
  readonly length?: number
}

/** `broken` makes the error of an unusable block. A wrapped Key Value is a Byte String (section 2.1.5). */
export function encodeKeyBlock(block: PlainKeyBlock | WrappedKeyBlock, version: ProtocolVersion): TtlvNode {
  const { algorithm, length } = block
  return structure(tags.KeyBlock, [
    encodeFormat('Raw'),
    block.key
      ? structure(tags.KeyValue, [keyString(tags.KeyMaterial, block.key)])
      : byteString(tags.KeyValue, block.wrapped),
    ...(algorithm === undefined ? [] : [encodeAlgorithm(algorithm)]),
    ...(length === undefined ? [] : [integer(tags.CryptographicLength, length)]),
    ...(block.key ? [] : [encodeKeyWrapping(tags.KeyWrappingData, block.wrapping, version)]),
  ])
}

export function decodeKeyBlock(
  block: StructureReader,
  version: ProtocolVersion,
  broken: (what: string) => VmsealError,
): PlainKeyBlock | WrappedKeyBlock {
  const format = block.requiredSymbol('KeyFormatType', 'KeyFormatType')
  if (format !== 'Raw') throw broken(`the key comes in the format ${format} instead of Raw`)
  if (block.optionalNode('KeyCompressionType')) throw broken('the key comes compressed')
  const value = block.node('KeyValue')
  const algorithm = block.optionalSymbol('CryptographicAlgorithm', 'CryptographicAlgorithm')
  const length = block.optional('CryptographicLength', 'Integer')
  const wrapping = block.optionalStructure('KeyWrappingData')
  block.end()
  if (wrapping)
    return {
      wrapped: decodeWrapped(value, broken),
      wrapping: decodeKeyWrapping(wrapping, version),
      ...(algorithm === undefined ? {} : { algorithm }),
      ...(length === undefined ? {} : { length }),
    }
  const key = decodePlain(value, block.lenient, broken)
  if (algorithm === undefined || length === undefined) throw broken('the key has no algorithm or no length')
  if (length !== key.length * 8) throw broken(`the key has ${key.length} bytes and claims ${length} bits`)
  return { key, algorithm, length }
}

export function encodeFormat(format: EnumerationSymbol<'KeyFormatType'> | number): TtlvNode {
  return enumeration(
    tags.KeyFormatType,
    typeof format === 'number' ? format : enumerations.KeyFormatType[format],
  )
}

function encodeAlgorithm(algorithm: PlainKeyBlock['algorithm']): TtlvNode {
  return enumeration(
    tags.CryptographicAlgorithm,
    typeof algorithm === 'number' ? algorithm : enumerations.CryptographicAlgorithm[algorithm],
  )
}

function decodePlain(value: TtlvNode, lenient: boolean, broken: (what: string) => VmsealError): KeyHandle {
  const reader = new StructureReader(value, lenient)
  const material = reader.node('KeyMaterial')
  reader.end()
  if (material.type !== 'ByteString' || !material.key) throw broken('there is no key in it')
  return material.key
}

/** PyKMIP keeps the Key Value structure and wraps the Key Material in it. */
function decodeWrapped(value: TtlvNode, broken: (what: string) => VmsealError): Uint8Array {
  const bytes = value.type === 'Structure' ? new StructureReader(value, true).node('KeyMaterial') : value
  if (bytes.type === 'ByteString' && !bytes.key && bytes.value.byteLength > 0) return bytes.value
  throw broken('the wrapped key is no byte string')
}
