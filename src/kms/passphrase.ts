/** A key from a passphrase (Argon2id, RFC 9106). */
import { randomBytes } from 'node:crypto'
import { VmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { KeyHandle } from '../native/load.js'

/** Stored with what the key seals. */
export interface PassphraseParameters {
  /** Base64, 16 bytes. */
  readonly salt: string
  readonly memoryKiB: number
  readonly iterations: number
  readonly lanes: number
}

/** The second recommended choice of RFC 9106, section 4: 64 MiB, three passes, four lanes. */
export function newPassphraseParameters(): PassphraseParameters {
  return { salt: randomBytes(16).toString('base64'), memoryKiB: 64 * 1024, iterations: 3, lanes: 4 }
}

/** More than this is refused: the parameters may come from a hostile file. */
const most = { memoryKiB: 1024 * 1024, iterations: 16, lanes: 16 }

/** The passphrase is wiped. Throws VMSEAL_STORE_INVALID for parameters that nobody chose here. */
export async function openWithPassphrase(
  passphrase: Uint8Array,
  { salt, memoryKiB, iterations, lanes }: PassphraseParameters,
): Promise<KeyHandle> {
  const bytes = typeof salt === 'string' ? Buffer.from(salt, 'base64') : Buffer.alloc(0)
  if (
    bytes.length !== 16 ||
    !isSane(memoryKiB, most.memoryKiB) ||
    !isSane(iterations, most.iterations) ||
    !isSane(lanes, most.lanes)
  )
    throw new VmsealError('VMSEAL_STORE_INVALID', 'the parameters of the passphrase were altered')
  return native.KeyHandle.fromPassphrase(passphrase, bytes, memoryKiB, iterations, lanes)
}

function isSane(value: unknown, limit: number): boolean {
  return Number.isInteger(value) && Number(value) > 0 && Number(value) <= limit
}
