/**
 * TTLV, the wire form of KMIP (KMIP 1.4, section 9.1; KMIP 2.1, section 9): 3 bytes tag, 1 byte type, 4 bytes length, the
 * value, and padding with zeros to a multiple of 8. The length leaves the padding out.
 */
import { VmsealError } from '../../errors.js'
import { itemTypes } from './node.js'
import type { ItemType, ItemValues, TtlvNode } from './node.js'
import { tagName } from './tags.js'

export interface TtlvLimits {
  /** Of one whole message. */
  readonly maxBytes: number
  readonly maxDepth: number
  /** Items of all levels together. */
  readonly maxItems: number
}

export const defaultLimits: TtlvLimits = { maxBytes: 1024 * 1024, maxDepth: 32, maxItems: 65_536 }

/** Decodes exactly one item. Throws VMSEAL_KMIP_MALFORMED, or VMSEAL_KMIP_TOO_LARGE beyond a limit. */
export function decodeTtlv(bytes: Uint8Array, limits: TtlvLimits = defaultLimits): TtlvNode {
  if (bytes.byteLength > limits.maxBytes)
    throw tooLarge(`a message of ${bytes.byteLength} bytes, the limit is ${limits.maxBytes}`)
  const decoder = new Decoder(bytes, limits)
  return decoder.item(0, bytes.byteLength, 1, true)
}

/** Encodes one item with everything in it. Throws VMSEAL_INVALID_ARGUMENT for a value outside its type. */
export function encodeTtlv(node: TtlvNode, limits: TtlvLimits = defaultLimits): Buffer {
  const total = measure(node, limits, { items: 0 }, 1)
  if (total > limits.maxBytes) throw tooLarge(`a message of ${total} bytes, the limit is ${limits.maxBytes}`)
  const output = Buffer.alloc(total)
  write(node, output, 0)
  return output
}

/** Bytes of an item on the wire, with header and padding, before any key is spliced in. */
export function encodedLength(node: TtlvNode, limits: TtlvLimits = defaultLimits): number {
  return measure(node, limits, { items: 0 }, 1)
}

const headerBytes = 8
const codeTypes: ReadonlyMap<number, ItemType> = new Map(
  Object.entries(itemTypes).map(([type, code]) => [code, type as ItemType]),
)
const fixedLengths: Partial<Record<ItemType, number>> = {
  Integer: 4,
  LongInteger: 8,
  Enumeration: 4,
  Boolean: 8,
  DateTime: 8,
  Interval: 4,
  DateTimeExtended: 8,
}
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

class Decoder {
  readonly #bytes: Buffer
  readonly #limits: TtlvLimits
  #items = 0

