/** Memory that calls about keys take by turns: making it would cost as much as their work. */

/** The constructor of all Buffers, which they name for what is cut from them: half the time of `subarray`. */
export const BufferView = Reflect.get(Buffer, Symbol.species) as new (
  memory: ArrayBufferLike,
  start: number,
  length: number,
) => Buffer

let block = Buffer.allocUnsafeSlow(0)
let blockUsed = 0

/** Bytes of a block that later calls share, as Node's own pool does, whose blocks are too small for a batch of keys. */
export function takeBytes(size: number): Buffer {
  if (size > BLOCK / 4) return Buffer.allocUnsafeSlow(size)
  if (size > block.length - blockUsed) {
    block = Buffer.allocUnsafeSlow(BLOCK)
    blockUsed = 0
  }
  blockUsed += size
  return new BufferView(block.buffer, blockUsed - size, size)
}

const BLOCK = 16 * 1024

/** A typed array costs as much as wrapping several keys, so one is kept for the next call. */
let spareNumbers: Float64Array = new Float64Array(64)

/** At least `count` numbers that nobody else uses before `giveNumbers`: arguments with getters may call again. */
export function takeNumbers(count: number): Float64Array {
  const numbers = spareNumbers.length >= count ? spareNumbers : new Float64Array(count)
  spareNumbers = new Float64Array(0)
  return numbers
}

export function giveNumbers(numbers: Float64Array): void {
  if (numbers.length <= 1024) spareNumbers = numbers
}

const noBytes = Buffer.allocUnsafeSlow(0)
let spareBytes: Buffer = noBytes

/** At least `size` bytes that nobody else uses before `giveSpareBytes`, for what does not outlive a call. */
export function takeSpareBytes(size: number): Buffer {
  const bytes = spareBytes.length >= size ? spareBytes : Buffer.allocUnsafeSlow(size)
  spareBytes = noBytes
  return bytes
}

export function giveSpareBytes(bytes: Buffer): void {
  if (bytes.length <= SPARE) spareBytes = bytes
}

/** The wraps of 1024 keys of XTS. */
const SPARE = 72 * 1024
