import test from 'ava'
import fc from 'fast-check'
import { attributeDefinition, attributeTable } from '../../src/kmip/attribute-table.js'
import type { AttributeDefinition, StandardAttributeName } from '../../src/kmip/attribute-table.js'
import { decodeAttribute, encodeAttribute, OpaqueValue } from '../../src/kmip/attributes.js'
import type { Attribute, AttributeValue } from '../../src/kmip/attributes.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { enumerations } from '../../src/kmip/ttlv/enumerations.js'
import { integer, structure, textString } from '../../src/kmip/ttlv/node.js'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'
import { StructureReader } from '../../src/kmip/ttlv/reader.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { isSince, protocolVersions } from '../../src/kmip/version.js'
import type { ProtocolVersion } from '../../src/kmip/version.js'

const names = Object.keys(attributeTable) as StandardAttributeName[]

/** A value of the form that the table gives an attribute. */
function sample(definition: AttributeDefinition): AttributeValue {
  switch (definition.type) {
    case 'TextString':
      return 'text'
    case 'Integer':
      return 12
    case 'Interval':
      return 3600
    case 'Boolean':
      return true
    case 'DateTime':
      return new Date(1_700_000_000_000)
    case 'ByteString':
      return Uint8Array.of(1, 2, 3)
    case 'Enumeration':
      return Object.keys(enumerations[definition.symbols as keyof typeof enumerations])[0] as string
    default:
      if (!definition.fields) return new OpaqueValue(structure(tags.AttributeValue, [integer(tags.X, 1)]))
      return Object.fromEntries(
        definition.fields.map((field) => [field.tag, sample({ ...field, since: '1.0', settable: 'never' })]),
      )
  }
}

function roundTrip(attribute: Attribute, version: ProtocolVersion): Attribute {
  const encoded = decodeTtlv(encodeTtlv(encodeAttribute(attribute, version)))
  return decodeAttribute(new StructureReader(encoded), version)
}

for (const version of protocolVersions)
  test(`every attribute of KMIP ${version} survives the wire, no other is sent`, (t) => {
    for (const name of names) {
      const attribute = { name, index: 2, value: sample(attributeTable[name]) }
      if (exists(attributeTable[name], version)) t.deepEqual(roundTrip(attribute, version), attribute)
      else {
        t.is(attributeDefinition(name, version), undefined)
        t.throws(() => encodeAttribute(attribute, version), { code: 'VMSEAL_INVALID_ARGUMENT' }, name)
      }
    }
  })

function exists({ since, until }: AttributeDefinition, version: ProtocolVersion): boolean {
  return isSince(version, since) && (until === undefined || isSince(until, version))
}

test('the tags of the table are the tags that 2.x uses for the same names', (t) => {
  for (const name of names) t.is(attributeTable[name].tag, name.replaceAll(' ', '') as never, name)
})

test('custom attributes keep their type', (t) => {
  const value = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
    fc.boolean(),
    fc.date({ noInvalidDate: true }).map((date) => new Date(Math.floor(date.getTime() / 1000) * 1000)),
    fc.uint8Array(),
  )
  fc.assert(
    fc.property(value, (content) => {
      const attribute = { name: 'x-Custom', value: content }
      t.deepEqual(roundTrip(attribute, '1.0'), attribute)
    }),
    { numRuns: 300 },
  )
})

test('refused: values that do not fit their attribute', (t) => {
  const wrong: Attribute[] = [
    { name: 'State', value: 'Asleep' },
    { name: 'State', value: true },
    { name: 'Cryptographic Length', value: '256' },
    { name: 'Initial Date', value: 5 },
    { name: 'Initial Date', value: new Date(Number.NaN) },
    { name: 'Name', value: 'db01' },
    { name: 'Name', value: { NameValue: 'db01' } },
    { name: 'Name', value: { NameValue: 'db01', NameType: 'Nickname' } },
    { name: 'x-Custom', value: { field: 1 } },
    { name: 'Nobody Knows', value: 'x' },
    { name: 'constructor', value: 'x' },
  ]
  for (const attribute of wrong)
    t.throws(
      () => encodeAttribute(attribute, '1.4'),
      { code: 'VMSEAL_INVALID_ARGUMENT' },
      JSON.stringify(attribute),
    )
})

function onWire(name: string, value: TtlvNode): StructureReader {
  return new StructureReader(structure(tags.Attribute, [textString(tags.AttributeName, name), value]))
}

test('a known attribute of another type is refused by a server and kept as it is by a client', (t) => {
  const value = integer(tags.AttributeValue, 1)
  t.throws(() => decodeAttribute(onWire('State', value), '1.4'), { code: 'VMSEAL_KMIP_OPERATION_FAILED' })
  const lenient = new StructureReader(
    structure(tags.Attribute, [textString(tags.AttributeName, 'State'), value]),
    true,
  )
  t.true(decodeAttribute(lenient, '1.4').value instanceof OpaqueValue)
})

test('an attribute of a later version is an unknown one', (t) => {
  const value = textString(tags.AttributeValue, 'note')
  t.deepEqual(decodeAttribute(onWire('Comment', value), '1.0'), { name: 'Comment', value: 'note' })
  t.is(attributeDefinition('Comment', '1.3'), undefined)
})

test('a date of a type that 1.x lacks is no value of an attribute', (t) => {
  const value = { tag: tags.AttributeValue, type: 'DateTimeExtended', value: 1n } as const
  t.throws(() => decodeAttribute(onWire('x-When', value), '2.0'), { code: 'VMSEAL_KMIP_OPERATION_FAILED' })
})
