/** TTLV items as values (KMIP 1.4, section 9.1.1). */
import type { KeyHandle } from '../../native/load.js'

/** The item types of KMIP 1.x with their codes, and the one that 2.0 adds. */
export const itemTypes = {
  Structure: 0x01,
  Integer: 0x02,
  LongInteger: 0x03,
  BigInteger: 0x04,
  Enumeration: 0x05,
  Boolean: 0x06,
  TextString: 0x07,
  ByteString: 0x08,
  DateTime: 0x09,
  Interval: 0x0a,
  DateTimeExtended: 0x0b,
} as const

export type ItemType = keyof typeof itemTypes

/** What the value of an item is in JavaScript. Date-Time counts seconds since 1970, an Interval seconds. */
export interface ItemValues {
  Structure: readonly TtlvNode[]
  /** Signed, 32 bits. */
  Integer: number
  /** Signed, 64 bits. */
  LongInteger: bigint
  BigInteger: bigint
  /** Unsigned, 32 bits. */
  Enumeration: number
  Boolean: boolean
  TextString: string
  ByteString: Uint8Array
  /** Signed, 64 bits. */
  DateTime: bigint
  /** Unsigned, 32 bits. */
  Interval: number
  /** Microseconds since 1970; signed, 64 bits. */
  DateTimeExtended: bigint
}

interface Item<T extends ItemType> {
  readonly tag: number
  readonly type: T
  readonly value: ItemValues[T]
}

/**
 * A Byte String. With `key`, the value is empty here and its content is the key: it is spliced into the
 * message by the native channel, so no key byte enters JavaScript.
 */
export interface ByteStringNode extends Item<'ByteString'> {
  readonly key?: KeyHandle
}

export type TtlvNode = { [T in ItemType]: T extends 'ByteString' ? ByteStringNode : Item<T> }[ItemType]

export function structure(tag: number, children: readonly TtlvNode[]): TtlvNode {
  return { tag, type: 'Structure', value: children }
}
export function integer(tag: number, value: number): TtlvNode {
  return { tag, type: 'Integer', value }
}
export function enumeration(tag: number, value: number): TtlvNode {
  return { tag, type: 'Enumeration', value }
}
export function boolean(tag: number, value: boolean): TtlvNode {
  return { tag, type: 'Boolean', value }
}
export function textString(tag: number, value: string): TtlvNode {
  return { tag, type: 'TextString', value }
}
export function byteString(tag: number, value: Uint8Array): TtlvNode {
  return { tag, type: 'ByteString', value }
}
/** A Byte String whose content is a key. */
export function keyString(tag: number, key: KeyHandle): TtlvNode {
  return { tag, type: 'ByteString', value: new Uint8Array(0), key }
}
/** `value` to the second. */
export function dateTime(tag: number, value: Date): TtlvNode {
  return { tag, type: 'DateTime', value: BigInt(Math.floor(value.getTime() / 1000)) }
}
