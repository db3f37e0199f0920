/** Attributes on the wire of KMIP 2.x. */
import test from 'ava'
import fc from 'fast-check'
import type { Attribute } from '../../src/kmip/attributes.js'
import { operationTable } from '../../src/kmip/operations/table.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { dumpTtlv } from '../../src/kmip/ttlv/dump.js'
import { enumeration, integer, structure, textString } from '../../src/kmip/ttlv/node.js'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'
import { StructureReader } from '../../src/kmip/ttlv/reader.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { attributeWire } from '../../src/kmip/wire/attributes.js'

const wire = attributeWire('2.0')

function payload(children: readonly TtlvNode[], lenient = false): StructureReader {
  const node = structure(tags.RequestPayload, children)
  return new StructureReader(decodeTtlv(encodeTtlv(node)), lenient)
}

function vendor(identification: string, name: string, value: TtlvNode): TtlvNode {
  return structure(tags.Attribute, [
    textString(tags.VendorIdentification, identification),
    textString(tags.AttributeName, name),
    value,
  ])
}

test('a new object: one Attributes structure, each attribute under its own tag', (t) => {
  const node = wire.encodeTemplate(
    [
      { name: 'Cryptographic Algorithm', value: 'AES' },
      { name: 'Cryptographic Length', value: 256 },
      { name: 'x-Vendor', value: 'somebody' },
    ],
    '2.0',
  )
  t.is(
    dumpTtlv(node),
    [
      'Attributes (Structure)',
      '  CryptographicAlgorithm (Enumeration): 0x00000003',
      '  CryptographicLength (Integer): 256',
      '  Attribute (Structure)',
      '    VendorIdentification (TextString): "x"',
      '    AttributeName (TextString): "Vendor"',
      '    AttributeValue (TextString): "somebody"',
    ].join('\n'),
  )
})

test('attributes, names and instances come back as they were', (t) => {
  const name = fc.oneof(
    fc.constantFrom('x-', 'y-').chain((start) => fc.string({ unit: 'binary' }).map((rest) => start + rest)),
    fc.constantFrom('Description', 'Comment', 'Contact Information', 'Object Group'),
  )
  const attribute: fc.Arbitrary<Attribute> = fc.record({ name, value: fc.string({ unit: 'binary' }) })
  fc.assert(
    fc.property(fc.array(attribute, { maxLength: 5 }), attribute, (attributes, one) => {
      t.deepEqual(wire.decodeTemplate(payload([wire.encodeTemplate(attributes, '2.0')]), '2.0'), attributes)
      t.deepEqual(wire.decodeList(payload(wire.encodeList(attributes, '2.0')), '2.0'), attributes)
      const names = attributes.map((each) => each.name)
      t.deepEqual(wire.decodeNames(payload(wire.encodeNames(names, '2.0')), '2.0'), names)
      const changed = wire.encodeNew(one, '2.0', 'before')
      t.deepEqual(wire.decodeNew(payload(changed), '2.0'), { attribute: one, current: 'before' })
      t.deepEqual(wire.decodeInstance(payload(wire.encodeInstance(one, '2.0')), '2.0'), one)
      t.deepEqual(wire.decodeInstance(payload(wire.encodeInstance({ name: one.name }, '2.0')), '2.0'), {
        name: one.name,
      })
    }),
    { numRuns: 300 },
  )
})

test('there is no index', (t) => {
  const [node] = wire.encodeNew({ name: 'x-A', index: 4, value: 'a' }, '2.0')
  t.false(dumpTtlv(node as TtlvNode).includes('AttributeIndex'))
  t.deepEqual(wire.decodeNew(payload([node as TtlvNode]), '2.0'), { attribute: { name: 'x-A', value: 'a' } })
})

test("another vendor's attribute is nobody's here, whatever its names", (t) => {
  const value = textString(tags.AttributeValue, 'v')
  for (const [identification, name] of [
    ['acme', 'Name'],
    ['x-', 'Name'],
    ['', 'State'],
    ['X', 'Name'],
  ] as const) {
    const [read] = wire.decodeList(
      payload([structure(tags.Attributes, [vendor(identification, name, value)])]),
      '2.0',
    )
    t.is(read?.name, `(${identification}) ${name}`)
    t.throws(() => wire.encodeTemplate([read as Attribute], '2.0'), { code: 'VMSEAL_INVALID_ARGUMENT' })
  }
})

