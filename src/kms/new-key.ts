/** What a client says of a new key: its identity, and the attributes that are stored with it. */
import { attributeDefinition } from '../kmip/attribute-table.js'
import type { Attribute, AttributeValue } from '../kmip/attributes.js'
import { kmipFailure } from '../kmip/failure.js'
import { enumerationValue } from '../kmip/ttlv/enumerations.js'
import type { ProtocolVersion } from '../kmip/version.js'
import { isMultiple, isStorable } from './key-attributes.js'
import type { KeyIdentity } from './keys.js'

export type KeyForm = Pick<KeyIdentity, 'algorithm' | 'length' | 'usageMask'>

/** Attributes of one key at most. */
export const maxAttributes = 256

const keyLengths: readonly number[] = [128, 192, 256]

const chosen: ReadonlySet<string> = new Set([
  'Cryptographic Algorithm',
  'Cryptographic Length',
  'Cryptographic Usage Mask',
])

/** Reads and checks the attributes of a new key. What `given` says already may be left out, or must be the same. */
export function readNewKey(
  attributes: readonly Attribute[],
  version: ProtocolVersion,
  given: Partial<KeyForm> = {},
): { form: KeyForm; stored: readonly Attribute[] } {
  const seen = check(attributes, version)
  const name = seen.get('Cryptographic Algorithm')
  const asked =
    typeof name === 'string' || typeof name === 'number'
      ? enumerationValue('CryptographicAlgorithm', name)
      : name
  const form = {
    algorithm: same('Cryptographic Algorithm', asked, given.algorithm),
    length: same('Cryptographic Length', seen.get('Cryptographic Length'), given.length),
    usageMask: seen.get('Cryptographic Usage Mask') ?? given.usageMask,
  }
  if (form.algorithm !== aes) throw refused('Cryptographic Algorithm', 'must be AES')
  if (typeof form.length !== 'number' || !keyLengths.includes(form.length))
    throw refused('Cryptographic Length', `must be one of ${keyLengths.join(', ')}`)
  if (typeof form.usageMask !== 'number' || form.usageMask <= 0)
    throw refused('Cryptographic Usage Mask', 'must be given')
  return { form: form as KeyForm, stored: attributes.filter((attribute) => isStorable(attribute.name)) }
}

export function refused(name: string, why: string) {
  return kmipFailure('InvalidField', `the attribute ${JSON.stringify(name)} ${why}`)
}

const aes = enumerationValue('CryptographicAlgorithm', 'AES')

function check(attributes: readonly Attribute[], version: ProtocolVersion): Map<string, AttributeValue> {
  if (attributes.length > maxAttributes)
    throw kmipFailure('InvalidField', `a key has at most ${maxAttributes} attributes`)
  const seen = new Map<string, AttributeValue>()
  for (const { name, value } of attributes) {
    if (!attributeDefinition(name, version) && !name.startsWith('x-')) throw refused(name, 'is unknown here')
    if (!isStorable(name) && !chosen.has(name)) throw refused(name, 'cannot be given to a new key here')
    if (seen.has(name) && (chosen.has(name) || !isMultiple(name)))
      throw refused(name, 'is given more than once')
    seen.set(name, value)
  }
  return seen
}

function same<T>(name: string, asked: T | undefined, given: number | undefined): T | number | undefined {
  if (given !== undefined && asked !== undefined && asked !== given)
    throw refused(name, 'is not that of the key')
  return asked ?? given
}
