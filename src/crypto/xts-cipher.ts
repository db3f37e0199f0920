/** Sectors are encrypted with AES-256-XTS. */
import { VmsealError } from '../errors.js'
import { direct, native, rethrow } from '../native/load.js'
import type { XtsHandle } from '../native/load.js'
import { ownBytes, wholeNumber } from './arguments.js'
import { handleOf } from './secret-key.js'
import type { SecretKey } from './secret-key.js'

const { xtsDecrypt, xtsEncrypt } = direct

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