test('the form of 1.x is not that of 2.x, nor the reverse', (t) => {
  const attributes = [{ name: 'State', value: 'Active' }] as const
  const one = attributeWire('1.4')
  t.is(wire.decodeTemplate(payload([one.encodeTemplate(attributes, '1.4')]), '2.0'), undefined)
  t.is(one.decodeTemplate(payload([wire.encodeTemplate(attributes, '2.0')]), '1.4'), undefined)
  const leftOver = payload(one.encodeList(attributes, '1.4'))
  t.deepEqual(wire.decodeList(leftOver, '2.0'), [])
  t.throws(() => leftOver.end(), { code: 'VMSEAL_KMIP_MALFORMED' })
})

test('what 2.x no longer has is not sent and not read', (t) => {
  const policy = { name: 'Operation Policy Name', value: 'default' }
  t.throws(() => wire.encodeTemplate([policy], '2.0'), { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.throws(() => wire.encodeNames([policy.name], '2.0'), { code: 'VMSEAL_INVALID_ARGUMENT' })
  const { GetAttributes, GetAttributeList } = operationTable
  const shown = structure(
    tags.ResponsePayload,
    GetAttributes.encodeResponse({ id: '1', attributes: [policy] }, '2.0'),
  )
  t.false(dumpTtlv(shown).includes('Policy'))
  t.is(GetAttributeList.encodeResponse({ id: '1', names: [policy.name] }, '2.0').length, 1)
  const node = structure(tags.Attributes, [textString(tags.OperationPolicyName, 'default')])
  t.deepEqual(wire.decodeList(payload([node]), '2.0'), [{ name: 'OperationPolicyName', value: 'default' }])
})

const refused: Record<string, () => unknown> = {
  'Attributes that are no structure': () => wire.decodeList(payload([integer(tags.Attributes, 1)]), '2.0'),
  'a State of the wrong type': () =>
    wire.decodeList(payload([structure(tags.Attributes, [textString(tags.State, 'Active')])]), '2.0'),
  'a vendor attribute without a vendor': () =>
    wire.decodeList(
      payload([
        structure(tags.Attributes, [structure(tags.Attribute, [textString(tags.AttributeName, 'A')])]),
      ]),
      '2.0',
    ),
  'a reference of the wrong type': () =>
    wire.decodeNames(payload([textString(tags.AttributeReference, 'State')]), '2.0'),
  'a new attribute that is missing': () => wire.decodeNew(payload([]), '2.0'),
  'two new attributes at once': () =>
    wire.decodeNew(
      payload([
        structure(tags.NewAttribute, [textString(tags.Comment, 'a'), textString(tags.Description, 'b')]),
      ]),
      '2.0',
    ),
  'a new attribute in the place of another': () =>
    wire.decodeNew(
      payload([
        structure(tags.CurrentAttribute, [textString(tags.Comment, 'a')]),
        structure(tags.NewAttribute, [textString(tags.Description, 'b')]),
      ]),
      '2.0',
    ),
  'the deletion of nothing': () => wire.decodeInstance(payload([]), '2.0'),
  'an adjustment of two attributes': () =>
    operationTable.AdjustAttribute.decodeRequest(
      payload([...wire.encodeNames(['State', 'Sensitive'], '2.0'), enumeration(tags.AdjustmentType, 3)]),
      '2.0',
    ),
  'an identifier by place in the batch': () =>
    operationTable.Activate.decodeRequest(payload([integer(tags.UniqueIdentifier, -1)]), '2.0'),
  'an identifier of 1.x that is no text': () =>
    operationTable.Activate.decodeRequest(payload([enumeration(tags.UniqueIdentifier, 1)]), '1.4'),
}

for (const [what, read] of Object.entries(refused))
  test(`refused: ${what}`, (t) => {
    const error = t.throws(read) as { code?: string } | undefined
    t.true(['VMSEAL_KMIP_MALFORMED', 'VMSEAL_KMIP_OPERATION_FAILED'].includes(error?.code ?? ''))
  })

test('the ID Placeholder may be named', (t) => {
  const request = payload([enumeration(tags.UniqueIdentifier, 1)])
  t.deepEqual(operationTable.Activate.decodeRequest(request, '2.0'), {})
})
