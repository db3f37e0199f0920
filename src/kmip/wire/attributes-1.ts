/** Attributes in KMIP 1.x: `Attribute { Attribute Name, Attribute Index?, Attribute Value }` (KMIP 1.4, section 2.1.1). */
import { decodeAttribute, encodeAttribute } from '../attributes.js'
import type { Attribute } from '../attributes.js'
import { kmipFailure } from '../failure.js'
import { integer, structure, textString } from '../ttlv/node.js'
import type { StructureReader } from '../ttlv/reader.js'
import { tags } from '../ttlv/tags.js'
import type { ProtocolVersion } from '../version.js'
import type { AttributeWire } from './attributes.js'

export const attributes1: AttributeWire = {
  encodeTemplate: (attributes, version) =>
    structure(
      tags.TemplateAttribute,
      attributes.map((attribute) => encodeAttribute(attribute, version)),
    ),
  decodeTemplate(payload, version) {
    const template = payload.optionalStructure('TemplateAttribute')
    if (!template) return undefined
    if (template.nodes('Name').length > 0) throw kmipFailure('ItemNotFound', 'there are no templates here')
    const attributes = decodeAll(template, version)
    template.end()
    return attributes
  },
  encodeList: (attributes, version) => attributes.map((attribute) => encodeAttribute(attribute, version)),
  decodeList: decodeAll,
  encodeNames: (names) => names.map((name) => textString(tags.AttributeName, name)),
  decodeNames: (payload) => payload.all('AttributeName', 'TextString'),
  encodeNew: (attribute, version) => [encodeAttribute(attribute, version)],
  decodeNew: (payload, version) => ({
    attribute: decodeAttribute(payload.structure('Attribute'), version),
  }),
  encodeInstance: ({ name, index }) => [
    textString(tags.AttributeName, name),
    ...(index === undefined ? [] : [integer(tags.AttributeIndex, index)]),
  ],
  decodeInstance(payload) {
    const name = payload.required('AttributeName', 'TextString')
    const index = payload.optional('AttributeIndex', 'Integer')
    return index === undefined ? { name } : { name, index }
  },
  encodeEcho: (attribute, version) => (attribute ? [encodeAttribute(attribute, version)] : []),
  decodeEcho(payload, version) {
    const echo = payload.optionalStructure('Attribute')
    return echo && decodeAttribute(echo, version)
  },
}

function decodeAll(reader: StructureReader, version: ProtocolVersion): Attribute[] {
  return reader.structures('Attribute').map((attribute) => decodeAttribute(attribute, version))
}
