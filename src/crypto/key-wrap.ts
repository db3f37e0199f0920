/** Keys are wrapped with RFC 3394 and RFC 5649, one or many at a time. */
import { direct, native, rethrow } from '../native/load.js'
import { bytesOf, list, ownBytes } from './arguments.js'
import { lifetimeOf } from './key-lifetime.js'
import { SecretKey, construct, handleOf, requireKey, tokenOf } from './secret-key.js'
import {
  BufferView,
  giveNumbers,
  giveSpareBytes,
  takeBytes,
  takeNumbers,
  takeSpareBytes,
} from './shared-memory.js'

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
  // In the place of the keys: a list that grows is copied again and again.
  const wrapped = all as unknown as Buffer[]
  for (let index = 0; index < all.length; index += 1) {
    const length = (all[index] as SecretKey).length + WRAP_OVERHEAD
    wrapped[index] = new BufferView(buffer, start, length)
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
  const place = takeSpareBytes(size)
  const packed = place.length === size ? place : new BufferView(place.buffer, place.byteOffset, size)
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
  giveSpareBytes(place)
  const lifetime = lifetimeOf(first, wraps.length)
  // In the place of the wraps, as in `wrapKeys`.
  const keys = wraps as unknown as SecretKey[]
  for (let index = 0; index < wraps.length; index += 1) {
    const length = (wraps[index] as Uint8Array).length - WRAP_OVERHEAD
    keys[index] = new SecretKey(construct, undefined, first + index, length, lifetime)
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

/** Wraps `key` of any length from 16 bytes under `kek`: RFC 5649. */
export function wrapKeyPadded(kek: SecretKey, key: SecretKey): Buffer {
  return native.wrapKeyPadded(handleOf(kek, 'kek'), handleOf(key, 'key'))
}

/** Opens an RFC 5649 wrap, or throws VMSEAL_UNWRAP_FAILED. */
export function unwrapKeyPadded(kek: SecretKey, wrapped: Uint8Array): SecretKey {
  return new SecretKey(construct, native.unwrapKeyPadded(handleOf(kek, 'kek'), ownBytes(wrapped, 'wrapped')))
}

/** Bytes that RFC 3394 adds to a key. */
const WRAP_OVERHEAD = 8
