import test from 'ava'
import fc from 'fast-check'
import { isVmsealError } from '../../src/errors.js'
import { decodeTtlv, defaultLimits, encodedLength, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { structure, textString } from '../../src/kmip/ttlv/node.js'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'
import { ttlv } from './arbitrary.js'

/** The examples of KMIP 1.4, section 9.1.2. */
const examples: [string, TtlvNode][] = [
  ['42002002 00000004 0000000800000000', { tag: 0x420020, type: 'Integer', value: 8 }],
  ['42002003 00000008 01B69B4BA5749200', { tag: 0x420020, type: 'LongInteger', value: 123456789000000000n }],
  [
    '42002004 00000010 0000000003FD35EB6BC2DF4618080000',
    { tag: 0x420020, type: 'BigInteger', value: 1234567890000000000000000000n },
  ],
  ['42002005 00000004 000000FF00000000', { tag: 0x420020, type: 'Enumeration', value: 255 }],
  ['42002006 00000008 0000000000000001', { tag: 0x420020, type: 'Boolean', value: true }],
  [
    '42002007 0000000B 48656C6C6F20576F726C640000000000',
    { tag: 0x420020, type: 'TextString', value: 'Hello World' },
  ],
  [
    '42002008 00000003 0102030000000000',
    { tag: 0x420020, type: 'ByteString', value: Uint8Array.of(1, 2, 3) },
  ],
  ['42002009 00000008 0000000047DA67F8', { tag: 0x420020, type: 'DateTime', value: 1205495800n }],
  ['4200200A 00000004 000D2F0000000000', { tag: 0x420020, type: 'Interval', value: 864000 }],
  ['4200200B 00000008 00000000075BCD15', { tag: 0x420020, type: 'DateTimeExtended', value: 123456789n }],
  [
    '42002001 00000020 42000405 00000004 000000FE00000000 42000502 00000004 000000FF00000000',
    {
      tag: 0x420020,
      type: 'Structure',
      value: [
        { tag: 0x420004, type: 'Enumeration', value: 254 },
        { tag: 0x420005, type: 'Integer', value: 255 },
      ],
    },
  ],
]

function bytes(hex: string): Buffer {
  return Buffer.from(hex.replaceAll(' ', ''), 'hex')
}

for (const [hex, node] of examples)
  test(`the specification's example of ${node.type}`, (t) => {
    t.deepEqual(decodeTtlv(bytes(hex)), node)
    t.deepEqual(encodeTtlv(node), bytes(hex))
    t.is(encodedLength(node), bytes(hex).length)
  })

test('what is encoded decodes to the same, and encodes to the same bytes again', (t) => {
  fc.assert(
    fc.property(ttlv, (node) => {
      const encoded = encodeTtlv(node)
      const decoded = decodeTtlv(encoded)
      return encodeTtlv(decoded).equals(encoded) && encodedLength(node) === encoded.length
    }),
    { numRuns: 2000 },
  )
  t.pass()
})

test('big integers take the fewest groups of 8 bytes and keep their sign', (t) => {
  for (const [value, length] of [
    [0n, 8],
    [-1n, 8],
    [2n ** 63n - 1n, 8],
    [2n ** 63n, 16],
    [-(2n ** 63n), 8],
    [-(2n ** 63n) - 1n, 16],
    [2n ** 127n, 24],
  ] as const) {
    const encoded = encodeTtlv({ tag: 0x420020, type: 'BigInteger', value })
    t.is(encoded.readUInt32BE(4), length, `${value}`)
    t.deepEqual(decodeTtlv(encoded), { tag: 0x420020, type: 'BigInteger', value })
  }
})

test('padding is ignored when reading', (t) => {
  t.is(decodeTtlv(bytes('42002002 00000004 00000008FFFFFFFF')).value, 8)
})

const broken: Record<string, string> = {
  'an empty message': '',
  'a header that is cut': '42002002 000000',
  'a value that is cut': '42002002 00000004 00000008',
  'bytes after the item': '42002002 00000004 0000000800000000 00',
  'a tag outside the ranges': '41002002 00000004 0000000800000000',
  'type 0': '42002000 00000004 0000000800000000',
  'type 0C, which 3.0 adds': '4200200C 00000008 0000000800000000',
  'an extended date of 4 bytes': '4200200B 00000004 0000000800000000',
  'an integer of 8 bytes': '42002002 00000008 0000000800000000',
  'an enumeration of 0 bytes': '42002005 00000000',
  'a boolean of 2': '42002006 00000008 0000000000000002',
  'a boolean in the wrong byte': '42002006 00000008 0100000000000000',
  'a boolean of 4 bytes': '42002006 00000004 0000000100000000',
  'a date of 4 bytes': '42002009 00000004 0000000100000000',
  'a big integer of 4 bytes': '42002004 00000004 0000000100000000',
  'a big integer of 0 bytes': '42002004 00000000',
  'text that is no UTF-8': '42002007 00000002 C328000000000000',
  'overlong UTF-8': '42002007 00000002 C080000000000000',
  'a structure of 4 bytes': '42002001 00000004 4200040500000000',
  'a child beyond its parent': '42002001 00000008 42000405 00000004 000000FE00000000',
  'a child that claims 4 GiB': '42002001 00000008 42000408 FFFFFFFF',
  'children shorter than the parent': '42002001 00000018 42000405 00000004 000000FE00000000 4200050200000004',
}

for (const [what, hex] of Object.entries(broken))
  test(`refused: ${what}`, (t) => {
    t.throws(() => decodeTtlv(bytes(hex)), { code: 'VMSEAL_KMIP_MALFORMED' })
  })

test('refused: deeper, more or longer than the limits', (t) => {
  let deep: TtlvNode = structure(0x420020, [])
  for (let depth = 1; depth < 32; depth++) deep = structure(0x420020, [deep])
  t.is(encodeTtlv(deep).length, 32 * 8)
  decodeTtlv(encodeTtlv(deep))
  const deeper = structure(0x420020, [deep])
  t.throws(() => encodeTtlv(deeper), { code: 'VMSEAL_INVALID_ARGUMENT' })
  const wide = { ...defaultLimits, maxDepth: 40, maxItems: 100_000 }
  t.throws(() => decodeTtlv(encodeTtlv(deeper, wide)), { code: 'VMSEAL_KMIP_MALFORMED' })
  const many = structure(0x420020, Array<TtlvNode>(65_536).fill(structure(0x420020, [])))
  t.throws(() => encodeTtlv(many), { code: 'VMSEAL_KMIP_TOO_LARGE' })
  t.throws(() => decodeTtlv(encodeTtlv(many, wide)), { code: 'VMSEAL_KMIP_TOO_LARGE' })
  t.throws(() => decodeTtlv(Buffer.alloc(1024 * 1024 + 8)), { code: 'VMSEAL_KMIP_TOO_LARGE' })
  t.throws(() => encodeTtlv(textString(0x420020, 'x'.repeat(1024 * 1024))), { code: 'VMSEAL_KMIP_TOO_LARGE' })
})

test('refused: values that their type cannot hold', (t) => {
  const nodes: TtlvNode[] = [
    { tag: 0x420020, type: 'Integer', value: 2 ** 31 },
    { tag: 0x420020, type: 'Integer', value: 1.5 },
    { tag: 0x420020, type: 'Enumeration', value: -1 },
    { tag: 0x420020, type: 'Interval', value: 2 ** 32 },
    { tag: 0x420020, type: 'LongInteger', value: 2n ** 63n },
    { tag: 0x420020, type: 'DateTime', value: -(2n ** 63n) - 1n },
    { tag: 0x420020, type: 'TextString', value: '\ud800' },
  ]
  for (const node of nodes) t.throws(() => encodeTtlv(node), { code: 'VMSEAL_INVALID_ARGUMENT' }, node.type)
})

test('random bytes never do worse than a VmsealError', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (random) => {
      try {
        decodeTtlv(random)
        return true
      } catch (error) {
        return isVmsealError(error)
      }
    }),
    { numRuns: 5000 },
  )
  t.pass()
})
