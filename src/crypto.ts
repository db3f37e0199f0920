/**
 * `vmseal/crypto`: the engine without the orchestration. Keys live in locked native memory and are handled
 * through `SecretKey`; sectors are encrypted with AES-256-XTS; keys are wrapped with RFC 3394 and RFC 5649.
 */
import { VmsealError } from './errors.js'
import { direct, native, rethrow } from './native/load.js'
import type { KeyHandle, XtsHandle } from './native/load.js'

export { VmsealError, errorCodes, isVmsealError } from './errors.js'
export type { CryptoKeyId, ErrorCode, ErrorDetails, Fault } from './errors.js'

const { disposeKey, xtsDecrypt, xtsEncrypt } = direct

/** The tokens of keys that follow one another. */
interface TokenRun {
  readonly first: number
  readonly count: number
}

/** Wipes unwrapped keys that were collected without `dispose`. A token is never used again, so twice does no harm. */
const abandoned = new FinalizationRegistry<readonly TokenRun[]>((runs) => {
  for (const { first, count } of runs)
    for (let token = first; token < first + count; token += 1) disposeKey(token)
})

/**
 * What keys that were unwrapped by up to 16 calls in the same run of JavaScript share: to register each would take a good
 * part of the time of unwrapping it.
 */
let group: { readonly lifetime: object; readonly runs: TokenRun[] } | undefined

function lifetimeOf(first: number, count: number): object {
  if (group === undefined || group.runs.length === 16) {
    group = { lifetime: {}, runs: [] }
    abandoned.register(group.lifetime, group.runs)
    // So that it is not kept from being collected.
    void settled.then(endGroup)
  }
  group.runs.push({ first, count })
  return group.lifetime
}

const settled = Promise.resolve()

function endGroup(): void {
  group = undefined
}

const construct = Symbol('construct')

/**
 * A secret key in locked memory. Its bytes cannot be read: a key leaves only wrapped under another key.
 * Dispose of it (or declare it with `using`) as soon as it is not needed; garbage collection comes too late.
 */
export class SecretKey {
  #handle: KeyHandle | undefined
  #token: number
  #length: number
  #disposed = false
  /** Of a key without a handle of its own: reachable as long as any key that it stands for. */
  readonly #lifetime: object | undefined

