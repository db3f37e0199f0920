/** The bytes of a key, for comparing with other programs: wrapped by the addon, unwrapped by Node's OpenSSL. */
import { native } from '../../src/native/load.js'
import type { KeyHandle } from '../../src/native/load.js'

export async function plainKey(key: KeyHandle): Promise<Buffer> {
  const known = new Uint8Array(32).fill(7)
  const wrapping = native.KeyHandle.importUnsafe(new Uint8Array(known))
  const wrapped = native.wrapKey(wrapping, key)
  wrapping.dispose()
  // RFC 3394.
  const kek = await crypto.subtle.importKey('raw', known, 'AES-KW', false, ['unwrapKey'])
  const hmac = { name: 'HMAC', hash: 'SHA-256' }
  const plain = await crypto.subtle.unwrapKey('raw', new Uint8Array(wrapped), kek, 'AES-KW', hmac, true, [
    'sign',
  ])
  return Buffer.from(await crypto.subtle.exportKey('raw', plain))
}
