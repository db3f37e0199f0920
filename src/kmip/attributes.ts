/** Attributes as values, and their 1.x wire form: `Attribute { Attribute Name, Attribute Index?, Attribute Value }`. */
import { VmsealError } from '../errors.js'
import { attributeDefinition, isCustomAttribute } from './attribute-table.js'
import type { FieldForm, StandardAttributeName, ValueForm } from './attribute-table.js'
import { kmipFailure } from './failure.js'
import { enumerationSymbol, enumerationValue } from './ttlv/enumerations.js'
import { boolean, byteString, dateTime, enumeration, integer, structure, textString } from './ttlv/node.js'
import type { TtlvNode } from './ttlv/node.js'
import { StructureReader } from './ttlv/reader.js'
import { tags } from './ttlv/tags.js'
import type { ProtocolVersion } from './version.js'

/** A value in a form that has no JavaScript type of its own; the tag of `node` does not matter. */
export class OpaqueValue {
  constructor(readonly node: TtlvNode) {}
}

/**
 * Enumerations are their symbols (`'AES'`), or numbers where the table has none. Integers, masks and intervals
 * (seconds) are numbers, Long Integers bigints, dates `Date` to the second, structures objects of their fields
 * (`{ NameValue: 'db01', NameType: 'UninterpretedTextString' }`).
 */
export type AttributeValue =
  | string
  | number
  | bigint
  | boolean
  | Date
  | Uint8Array
  | OpaqueValue
  | { readonly [field: string]: AttributeValue }

export interface Attribute {
  /** As 1.x writes it: `Cryptographic Length`, `x-Vendor`. */
  readonly name: StandardAttributeName | (string & {})
  /** 1.x: place among the instances of a multi-valued attribute; 0 when absent. */
  readonly index?: number
  readonly value: AttributeValue
}

/** The value of the first instance, or undefined. */
export function attributeValue(
  attributes: readonly Attribute[],
  name: Attribute['name'],
): AttributeValue | undefined {
  return attributes.find((attribute) => attribute.name === name)?.value
}

/** The value of a `Name` attribute: plain text. */
export function nameValue(text: string): AttributeValue {
  return { NameValue: text, NameType: 'UninterpretedTextString' }
}

/** Throws VMSEAL_INVALID_ARGUMENT if `version` lacks the attribute or the value does not fit it. */
export function encodeAttribute(attribute: Attribute, version: ProtocolVersion): TtlvNode {
  const index = attribute.index === undefined ? [] : [integer(tags.AttributeIndex, attribute.index)]
  return structure(tags.Attribute, [
    textString(tags.AttributeName, attribute.name),
    ...index,
    encodeAttributeValue(attribute, version),
  ])
}

/** The value alone, under the tag Attribute Value. */
export function encodeAttributeValue({ name, value }: Attribute, version: ProtocolVersion): TtlvNode {
  const form = attributeDefinition(name, version)
  if (!form && !isCustomAttribute(name))
    throw invalid(`KMIP ${version} has no attribute ${JSON.stringify(name)}`)
  const node = form ? encodeForm(tags.AttributeValue, form, value) : encodeFree(tags.AttributeValue, value)
  if (!node) throw invalid(`the value of the attribute ${JSON.stringify(name)} has the wrong type`)
  return node
}

/** Of an unknown attribute the name and the plain value are kept; who uses it decides what that means. */
export function decodeAttribute(reader: StructureReader, version: ProtocolVersion): Attribute {
  const name = reader.required('AttributeName', 'TextString')
  const index = reader.optional('AttributeIndex', 'Integer')
  const value = decodeAttributeValue(name, reader.node('AttributeValue'), version, reader.lenient)
  reader.end()
  return index === undefined ? { name, value } : { name, index, value }
}

