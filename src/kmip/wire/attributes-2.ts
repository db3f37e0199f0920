/**
 * Attributes in KMIP 2.x: their own tags inside a structure (KMIP 2.1, sections 4 and 7). Custom attributes are vendor
 * attributes: `x-Name` is that of the vendor `x` called `Name`. There is no index.
 */
import { attributeDefinition, attributeNameOf, isCustomAttribute } from '../attribute-table.js'
import { decodeAttributeValue, encodeAttributeValue } from '../attributes.js'
import type { Attribute } from '../attributes.js'
import { kmipFailure } from '../failure.js'
import { VmsealError } from '../../errors.js'
import { enumeration, structure, textString } from '../ttlv/node.js'
import type { TtlvNode } from '../ttlv/node.js'
import { StructureReader } from '../ttlv/reader.js'
import { tagName, tags } from '../ttlv/tags.js'
import type { TagName } from '../ttlv/tags.js'
import type { ProtocolVersion } from '../version.js'
import type { AttributeWire } from './attributes.js'

export const attributes2: AttributeWire = {
  encodeTemplate: (attributes, version) => encodeAll(tags.Attributes, attributes, version),
  decodeTemplate: (payload, version) => decodeAll(payload, 'Attributes', version),
  encodeList: (attributes, version) => [encodeAll(tags.Attributes, attributes, version)],
  decodeList: (payload, version) => decodeAll(payload, 'Attributes', version) ?? [],
  encodeNames: (names, version) => names.map((name) => encodeReference(name, version)),
  decodeNames: (payload, version) =>
    payload.nodes('AttributeReference').map((node) => decodeReference(node, version, payload.lenient)),
  encodeNew: (attribute, version, current) => [
    ...(current === undefined
      ? []
      : [encodeAll(tags.CurrentAttribute, [{ name: attribute.name, value: current }], version)]),
    encodeAll(tags.NewAttribute, [attribute], version),
  ],
  decodeNew(payload, version) {
    const current = decodeOne(payload, 'CurrentAttribute', version)
    const attribute = decodeOne(payload, 'NewAttribute', version)
    if (!attribute) throw kmipFailure('InvalidMessage', 'the request lacks New Attribute')
    if (!current) return { attribute }
    if (current.name !== attribute.name)
      throw kmipFailure('InvalidField', 'Current Attribute and New Attribute are different attributes')
    return { attribute, current: current.value }
  },
  encodeInstance({ name, value }, version) {
    if (value !== undefined) return [encodeAll(tags.CurrentAttribute, [{ name, value }], version)]
    return [encodeReference(name, version)]
  },
  decodeInstance(payload, version) {
    const current = decodeOne(payload, 'CurrentAttribute', version)
    const reference = payload.optionalNode('AttributeReference')
    if (current) return { name: current.name, value: current.value }
    if (!reference)
      throw kmipFailure('InvalidMessage', 'the request has neither Current Attribute nor Attribute Reference')
    return { name: decodeReference(reference, version, payload.lenient) }
  },
  encodeEcho: () => [],
  decodeEcho: () => undefined,
}

function encodeAll(tag: number, attributes: readonly Attribute[], version: ProtocolVersion): TtlvNode {
  return structure(
    tag,
    attributes.map((attribute) => encodeOne(attribute, version)),
  )
}

function encodeOne(attribute: Attribute, version: ProtocolVersion): TtlvNode {
  const value = encodeAttributeValue(attribute, version)
  const definition = attributeDefinition(attribute.name, version)
  return definition
    ? { ...value, tag: tags[definition.tag] }
    : structure(tags.Attribute, [...vendorName(attribute.name), value])
}

function vendorName(name: string): TtlvNode[] {
  return [
    textString(tags.VendorIdentification, name.slice(0, 1)),
    textString(tags.AttributeName, name.slice(2)),
  ]
}

function encodeReference(name: string, version: ProtocolVersion): TtlvNode {
  const definition = attributeDefinition(name, version)
  if (definition) return enumeration(tags.AttributeReference, tags[definition.tag])
  if (isCustomAttribute(name)) return structure(tags.AttributeReference, vendorName(name))
  throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `KMIP ${version} has no attribute ${JSON.stringify(name)}`)
}

function decodeReference(node: TtlvNode, version: ProtocolVersion, lenient: boolean): string {
  if (node.type === 'Enumeration') return attributeNameOf(node.value, version) ?? tagName(node.value)
  const reader = new StructureReader(node, lenient)
  const name = decodeVendorName(reader)
  reader.end()
  return name
}

/** That of another vendor gets a name that no attribute here has. */
function decodeVendorName(reader: StructureReader): string {
  const vendor = reader.required('VendorIdentification', 'TextString')
  const name = reader.required('AttributeName', 'TextString')
  return vendor === 'x' || vendor === 'y' ? `${vendor}-${name}` : `(${vendor}) ${name}`
}

function decodeAll(
  payload: StructureReader,
  name: TagName,
  version: ProtocolVersion,
): Attribute[] | undefined {
  const node = payload.optionalNode(name)
  if (!node) return undefined
  if (node.type !== 'Structure') throw kmipFailure('InvalidMessage', `${name} is no structure`)
  return node.value.map((child) => decodeChild(child, version, payload.lenient))
}

function decodeOne(payload: StructureReader, name: TagName, version: ProtocolVersion): Attribute | undefined {
  const attributes = decodeAll(payload, name, version)
  if (!attributes) return undefined
  const [attribute] = attributes
  if (!attribute || attributes.length > 1)
    throw kmipFailure('InvalidField', `${name} holds ${attributes.length} attributes instead of one`)
  return attribute
}

function decodeChild(node: TtlvNode, version: ProtocolVersion, lenient: boolean): Attribute {
  if (node.tag !== tags.Attribute) {
    const name = attributeNameOf(node.tag, version) ?? tagName(node.tag)
    return { name, value: decodeAttributeValue(name, node, version, lenient) }
  }
  const reader = new StructureReader(node, lenient)
  const name = decodeVendorName(reader)
  const value = decodeAttributeValue(name, reader.node('AttributeValue'), version, lenient)
  reader.end()
  return { name, value }
}
