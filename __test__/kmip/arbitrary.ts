/** Random TTLV items. */
import fc from 'fast-check'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'

const tag = fc.oneof(
  fc.integer({ min: 0x420000, max: 0x42ffff }),
  fc.integer({ min: 0x540000, max: 0x54ffff }),
)
const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })
const uint32 = fc.integer({ min: 0, max: 0xffffffff })

const leaf: fc.Arbitrary<TtlvNode> = fc.oneof(
  fc.record({
    tag,
    type: fc.constant('Integer' as const),
    value: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
  }),
  fc.record({ tag, type: fc.constant('LongInteger' as const), value: int64 }),
  fc.record({
    tag,
    type: fc.constant('BigInteger' as const),
    value: fc.bigInt({ min: -(2n ** 200n), max: 2n ** 200n }),
  }),
  fc.record({ tag, type: fc.constant('Enumeration' as const), value: uint32 }),
  fc.record({ tag, type: fc.constant('Boolean' as const), value: fc.boolean() }),
  fc.record({
    tag,
    type: fc.constant('TextString' as const),
    value: fc.string({ unit: 'binary', maxLength: 40 }),
  }),
  fc.record({ tag, type: fc.constant('ByteString' as const), value: fc.uint8Array({ maxLength: 40 }) }),
  fc.record({ tag, type: fc.constant('DateTime' as const), value: int64 }),
  fc.record({ tag, type: fc.constant('Interval' as const), value: uint32 }),
  fc.record({ tag, type: fc.constant('DateTimeExtended' as const), value: int64 }),
)

export const ttlv: fc.Arbitrary<TtlvNode> = fc.letrec<{ node: TtlvNode }>((tie) => ({
  node: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    leaf,
    fc.record({
      tag,
      type: fc.constant('Structure' as const),
      value: fc.array(tie('node'), { maxLength: 6 }),
    }),
  ),
})).node
