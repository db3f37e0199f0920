/** A key that leaves wrapped under another key of the KMS (KMIP 1.4, section 2.1.6). */
import { kmipFailure } from '../kmip/failure.js'
import type { KeyWrapping } from '../kmip/operations/key-wrapping.js'
import { native } from '../native/load.js'
import type { KeyHandle } from '../native/load.js'
import type { KeyRow } from './keys.js'

/** Cryptographic Usage Mask: Wrap Key (KMIP 1.4, section 9.1.3.3.1). */
const wrapKeyBit = 0x10

/** Refuses a wrapping that is not made here. */
export function checkWrapping(wrapping: KeyWrapping): void {
  const { method, blockCipherMode, encodingOption, algorithm, paddingMethod, hashingAlgorithm } = wrapping
  if (method !== 'Encrypt') throw kmipFailure('FeatureNotSupported', 'keys are wrapped by encryption only')
  if (algorithm !== undefined && algorithm !== 'AES')
    throw kmipFailure('FeatureNotSupported', 'keys are wrapped under AES keys only')
  // These are RSA's: a key would leave under something else than what was asked for.
  if ((paddingMethod !== undefined && paddingMethod !== 'None') || hashingAlgorithm !== undefined)
    throw kmipFailure('FeatureNotSupported', 'keys are wrapped under AES keys only, without padding and hash')
  // Absent means TTLV Encoding; in 1.0 there is no other.
  if (encodingOption !== 'NoEncoding')
    throw kmipFailure('EncodingOptionError', 'keys are wrapped with the encoding option No Encoding only')
  if (!Object.hasOwn(wraps, blockCipherMode ?? standard))
    throw kmipFailure(
      'FeatureNotSupported',
      'keys are wrapped with NIST Key Wrap or AES Key Wrap Padding only',
    )
}

/** Refuses a key that is not for wrapping. */
export function checkWrappingKey({ id, state, usageMask, archiveDate }: KeyRow): void {
  if (archiveDate !== null) throw kmipFailure('ObjectArchived', `the wrapping key ${id} is archived`)
  if (state !== 'Active') throw kmipFailure('PermissionDenied', `the wrapping key ${id} is not active`)
  if ((usageMask & wrapKeyBit) === 0)
    throw kmipFailure('PermissionDenied', `the key ${id} is not for wrapping keys`)
}

export function wrapUnder(wrappingKey: KeyHandle, key: KeyHandle, { blockCipherMode }: KeyWrapping): Buffer {
  return wraps[(blockCipherMode ?? standard) as keyof typeof wraps](wrappingKey, key)
}

const standard = 'NISTKeyWrap'

const wraps = {
  NISTKeyWrap: (kek: KeyHandle, key: KeyHandle) => native.wrapKey(kek, key),
  AESKeyWrapPadding: (kek: KeyHandle, key: KeyHandle) => native.wrapKeyPadded(kek, key),
} as const