  constructor(bytes: Uint8Array, limits: TtlvLimits) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#limits = limits
  }

  /** The item at `start`; it may not reach beyond `end`, and with `whole` it must reach it. */
  item(start: number, end: number, depth: number, whole: boolean): TtlvNode {
    if (depth > this.#limits.maxDepth) throw malformed(`items nest deeper than ${this.#limits.maxDepth}`)
    this.#items += 1
    if (this.#items > this.#limits.maxItems) throw tooLarge(`more than ${this.#limits.maxItems} items`)
    if (end - start < headerBytes) throw malformed('an item is cut within its header')
    const tag = this.#bytes.readUInt32BE(start) >>> 8
    const vendor = tag >>> 16
    if (vendor !== 0x42 && vendor !== 0x54) throw malformed(`${tagName(tag)} is no KMIP tag`)
    const code = this.#bytes[start + 3] as number
    const type = codeTypes.get(code)
    if (type === undefined) throw malformed(`${tagName(tag)} has the unknown item type ${code}`)
    const length = this.#bytes.readUInt32BE(start + 4)
    const from = start + headerBytes
    const next = from + padded(length)
    if (next > end) throw malformed(`${tagName(tag)} reaches beyond the item that holds it`)
    if (whole && next !== end) throw malformed(`bytes follow the item ${tagName(tag)}`)
    const fixed = fixedLengths[type]
    if (fixed !== undefined && fixed !== length) throw malformed(`${tagName(tag)} has the length ${length}`)
    const value =
      type === 'Structure' ? this.#children(from, next, length, depth) : this.#value(tag, type, from, length)
    return { tag, type, value } as TtlvNode
  }

  #children(start: number, end: number, length: number, depth: number): TtlvNode[] {
    if (length % 8 !== 0) throw malformed(`a structure has the length ${length}`)
    const children: TtlvNode[] = []
    for (let position = start; position < end;) {
      const child = this.item(position, end, depth + 1, false)
      children.push(child)
      position += headerBytes + padded(this.#bytes.readUInt32BE(position + 4))
    }
    return children
  }

  #value(tag: number, type: ItemType, at: number, length: number): ItemValues[ItemType] {
    switch (type) {
      case 'Integer':
        return this.#bytes.readInt32BE(at)
      case 'Enumeration':
      case 'Interval':
        return this.#bytes.readUInt32BE(at)
      case 'LongInteger':
      case 'DateTime':
      case 'DateTimeExtended':
        return this.#bytes.readBigInt64BE(at)
      case 'Boolean': {
        const value = this.#bytes.readBigUInt64BE(at)
        if (value > 1n) throw malformed(`${tagName(tag)} is neither true nor false`)
        return value === 1n
      }
      case 'BigInteger': {
        if (length === 0 || length % 8 !== 0) throw malformed(`${tagName(tag)} has the length ${length}`)
        return BigInt.asIntN(length * 8, BigInt(`0x${this.#bytes.toString('hex', at, at + length)}`))
      }
      case 'TextString':
        return this.#text(tag, at, at + length)
      default:
        return new Uint8Array(this.#bytes.subarray(at, at + length))
    }
  }

  #text(tag: number, start: number, end: number): string {
    // ASCII, which nearly all is, needs no decoder.
    if (this.#isAscii(start, end)) return this.#bytes.toString('latin1', start, end)
    try {
      return utf8.decode(this.#bytes.subarray(start, end))
    } catch {
      throw malformed(`${tagName(tag)} is not UTF-8`)
    }
  }

  #isAscii(start: number, end: number): boolean {
    for (let at = start; at < end; at++) if ((this.#bytes[at] as number) > 0x7f) return false
    return true
  }
}

/** Length of the item, its value checked against the type. */
function measure(node: TtlvNode, limits: TtlvLimits, count: { items: number }, depth: number): number {
  if (depth > limits.maxDepth) throw invalid(`items nest deeper than ${limits.maxDepth}`)
  count.items += 1
  if (count.items > limits.maxItems) throw tooLarge(`more than ${limits.maxItems} items`)
  if (node.type !== 'Structure') return headerBytes + padded(valueLength(node))
  let length = headerBytes
  for (const child of node.value) length += measure(child, limits, count, depth + 1)
  return length
}

function valueLength(node: Exclude<TtlvNode, { type: 'Structure' }>): number {
  switch (node.type) {
    case 'Integer':
      expect(Number.isInteger(node.value) && node.value === (node.value | 0), node, 'a signed 32-bit integer')
      return 4
    case 'Enumeration':
    case 'Interval':
      expect(
        Number.isInteger(node.value) && node.value === node.value >>> 0,
        node,
        'an unsigned 32-bit integer',
      )
      return 4
    case 'LongInteger':
    case 'DateTime':
    case 'DateTimeExtended':
      expect(BigInt.asIntN(64, node.value) === node.value, node, 'a signed 64-bit integer')
      return 8
    case 'Boolean':
      return 8
    case 'BigInteger':
      return bigIntegerLength(node.value)
    case 'TextString':
      expect(!/\p{Surrogate}/u.test(node.value), node, 'text without lone surrogates')
      return Buffer.byteLength(node.value)
    default:
      expect(node.key === undefined || node.value.byteLength === 0, node, 'empty where a key stands')
      return node.value.byteLength
  }
}

/** Writes an item that was measured: the position after it. */
function write(node: TtlvNode, output: Buffer, start: number): number {
  const at = start + headerBytes
  const length =
    node.type === 'Structure' ? writeAll(node.value, output, at) - at : writeValue(node, output, at)
  output.writeUInt32BE(((node.tag << 8) | itemTypes[node.type]) >>> 0, start)
  output.writeUInt32BE(length, start + 4)
  return at + padded(length)
}

function writeAll(nodes: readonly TtlvNode[], output: Buffer, start: number): number {
  let position = start
  for (const node of nodes) position = write(node, output, position)
  return position
}

/** The length of the value. */
function writeValue(node: Exclude<TtlvNode, { type: 'Structure' }>, output: Buffer, at: number): number {
  switch (node.type) {
    case 'Integer':
      output.writeInt32BE(node.value, at)
      return 4
    case 'Enumeration':
    case 'Interval':
      output.writeUInt32BE(node.value, at)
      return 4
    case 'LongInteger':
    case 'DateTime':
    case 'DateTimeExtended':
      output.writeBigInt64BE(node.value, at)
      return 8
    case 'Boolean':
      output[at + 7] = node.value ? 1 : 0
      return 8
    case 'BigInteger': {
      const length = bigIntegerLength(node.value)
      const digits = BigInt.asUintN(length * 8, node.value).toString(16)
      output.write(digits.padStart(length * 2, '0'), at, 'hex')
      return length
    }
    case 'TextString':
      return output.write(node.value, at)
    default:
      output.set(node.value, at)
      return node.value.byteLength
  }
}

/** Bytes of the two's complement, sign bit included, in multiples of 8. */
function bigIntegerLength(value: bigint): number {
  const magnitude = value < 0n ? -value - 1n : value
  const bits = magnitude === 0n ? 1 : magnitude.toString(16).length * 4 + 1
  const length = Math.ceil(bits / 64) * 8
  return length > 8 && BigInt.asIntN((length - 8) * 8, value) === value ? length - 8 : length
}

function padded(length: number): number {
  return Math.ceil(length / 8) * 8
}

function expect(holds: boolean, node: TtlvNode, expected: string): void {
  if (!holds) throw invalid(`${tagName(node.tag)} must be ${expected}`)
}

function malformed(what: string): VmsealError {
  return new VmsealError('VMSEAL_KMIP_MALFORMED', `broken TTLV: ${what}`)
}

function tooLarge(what: string): VmsealError {
  return new VmsealError('VMSEAL_KMIP_TOO_LARGE', `KMIP: ${what}`)
}

function invalid(what: string): VmsealError {
  return new VmsealError('VMSEAL_INVALID_ARGUMENT', `cannot encode as TTLV: ${what}`)
}
