/** Locate as a condition on rows. What cannot be read as a condition matches nothing, never everything. */
import { attributeDefinition, isCustomAttribute } from '../kmip/attribute-table.js'
import type { Attribute, AttributeValue } from '../kmip/attributes.js'
import type { LocateRequest } from '../kmip/operations/locate.js'
import { enumerations, enumerationValue } from '../kmip/ttlv/enumerations.js'
import type { EnumerationName } from '../kmip/ttlv/enumerations.js'
import type { ProtocolVersion } from '../kmip/version.js'
import { isStorable, storedValue } from './key-attributes.js'

export interface KeyQuery {
  /** SQL over the table `keys`. */
  readonly condition: string
  readonly values: readonly (string | number | Buffer)[]
}

/** Storage Status Mask (KMIP 1.4, section 9.1.3.3.2). */
const onLine = 1
const archival = 2

export function toKeyQuery(request: LocateRequest, version: ProtocolVersion): KeyQuery {
  const { attributes, storageStatusMask = onLine } = request
  const unreadable = request.unreadableFilter === true || request.objectGroupMember !== undefined
  if (unreadable) return nothing
  const conditions = [...groupByName(attributes)].map(([name, same]) => condition(name, same, version))
  conditions.push(storage(storageStatusMask))
  if (!attributes.some(({ name }) => name === 'State')) conditions.push(notDestroyed)
  return {
    condition: conditions.map((query) => `(${query.condition})`).join(' AND '),
    values: conditions.flatMap((query) => query.values),
  }
}

function storage(mask: number): KeyQuery {
  const wanted = mask & (onLine | archival)
  if (wanted === 0) return nothing
  if (wanted === (onLine | archival)) return everything
  return { condition: wanted === onLine ? 'archive_date IS NULL' : 'archive_date IS NOT NULL', values: [] }
}

const nothing: KeyQuery = { condition: 'FALSE', values: [] }
const notDestroyed: KeyQuery = {
  condition: 'state NOT IN (?, ?)',
  values: [enumerations.State.Destroyed, enumerations.State.DestroyedCompromised],
}

const columns: Readonly<Record<string, { readonly column: string; readonly symbols?: EnumerationName }>> = {
  'Unique Identifier': { column: 'id' },
  'Cryptographic Algorithm': { column: 'algorithm', symbols: 'CryptographicAlgorithm' },
  'Cryptographic Length': { column: 'length' },
  State: { column: 'state', symbols: 'State' },
  'Initial Date': { column: 'initial_date' },
  'Activation Date': { column: 'activation_date' },
  'Deactivation Date': { column: 'deactivation_date' },
  'Destroy Date': { column: 'destroy_date' },
  'Compromise Occurrence Date': { column: 'compromise_occurrence_date' },
  'Compromise Date': { column: 'compromise_date' },
  'Archive Date': { column: 'archive_date' },
  'Last Change Date': { column: 'last_change_date' },
}

function condition(name: string, same: readonly Attribute[], version: ProtocolVersion): KeyQuery {
  if (!isCustomAttribute(name) && !attributeDefinition(name, version)) return nothing
  const values = same.map(({ value }) => value)
  if (name === 'Object Type') return values.every((value) => value === 'SymmetricKey') ? everything : nothing
  if (name === 'Cryptographic Usage Mask') return all(values.map(usageCondition))
  const place = Object.hasOwn(columns, name) ? columns[name] : undefined
  if (!place) return isStorable(name) ? all(same.map(storedCondition)) : nothing
  const [from, to] = values
  if (values.length === 2 && from instanceof Date && to instanceof Date)
    return { condition: `${place.column} BETWEEN ? AND ?`, values: [seconds(from), seconds(to)] }
  return all(values.map((value) => columnCondition(place.column, value, place.symbols)))
}

const everything: KeyQuery = { condition: 'TRUE', values: [] }

function columnCondition(
  column: string,
  value: AttributeValue,
  symbols: EnumerationName | undefined,
): KeyQuery {
  const plain = symbols && typeof value === 'string' ? enumerationValue(symbols, value) : value
  if (plain instanceof Date) return { condition: `${column} = ?`, values: [seconds(plain)] }
  if (typeof plain === 'string' || typeof plain === 'number')
    return { condition: `${column} = ?`, values: [plain] }
  return nothing
}

function usageCondition(mask: AttributeValue): KeyQuery {
  return typeof mask === 'number' ? { condition: '(usage_mask & ?) = ?', values: [mask, mask] } : nothing
}

function storedCondition({ name, index, value }: Attribute): KeyQuery {
  const place = index === undefined ? '' : ' AND a.number = ?'
  return {
    condition: `EXISTS (SELECT 1 FROM attributes AS a WHERE a.key_id = id AND a.name = ? AND a.value = ?${place})`,
    values: [name, storedValue(name, value), ...(index === undefined ? [] : [index])],
  }
}

function all(queries: readonly KeyQuery[]): KeyQuery {
  return {
    condition: queries.map((query) => query.condition).join(' AND '),
    values: queries.flatMap((query) => query.values),
  }
}

function groupByName(attributes: readonly Attribute[]): Map<string, Attribute[]> {
  const groups = new Map<string, Attribute[]>()
  for (const attribute of attributes)
    groups.set(attribute.name, [...(groups.get(attribute.name) ?? []), attribute])
  return groups
}

function seconds(date: Date): number {
  return Math.floor(date.getTime() / 1000)
}
