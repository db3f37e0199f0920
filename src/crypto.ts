/**
 * `vmseal/crypto`: the engine without the orchestration. Keys live in locked native memory and are handled
 * through `SecretKey`; sectors are encrypted with AES-256-XTS; keys are wrapped with RFC 3394 and RFC 5649.
 */
import { VmsealError } from './errors.js'
import { native } from './native/load.js'
import type { KeyHandle, XtsHandle } from './native/load.js'

export { VmsealError, errorCodes, isVmsealError } from './errors.js'
export type { CryptoKeyId, ErrorCode, ErrorDetails, Fault } from './errors.js'

const construct = Symbol('construct')

/**
 * A secret key in locked memory. Its bytes cannot be read: a key leaves only wrapped under another key.
 * Dispose of it (or declare it with `using`) as soon as it is not needed; garbage collection comes too late.
 */
export class SecretKey {
  readonly #handle: KeyHandle

  /** @internal */
  constructor(token: typeof construct, handle: KeyHandle) {
    if (token !== construct)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'use SecretKey.generate, importUnsafe or unwrapKey')
    this.#handle = handle
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
    return this.#handle.length
  }

  get disposed(): boolean {
    return this.#handle.disposed
  }

  /** Compares two keys in constant time. */
  equals(other: SecretKey): boolean {
    return this.#handle.equals(handleOf(other, 'other'))
  }

  /** Wipes the key. Later use fails with VMSEAL_KEY_DISPOSED. Idempotent. */
  dispose(): void {
    this.#handle.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** Never shows more than the length. */
  toJSON(): { readonly secretKey: string } {
    return { secretKey: this.disposed ? 'disposed' : `${this.length} bytes` }
  }

  /** @internal */
  static handle(key: SecretKey): KeyHandle {
    return key.#handle
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

  /** Expands a 64-byte key whose halves differ. The cipher keeps working when `key` is disposed. */
  constructor(key: SecretKey, options: XtsOptions = {}) {
    this.sectorSize = wholeNumber(options.sectorSize ?? 512, 'sectorSize')
    this.tweakStep = wholeNumber(options.tweakStep ?? 1, 'tweakStep')
    this.#xts = native.XtsHandle.create(handleOf(key, 'key'), this.sectorSize, this.tweakStep)
  }

  /** The code path chosen for this CPU: `vaes512`, `vaes256`, `aesni` or `portable`. */
  get kernel(): string {
    return this.#xts.kernel
  }

  /** Encrypts whole sectors in place. `firstSector` counts sectors of `sectorSize`; past 2^53 pass a bigint. */
  encrypt(data: Uint8Array, firstSector: number | bigint): void {
    this.#xts.encrypt(ownBytes(data, 'data'), firstSector)
  }

  /** Decrypts whole sectors in place. */
  decrypt(data: Uint8Array, firstSector: number | bigint): void {
    this.#xts.decrypt(ownBytes(data, 'data'), firstSector)
  }

  /**
   * Encrypts off the event loop, on several threads. `data` must own its whole buffer (`new Uint8Array`,
   * `Buffer.allocUnsafeSlow`): the buffer is transferred, so `data` is empty afterwards, and the promise
   * gives the same memory back.
   */
  async encryptAsync(data: Uint8Array, firstSector: number | bigint): Promise<Uint8Array> {
    const owned = transfer(data)
    await this.#xts.encryptAsync(owned, firstSector)
    return owned
  }

  /** Decrypts off the event loop; see `encryptAsync`. */
  async decryptAsync(data: Uint8Array, firstSector: number | bigint): Promise<Uint8Array> {
    const owned = transfer(data)
    await this.#xts.decryptAsync(owned, firstSector)
    return owned
  }

  /** Wipes the expanded key. Idempotent. */
  dispose(): void {
    this.#xts.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** Wraps `key` (16 to 4096 bytes, a multiple of 8) under a 32-byte `kek`: RFC 3394, 8 bytes longer than the key. */
export function wrapKey(kek: SecretKey, key: SecretKey): Buffer {
  return native.wrapKey(handleOf(kek, 'kek'), handleOf(key, 'key'))
}

/** Opens an RFC 3394 wrap, or throws VMSEAL_UNWRAP_FAILED. */
export function unwrapKey(kek: SecretKey, wrapped: Uint8Array): SecretKey {
  return new SecretKey(construct, native.unwrapKey(handleOf(kek, 'kek'), ownBytes(wrapped, 'wrapped')))
}

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
}

/** The state of key memory in this process. */
export function keyMemory(): KeyMemory {
  return native.keyMemoryStatus()
}

function handleOf(value: SecretKey, name: string): KeyHandle {
  if (!SecretKey.holds(value)) throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${name} must be a SecretKey`)
  return SecretKey.handle(value)
}

function wholeNumber(value: number, name: string): number {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${name} must be a whole number, not ${String(value)}`)
  return value
}

/** Bytes that nobody else can change during the call. */
function ownBytes(value: Uint8Array, name: string): Uint8Array {
  if (!(value instanceof Uint8Array))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${name} must be a Buffer or Uint8Array`)
  if (!(value.buffer instanceof ArrayBuffer))
    throw new VmsealError(
      'VMSEAL_BUFFER_DETACHED',
      `${name} lies in a SharedArrayBuffer, which others may change`,
    )
  if (value.byteLength === 0 && isDetached(value.buffer))
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
