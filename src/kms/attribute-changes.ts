/** What clients may change about the attributes that are stored with a key. */
import { attributeDefinition } from '../kmip/attribute-table.js'
import type { Attribute, AttributeValue } from '../kmip/attributes.js'
import { kmipFailure } from '../kmip/failure.js'
import type { EnumerationSymbol } from '../kmip/ttlv/enumerations.js'
import type { ProtocolVersion } from '../kmip/version.js'
import { isMultiple, isStorable, storedValue } from './key-attributes.js'
import type { KeyRow, Keys } from './keys.js'
import { maxAttributes, refused } from './new-key.js'

export interface AttributeChange {
  readonly keys: Keys
  readonly key: KeyRow
  readonly version: ProtocolVersion
  /** Seconds since 1970. */
  readonly now: number
}

/** Adds an instance: the attribute with its index. */
export function addInstance(
  { keys, key, version, now }: AttributeChange,
  { name, value }: Attribute,
): Attribute {
  checkSettable(name, version)
  const stored = keys.storedAttributes(key.id)
  if (!isMultiple(name) && stored.some((other) => other.name === name))
    throw kmipFailure('IllegalOperation', `the key has its one ${name} already`)
  if (stored.length >= maxAttributes)
    throw kmipFailure('IllegalOperation', `a key has at most ${maxAttributes} attributes here`)
  return { name, index: keys.addAttribute(key, { name, value }, now), value }
}

/** Gives an instance another value: the one of the index (1.x), or the one that has the value `current` (2.x). */
export function modifyInstance(
  change: AttributeChange,
  { name, index, value }: Attribute,
  current?: AttributeValue,
): Attribute {
  checkSettable(name, change.version)
  const [found] = instancesOf(change, name, index ?? (current === undefined ? 0 : undefined), current)
  if (!found) throw absent(name)
  change.keys.setAttribute(change.key, { name, index: found.index ?? 0, value }, change.now)
  return { name, index: found.index ?? 0, value }
}

/** Deletes an instance by index or value; without either all of them in 2.x and the first in 1.x. */
export function deleteInstance(
  change: AttributeChange,
  { name, index, value }: { readonly name: string; readonly index?: number; readonly value?: AttributeValue },
): Attribute | undefined {
  checkSettable(name, change.version)
  const isFirst = index === undefined && value === undefined && change.version.startsWith('1.')
  const found = instancesOf(change, name, isFirst ? 0 : index, value)
  if (found.length === 0) throw absent(name)
  change.keys.deleteAttributes(
    change.key,
    name,
    found.map((instance) => instance.index ?? 0),
    change.now,
  )
  return found.length === 1 ? found[0] : undefined
}

/** Gives the one instance a value, whether or not it is there. */
export function setInstance(change: AttributeChange, { name, value }: Attribute): void {
  checkSettable(name, change.version)
  const found = instancesOf(change, name, undefined, undefined)
  if (found.length > 1 || (isMultiple(name) && !name.startsWith('x-')))
    throw kmipFailure('IllegalOperation', `the attribute ${name} may have several values; modify one of them`)
  if (found[0]) change.keys.setAttribute(change.key, { name, index: found[0].index ?? 0, value }, change.now)
  else addInstance(change, { name, value })
}

/** Adds to a number, or negates a truth value. */
export function adjustInstance(
  change: AttributeChange,
  name: string,
  type: EnumerationSymbol<'AdjustmentType'> | number,
  by = 1,
): void {
  checkSettable(name, change.version)
  const [found, ...others] = instancesOf(change, name, undefined, undefined)
  if (!found) throw absent(name)
  if (others.length > 0) throw kmipFailure('IllegalOperation', `the attribute ${name} has several values`)
  const value = adjusted(found.value, type, by)
  if (value === undefined) throw kmipFailure('InvalidField', `the attribute ${name} cannot be adjusted so`)
  change.keys.setAttribute(change.key, { name, index: found.index ?? 0, value }, change.now)
}

function adjusted(
  value: AttributeValue,
  type: EnumerationSymbol<'AdjustmentType'> | number,
  by: number,
): AttributeValue | undefined {
  if (type === 'Negate') return typeof value === 'boolean' ? !value : undefined
  if (typeof value !== 'number' || (type !== 'Increment' && type !== 'Decrement')) return undefined
  const sum = type === 'Increment' ? value + by : value - by
  // An Integer has 32 bits.
  return sum === (sum | 0) ? sum : undefined
}

function instancesOf(
  { keys, key }: AttributeChange,
  name: string,
  index: number | undefined,
  value: AttributeValue | undefined,
): Attribute[] {
  const wanted = value === undefined ? undefined : storedValue(name, value)
  return keys
    .storedAttributes(key.id)
    .filter(
      (one) =>
        one.name === name &&
        (index === undefined || one.index === index) &&
        (wanted === undefined || storedValue(name, one.value).equals(wanted)),
    )
}

function checkSettable(name: string, version: ProtocolVersion): void {
  if (name.startsWith('x-')) return
  if (name.startsWith('y-')) throw kmipFailure('PermissionDenied', `${name} is the server's to set`)
  const definition = attributeDefinition(name, version)
  if (!definition) throw refused(name, 'is unknown here')
  if (definition.settable !== 'always')
    throw kmipFailure('PermissionDenied', `${name} cannot be changed by clients`)
  if (!isStorable(name)) throw refused(name, 'cannot be changed here')
}

function absent(name: string) {
  return kmipFailure('ItemNotFound', `the key has no such ${JSON.stringify(name)}`)
}