  /** @internal Takes a handle, or the token and length of a key, whose handle is made when it is needed. */
  constructor(permit: typeof construct, handle?: KeyHandle, token = 0, length = 0, lifetime?: object) {
    if (permit !== construct)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'use SecretKey.generate, importUnsafe or unwrapKey')
    this.#handle = handle
    this.#token = token
    this.#length = length
    this.#lifetime = lifetime
  }

  /** A new random key of `length` bytes (1 to 4096): 64 for AES-256-XTS, 32 for a key-encryption key. */
  static generate(length: number): SecretKey {
    return new SecretKey(construct, native.KeyHandle.generate(wholeNumber(length, 'length')))
  }

  /**
   * Copies `bytes` into locked memory and fills the source with zeros. Unsafe because every other copy that
   * JavaScript made of these bytes stays where it is.
   */
  static importUnsafe(bytes: Uint8Array): SecretKey {
    return new SecretKey(construct, native.KeyHandle.importUnsafe(ownBytes(bytes, 'bytes')))
  }

  /** Length in bytes. */
  get length(): number {
    if (this.#length === 0) this.#length = SecretKey.handle(this).length
    return this.#length
  }

  get disposed(): boolean {
    return this.#disposed
  }

  /** Compares two keys in constant time. */
  equals(other: SecretKey): boolean {
    return SecretKey.handle(this).equals(handleOf(other, 'other'))
  }

  /** Wipes the key. Later use fails with VMSEAL_KEY_DISPOSED. Idempotent. */
  dispose(): void {
    const token = SecretKey.end(this)
    if (token !== 0) disposeKey(token)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** Never shows more than the length. */
  toJSON(): { readonly secretKey: string } {
    return { secretKey: this.disposed ? 'disposed' : `${this.length} bytes` }
  }

  /** @internal Marks the key as disposed; gives the token that is still to be disposed of, or 0. */
  static end(key: SecretKey): number {
    if (key.#disposed) return 0
    key.#disposed = true
    key.#handle?.dispose()
    return key.#lifetime ? key.#token : 0
  }

  /** @internal */
  static handle(key: SecretKey): KeyHandle {
    key.#handle ??= native.keyOfToken(key.#token)
    return key.#handle
  }

  /** @internal */
  static token(key: SecretKey): number {
    if (key.#token === 0) key.#token = SecretKey.handle(key).token
    return key.#token
  }

  /** @internal */
  static holds(value: unknown): value is SecretKey {
    return typeof value === 'object' && value !== null && #handle in value
  }
}

/** How an `XtsCipher` cuts data into units. */
export interface XtsOptions {
  /** Data unit in bytes, default 512. */
  readonly sectorSize?: 512 | 1024 | 2048 | 4096
  /** Sector n has tweak n x `tweakStep`; default 1. dm-crypt and LUKS2 count 512-byte sectors: 8 for 4096-byte units. */
  readonly tweakStep?: number
}

/** AES-256-XTS (IEEE 1619) over whole sectors; the tweak is the 64-bit little-endian sector number (plain64). */
export class XtsCipher {
  readonly sectorSize: number
  readonly tweakStep: number
  readonly #xts: XtsHandle
  readonly #token: number

  /** Expands a 64-byte key whose halves differ. The cipher keeps working when `key` is disposed. */
  constructor(key: SecretKey, options: XtsOptions = {}) {
    this.sectorSize = wholeNumber(options.sectorSize ?? 512, 'sectorSize')
    this.tweakStep = wholeNumber(options.tweakStep ?? 1, 'tweakStep')
    this.#xts = native.XtsHandle.create(handleOf(key, 'key'), this.sectorSize, this.tweakStep)
    this.#token = this.#xts.token
  }

  /** The code path chosen for this CPU: `vaes512`, `vaes256`, `aesni` or `portable`. */
  get kernel(): string {
    return this.#xts.kernel
  }

  /** Encrypts whole sectors in place. `firstSector` counts sectors of `sectorSize`; past 2^53 pass a bigint. */
  encrypt(data: Uint8Array, firstSector: number | bigint): void {
    try {
      xtsEncrypt(this.#token, data, firstSector)
    } catch (error) {
      rethrow(error)
    }
  }

  /** Decrypts whole sectors in place. */
  decrypt(data: Uint8Array, firstSector: number | bigint): void {
    try {
      xtsDecrypt(this.#token, data, firstSector)
    } catch (error) {
      rethrow(error)
    }
  }

  /**
   * Encrypts off the event loop, on several threads; up to 128 KiB at once, which takes less time than handing over.
   * `data` must own its whole buffer (`new Uint8Array`,
   * `Buffer.allocUnsafeSlow`): the buffer is transferred, so `data` is empty afterwards, and the promise
   * gives the same memory back. A call that is refused leaves `data` as it is.
   */
  async encryptAsync(data: Uint8Array, firstSector: number | bigint): Promise<Uint8Array> {
    const owned = this.#take(data, firstSector)
    if (owned.byteLength <= SMALL) this.encrypt(owned, firstSector)
    else await this.#xts.encryptAsync(owned, firstSector)
    return owned
  }

  /** Decrypts off the event loop; see `encryptAsync`. */
  async decryptAsync(data: Uint8Array, firstSector: number | bigint): Promise<Uint8Array> {
    const owned = this.#take(data, firstSector)
    if (owned.byteLength <= SMALL) this.decrypt(owned, firstSector)
    else await this.#xts.decryptAsync(owned, firstSector)
    return owned
  }

  /** Transfers the buffer of `data`, but only for a call that nothing speaks against: refused, it stays with the caller. */
  #take(data: Uint8Array, firstSector: number | bigint): Uint8Array {
    this.encrypt(noBytes, firstSector)
    if (ownBytes(data, 'data').byteLength % this.sectorSize !== 0)
      throw new VmsealError('VMSEAL_SECTOR_ALIGNMENT', 'the data is not a whole number of sectors')
    return transfer(data)
  }

  /** Wipes the expanded key. Idempotent. */
  dispose(): void {
    this.#xts.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

const noBytes = new Uint8Array(0)

/** Bytes that are encrypted in less time (8 us with VAES) than a thread takes to answer (10 to 35 us). */
const SMALL = 128 * 1024

/** Wraps `key` (16 to 4096 bytes, a multiple of 8) under a 32-byte `kek`: RFC 3394, 8 bytes longer than the key. */
export function wrapKey(kek: SecretKey, key: SecretKey): Buffer {
  const kekToken = tokenOf(kek, 'kek')
  const keyToken = tokenOf(key, 'key')
  const wrapped = takeBytes(key.length + WRAP_OVERHEAD)
  try {
    direct.wrapKey(kekToken, keyToken, wrapped)
  } catch (error) {
    rethrow(error)
  }
  return wrapped
}

/** Opens an RFC 3394 wrap, or throws VMSEAL_UNWRAP_FAILED. */
export function unwrapKey(kek: SecretKey, wrapped: Uint8Array): SecretKey {
  const kekToken = tokenOf(kek, 'kek')
  let token: number
  try {
    token = direct.unwrapKey(kekToken, wrapped)
  } catch (error) {
    rethrow(error)
  }
  return new SecretKey(construct, undefined, token, wrapped.length - WRAP_OVERHEAD, lifetimeOf(token, 1))
}

/**
 * Wraps every key as `wrapKey` does, side by side: from 32 keys on each takes a small part of the time of `wrapKey`.
 * If one key cannot be wrapped the call throws. The buffers share one ArrayBuffer, which lives as long as any of them.
 */
export function wrapKeys(kek: SecretKey, keys: readonly SecretKey[]): Buffer[] {
  const kekToken = tokenOf(kek, 'kek')
  const all = list(keys, 'keys').slice()
  const tokens = takeNumbers(all.length)
  let size = 0
  for (let index = 0; index < all.length; index += 1) {
    const key = all[index] as SecretKey
    tokens[index] = tokenOf(key, 'every key')
    size += key.length + WRAP_OVERHEAD
  }
  const packed = takeBytes(size)
  try {
    direct.wrapKeys(kekToken, tokens, all.length, packed)
  } catch (error) {
    rethrow(error)
  }
  giveNumbers(tokens)
  const { buffer } = packed
  let start = packed.byteOffset
  const wrapped: Buffer[] = []
  for (const key of all) {
    const length = key.length + WRAP_OVERHEAD
    wrapped.push(new BufferView(buffer, start, length))
    start += length
  }
  return wrapped
}

/**
 * Opens every wrap as `unwrapKey` does, side by side. If one does not open the call throws VMSEAL_UNWRAP_FAILED, the
 * message names its index, and the keys of the others are wiped.
 *
 * Keys that nobody disposes of are wiped when the last one of the call, and of calls just before and after it, has been
 * collected.
 */
export function unwrapKeys(kek: SecretKey, wrapped: readonly Uint8Array[]): SecretKey[] {
  const kekToken = tokenOf(kek, 'kek')
  const wraps = list(wrapped, 'wrapped').slice()
  const numbers = takeNumbers(wraps.length)
  let size = 0
  for (let index = 0; index < wraps.length; index += 1) {
    const { length } = bytesOf(wraps[index] as Uint8Array, 'every wrap')
    numbers[index] = length
    size += length
  }
  const packed = takeBytes(size)
  let start = 0
  for (const wrap of wraps) {
    packed.set(wrap, start)
    start += wrap.length
  }
  let first: number
  try {
    first = direct.unwrapKeys(kekToken, packed, numbers, wraps.length)
  } catch (error) {
    rethrow(error)
  }
  giveNumbers(numbers)
  const lifetime = lifetimeOf(first, wraps.length)
  const keys: SecretKey[] = []
  for (let index = 0; index < wraps.length; index += 1) {
    const length = (wraps[index] as Uint8Array).length - WRAP_OVERHEAD
    keys.push(new SecretKey(construct, undefined, first + index, length, lifetime))
  }
  return keys
}

/** Disposes of every key as `key.dispose()` does, for a part of the time. */
export function disposeKeys(keys: readonly SecretKey[]): void {
  const all = list(keys, 'keys').slice()
  for (const key of all) requireKey(key, 'every key')
  const tokens = takeNumbers(all.length)
  let count = 0
  for (const key of all) {
    const token = SecretKey.end(key)
    if (token !== 0) tokens[count++] = token
  }
  direct.disposeKeys(tokens, count)
  giveNumbers(tokens)
}

/** The constructor of all Buffers, which they name for what is cut from them: half the time of `subarray`. */
const BufferView = Reflect.get(Buffer, Symbol.species) as new (
  memory: ArrayBufferLike,
  start: number,
  length: number,
) => Buffer

let block = Buffer.allocUnsafeSlow(0)
let blockUsed = 0

/** Bytes of a block that later calls share, as Node's own pool does, whose blocks are too small for a batch of keys. */
function takeBytes(size: number): Buffer {
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
function takeNumbers(count: number): Float64Array {
  const numbers = spareNumbers.length >= count ? spareNumbers : new Float64Array(count)
  spareNumbers = new Float64Array(0)
  return numbers
}

function giveNumbers(numbers: Float64Array): void {
  if (numbers.length <= 1024) spareNumbers = numbers
}

/** Bytes that RFC 3394 adds to a key. */
const WRAP_OVERHEAD = 8

/** Wraps `key` of any length from 16 bytes under `kek`: RFC 5649. */
export function wrapKeyPadded(kek: SecretKey, key: SecretKey): Buffer {
  return native.wrapKeyPadded(handleOf(kek, 'kek'), handleOf(key, 'key'))
}

/** Opens an RFC 5649 wrap, or throws VMSEAL_UNWRAP_FAILED. */
export function unwrapKeyPadded(kek: SecretKey, wrapped: Uint8Array): SecretKey {
  return new SecretKey(construct, native.unwrapKeyPadded(handleOf(kek, 'kek'), ownBytes(wrapped, 'wrapped')))
}

/** Where keys live and how much of the lock limit they take. */
export interface KeyMemory {
  /** `memfd_secret`: not even root's debugger can read it. `locked-memory`: never swapped or dumped. */
  readonly backing: 'memfd_secret' | 'locked-memory'
  readonly allocations: number
  readonly bytesUsed: number
  readonly bytesReserved: number
  /** RLIMIT_MEMLOCK in bytes; absent when unlimited. */
  readonly lockLimit?: number
  /** Whether a crash of this process would write a core file or feed a core handler. Key memory is in none. */
  readonly coreDumpsPossible: boolean
}

/** The state of key memory in this process. */
export function keyMemory(): KeyMemory {
  return native.keyMemoryStatus()
}

function handleOf(value: SecretKey, name: string): KeyHandle {
  requireKey(value, name)
  return SecretKey.handle(value)
}

function tokenOf(value: SecretKey, name: string): number {
  requireKey(value, name)
  return SecretKey.token(value)
}

function requireKey(value: unknown, name: string): void {
  if (!SecretKey.holds(value)) throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${name} must be a SecretKey`)
}

function list<T>(value: readonly T[], name: string): readonly T[] {
  if (!Array.isArray(value)) throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${name} must be an array`)
  return value
}

function wholeNumber(value: number, name: string): number {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${name} must be a whole number, not ${String(value)}`)
  return value
}

/** Bytes that nobody else can change during the call. */
function ownBytes(value: Uint8Array, name: string): Uint8Array {
  if (!(bytesOf(value, name).buffer instanceof ArrayBuffer))
    throw new VmsealError(
      'VMSEAL_BUFFER_DETACHED',
      `${name} lies in a SharedArrayBuffer, which others may change`,
    )
  return value
}

function bytesOf(value: Uint8Array, name: string): Uint8Array {
  if (!(value instanceof Uint8Array))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${name} must be a Buffer or Uint8Array`)
  if (value.byteLength === 0 && value.buffer instanceof ArrayBuffer && isDetached(value.buffer))
    throw new VmsealError('VMSEAL_BUFFER_DETACHED', `${name} is detached`)
  return value
}

function isDetached(buffer: ArrayBuffer): boolean {
  try {
    return new Uint8Array(buffer).length < 0
  } catch {
    return true
  }
}

function transfer(data: Uint8Array): Uint8Array {
  const { buffer, byteLength } = ownBytes(data, 'data')
  if (byteLength !== buffer.byteLength)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'data must own its whole buffer (new Uint8Array or Buffer.allocUnsafeSlow), because the buffer is transferred',
    )
  try {
    return new Uint8Array(structuredClone(buffer as ArrayBuffer, { transfer: [buffer as ArrayBuffer] }))
  } catch (cause) {
    throw new VmsealError('VMSEAL_BUFFER_DETACHED', 'the buffer of data cannot be transferred', { cause })
  }
}
