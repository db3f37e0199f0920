/** Arguments that cannot be used are refused before a key is touched. */
import { VmsealError } from '../errors.js'

export function wholeNumber(value: number, name: string): number {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${name} must be a whole number, not ${String(value)}`)
  return value
}

export function list<T>(value: readonly T[], name: string): readonly T[] {
  if (!Array.isArray(value)) throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${name} must be an array`)
  return value
}

/** Bytes that nobody else can change during the call. */
export function ownBytes(value: Uint8Array, name: string): Uint8Array {
  if (!(bytesOf(value, name).buffer instanceof ArrayBuffer))
    throw new VmsealError(
      'VMSEAL_BUFFER_DETACHED',
      `${name} lies in a SharedArrayBuffer, which others may change`,
    )
  return value
}

export function bytesOf(value: Uint8Array, name: string): Uint8Array {
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