export function decodeAttributeValue(
  name: string,
  node: TtlvNode,
  version: ProtocolVersion,
  lenient = false,
): AttributeValue {
  const form = attributeDefinition(name, version)
  // No attribute has this type, and 1.x could not be told a value of it.
  if (node.type === 'DateTimeExtended' && !lenient)
    throw kmipFailure('InvalidField', 'no attribute holds a Date-Time Extended here')
  if (!form) return decodeFree(node)
  if (form.type === node.type) {
    try {
      return decodeForm(form, node, lenient)
    } catch (error) {
      if (!lenient) throw error
    }
  }
  if (lenient) return new OpaqueValue(node)
  throw kmipFailure(
    'InvalidField',
    `the attribute ${JSON.stringify(name)} is of type ${node.type} instead of ${form.type}`,
  )
}

function encodeForm(tag: number, form: ValueForm, value: AttributeValue): TtlvNode | undefined {
  if (value instanceof OpaqueValue) return { ...value.node, tag }
  switch (form.type) {
    case 'Enumeration': {
      if (typeof value !== 'string' && typeof value !== 'number') return undefined
      const number = form.symbols ? enumerationValue(form.symbols, value) : Number(value)
      return number === undefined ? undefined : enumeration(tag, number)
    }
    case 'Interval':
      return typeof value === 'number' ? { tag, type: 'Interval', value } : undefined
    case 'Structure':
      return form.fields && isFields(value) ? encodeFields(tag, form.fields, value) : undefined
    default: {
      const node = encodeFree(tag, value)
      return node?.type === form.type ? node : undefined
    }
  }
}

function encodeFields(
  tag: number,
  forms: readonly FieldForm[],
  value: Readonly<Record<string, AttributeValue>>,
): TtlvNode | undefined {
  const children: TtlvNode[] = []
  for (const form of forms) {
    const field = Object.hasOwn(value, form.tag) ? value[form.tag] : undefined
    if (field === undefined && form.optional) continue
    const node = field === undefined ? undefined : encodeForm(tags[form.tag], form, field)
    if (!node) return undefined
    children.push(node)
  }
  return structure(tag, children)
}

function encodeFree(tag: number, value: AttributeValue): TtlvNode | undefined {
  if (typeof value === 'string') return textString(tag, value)
  if (typeof value === 'number') return integer(tag, value)
  if (typeof value === 'bigint') return { tag, type: 'LongInteger', value }
  if (typeof value === 'boolean') return boolean(tag, value)
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? undefined : dateTime(tag, value)
  if (value instanceof Uint8Array) return byteString(tag, value)
  if (value instanceof OpaqueValue) return { ...value.node, tag }
  return undefined
}

function decodeForm(form: ValueForm, node: TtlvNode, lenient: boolean): AttributeValue {
  if (node.type === 'Enumeration' && form.symbols) return enumerationSymbol(form.symbols, node.value)
  if (node.type === 'Interval') return node.value
  if (node.type !== 'Structure' || !form.fields) return decodeFree(node)
  const reader = new StructureReader(node, lenient)
  const fields: Record<string, AttributeValue> = {}
  for (const field of form.fields) {
    const value = field.optional
      ? reader.optional(field.tag, field.type)
      : reader.required(field.tag, field.type)
    if (value !== undefined)
      fields[field.tag] = decodeForm(
        field,
        { tag: tags[field.tag], type: field.type, value } as TtlvNode,
        lenient,
      )
  }
  reader.end()
  return fields
}

const lastDate = 8_640_000_000_000n

function decodeFree(node: TtlvNode): AttributeValue {
  switch (node.type) {
    case 'TextString':
    case 'Integer':
    case 'LongInteger':
    case 'Boolean':
      return node.value
    case 'ByteString':
      return node.key ? new OpaqueValue(node) : node.value
    case 'DateTime':
      return node.value >= -lastDate && node.value <= lastDate
        ? new Date(Number(node.value) * 1000)
        : new OpaqueValue(node)
    default:
      return new OpaqueValue(node)
  }
}

function isFields(value: AttributeValue): value is { readonly [field: string]: AttributeValue } {
  return typeof value === 'object' && !(value instanceof Date || value instanceof Uint8Array)
}

function invalid(what: string): VmsealError {
  return new VmsealError('VMSEAL_INVALID_ARGUMENT', what)
}
