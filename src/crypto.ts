/**
 * `vmseal/crypto`: the engine without the orchestration. Keys live in locked native memory and are handled
 * through `SecretKey`; sectors are encrypted with AES-256-XTS; keys are wrapped with RFC 3394 and RFC 5649.
 */
export { VmsealError, errorCodes, isVmsealError } from './errors.js'
export type { CryptoKeyId, ErrorCode, ErrorDetails, Fault } from './errors.js'
export {
  disposeKeys,
  unwrapKey,
  unwrapKeyPadded,
  unwrapKeys,
  wrapKey,
  wrapKeyPadded,
  wrapKeys,
} from './crypto/key-wrap.js'
export { SecretKey, keyMemory } from './crypto/secret-key.js'
export type { KeyMemory } from './crypto/secret-key.js'
export { XtsCipher } from './crypto/xts-cipher.js'
export type { XtsOptions } from './crypto/xts-cipher.js'
