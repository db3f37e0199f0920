/** Keys as JavaScript holds them. */
import { VmsealError } from '../errors.js'
import { direct, native } from '../native/load.js'
import type { KeyHandle } from '../native/load.js'
import { ownBytes, wholeNumber } from './arguments.js'

const { disposeKey } = direct

/** Whoever has it may make a `SecretKey` of a handle or a token. */
export const construct = Symbol('construct')

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

export function handleOf(value: SecretKey, name: string): KeyHandle {
  requireKey(value, name)
  return SecretKey.handle(value)
}

export function tokenOf(value: SecretKey, name: string): number {
  requireKey(value, name)
  return SecretKey.token(value)
}

export function requireKey(value: unknown, name: string): void {
  if (!SecretKey.holds(value)) throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${name} must be a SecretKey`)
}
