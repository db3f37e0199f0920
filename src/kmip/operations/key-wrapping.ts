/** Key Wrapping Specification and Key Wrapping Data (KMIP 1.4, sections 2.1.5 and 2.1.6). */
import { kmipFailure } from '../failure.js'
import { enumerations } from '../ttlv/enumerations.js'
import type { EnumerationName, EnumerationSymbol } from '../ttlv/enumerations.js'
import { enumeration, structure, textString } from '../ttlv/node.js'
import type { TtlvNode } from '../ttlv/node.js'
import type { StructureReader } from '../ttlv/reader.js'
import { tags } from '../ttlv/tags.js'
import type { TagName } from '../ttlv/tags.js'
import { isSince } from '../version.js'
import type { ProtocolVersion } from '../version.js'

/** How a key is wrapped under another (Encrypt alone). */
export interface KeyWrapping {
  readonly method: EnumerationSymbol<'WrappingMethod'> | number
  readonly wrappingKeyId: string
  /** NISTKeyWrap is RFC 3394, AESKeyWrapPadding RFC 5649; RSA has the padding OAEP and a hash instead. */
  readonly blockCipherMode?: EnumerationSymbol<'BlockCipherMode'> | number
  readonly paddingMethod?: EnumerationSymbol<'PaddingMethod'> | number
  readonly hashingAlgorithm?: EnumerationSymbol<'HashingAlgorithm'> | number
  readonly algorithm?: EnumerationSymbol<'CryptographicAlgorithm'> | number
  /**
   * NoEncoding wraps the bytes of the key, TTLVEncoding the encoded Key Value; the latter is meant when it is absent.
   * Since 1.1.
   */
  readonly encodingOption?: EnumerationSymbol<'EncodingOption'> | number
}

/** The fields of Cryptographic Parameters that matter here, in the order of the wire. */
const parameters = [
  { name: 'blockCipherMode', tag: 'BlockCipherMode', symbols: 'BlockCipherMode', since: '1.0' },
  { name: 'paddingMethod', tag: 'PaddingMethod', symbols: 'PaddingMethod', since: '1.0' },
  { name: 'hashingAlgorithm', tag: 'HashingAlgorithm', symbols: 'HashingAlgorithm', since: '1.0' },
  { name: 'algorithm', tag: 'CryptographicAlgorithm', symbols: 'CryptographicAlgorithm', since: '1.2' },
] as const satisfies readonly {
  name: keyof KeyWrapping
  tag: TagName
  symbols: EnumerationName
  since: ProtocolVersion
}[]

export function encodeKeyWrapping(tag: number, wrapping: KeyWrapping, version: ProtocolVersion): TtlvNode {
  const fields = parameters.flatMap((field) => {
    const value = wrapping[field.name]
    return value === undefined || !isSince(version, field.since)
      ? []
      : [enumeration(tags[field.tag], code(field.symbols, value))]
  })
  const { encodingOption } = wrapping
  return structure(tag, [
    enumeration(tags.WrappingMethod, code('WrappingMethod', wrapping.method)),
    structure(tags.EncryptionKeyInformation, [
      textString(tags.UniqueIdentifier, wrapping.wrappingKeyId),
      ...(fields.length === 0 ? [] : [structure(tags.CryptographicParameters, fields)]),
    ]),
    ...(encodingOption === undefined || !isSince(version, '1.1')
      ? []
      : [enumeration(tags.EncodingOption, code('EncodingOption', encodingOption))]),
  ])
}

/** A strict reader refuses what it does not know: a key wrapped otherwise than asked is of no use. */
export function decodeKeyWrapping(reader: StructureReader, version: ProtocolVersion): KeyWrapping {
  const method = reader.requiredSymbol('WrappingMethod', 'WrappingMethod')
  const information = reader.lenient
    ? reader.structure('EncryptionKeyInformation')
    : reader.optionalStructure('EncryptionKeyInformation')
  if (!information) throw kmipFailure('FeatureNotSupported', 'keys are wrapped by encryption only')
  const wrappingKeyId = information.required('UniqueIdentifier', 'TextString')
  const fields = information.optionalStructure('CryptographicParameters')
  const chosen: Record<string, string | number> = {}
  for (const field of fields ? parameters : []) {
    if (!isSince(version, field.since)) continue
    const value = fields?.optionalSymbol(field.tag, field.symbols)
    if (value !== undefined) chosen[field.name] = value
  }
  if (fields?.hasRest && !fields.lenient)
    throw kmipFailure('FeatureNotSupported', 'a cryptographic parameter of the wrapping is not known here')
  information.end()
  const encodingOption = isSince(version, '1.1')
    ? reader.optionalSymbol('EncodingOption', 'EncodingOption')
    : undefined
  if (reader.nodes('AttributeName').length > 0)
    throw kmipFailure('FeatureNotSupported', 'attributes are not wrapped with keys here')
  if (reader.hasRest && !reader.lenient)
    throw kmipFailure('FeatureNotSupported', 'keys are wrapped by encryption only')
  return {
    method,
    wrappingKeyId,
    ...chosen,
    ...(encodingOption === undefined ? {} : { encodingOption }),
  }
}

function code(name: EnumerationName, value: string | number): number {
  if (typeof value === 'number') return value
  const table: Readonly<Record<string, number>> = enumerations[name]
  return table[value] as number
}
