/** The attributes of a key: those the KMS keeps itself, and those that clients gave it. */
import { attributeTable, isCustomAttribute } from '../kmip/attribute-table.js'
import type { AttributeDefinition, StandardAttributeName } from '../kmip/attribute-table.js'
import { decodeAttributeValue, encodeAttributeValue } from '../kmip/attributes.js'
import type { Attribute, AttributeValue } from '../kmip/attributes.js'
import { kmipFailure } from '../kmip/failure.js'
import { decodeTtlv, encodeTtlv } from '../kmip/ttlv/codec.js'
import { enumerationSymbol } from '../kmip/ttlv/enumerations.js'
import { collectKeys } from '../kmip/ttlv/keys.js'
import { highestVersion } from '../kmip/version.js'
import type { KeyRow } from './keys.js'

/** Standard attributes that describe a key and change nothing about its use: stored as they come. */
const describing: ReadonlySet<string> = new Set<StandardAttributeName>([
  'Name',
  'Object Group',
  'Application Specific Information',
  'Contact Information',
  'Alternative Name',
  'Description',
  'Comment',
])

/** Bytes of one stored value. */
const longestValue = 16 * 1024

/** True for an attribute that a client may store with a key. */
export function isStorable(name: string): boolean {
  return describing.has(name) || name.startsWith('x-')
}

/** True if a key may have several instances of the attribute. */
export function isMultiple(name: string): boolean {
  if (isCustomAttribute(name)) return true
  const definition: AttributeDefinition | undefined = attributeTable[name as StandardAttributeName]
  return definition?.multiple === true
}

/** The one encoding of a value: equal values are equal bytes, which is what Locate compares. */
export function storedValue(name: string, value: AttributeValue): Buffer {
  const node = encodeAttributeValue({ name, value }, highestVersion)
  if (collectKeys(node).length > 0) throw kmipFailure('InvalidField', 'an attribute holds no key material')
  const bytes = encodeTtlv(node)
  if (bytes.length > longestValue)
    throw kmipFailure('InvalidField', `an attribute value has at most ${longestValue} bytes here`)
  return bytes
}

export function readStoredAttribute(name: string, index: number, value: Uint8Array): Attribute {
  return { name, index, value: decodeAttributeValue(name, decodeTtlv(value), highestVersion) }
}

/** The attributes that follow from the key itself. */
export function ownAttributes(key: KeyRow): Attribute[] {
  const attributes: Attribute[] = [
    { name: 'Unique Identifier', value: key.id },
    { name: 'Object Type', value: 'SymmetricKey' },
    { name: 'Cryptographic Algorithm', value: enumerationSymbol('CryptographicAlgorithm', key.algorithm) },
    { name: 'Cryptographic Length', value: key.length },
    { name: 'Cryptographic Usage Mask', value: key.usageMask },
    { name: 'State', value: key.state },
  ]
  for (const [name, seconds] of [
    ['Initial Date', key.initialDate],
    ['Activation Date', key.activationDate],
    ['Deactivation Date', key.deactivationDate],
    ['Destroy Date', key.destroyDate],
    ['Compromise Occurrence Date', key.compromiseOccurrenceDate],
    ['Compromise Date', key.compromiseDate],
    ['Archive Date', key.archiveDate],
    ['Last Change Date', key.lastChangeDate],
  ] as const)
    if (seconds !== null) attributes.push({ name, value: new Date(seconds * 1000) })
  if (key.revocationReason !== null) {
    const code = enumerationSymbol('RevocationReasonCode', key.revocationReason)
    const message = key.revocationMessage === null ? {} : { RevocationMessage: key.revocationMessage }
    attributes.push({ name: 'Revocation Reason', value: { RevocationReasonCode: code, ...message } })
  }
  return attributes
}
