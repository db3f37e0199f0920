/** Keys at rest: each sealed under the root key and bound to what never changes about it. */
import { VmsealError, isVmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { KeyHandle } from '../native/load.js'
import type { KeyIdentity } from './keys.js'

export class SealedRecords {
  readonly #root: KeyHandle

  constructor(root: KeyHandle) {
    this.#root = root
  }

  seal(identity: KeyIdentity, key: KeyHandle): Buffer {
    return native.sealRecord(this.#root, key, binding(identity))
  }

  /** The caller disposes of the key. Throws VMSEAL_SEALED_RECORD_INVALID for an altered, swapped or missing record. */
  open(identity: KeyIdentity, record: Buffer | undefined): KeyHandle {
    const altered = `the record of the key ${identity.id} was altered or moved (VMSEAL_SEALED_RECORD_INVALID)`
    const details = { subject: identity.id }
    if (!record) throw new VmsealError('VMSEAL_SEALED_RECORD_INVALID', altered, { details })
    try {
      return native.openRecord(this.#root, record, binding(identity))
    } catch (cause) {
      if (!isVmsealError(cause, 'VMSEAL_SEALED_RECORD_INVALID')) throw cause
      throw new VmsealError('VMSEAL_SEALED_RECORD_INVALID', altered, { details, cause })
    }
  }

  /** A record that only this root key opens. */
  proof(): Buffer {
    const key = native.KeyHandle.generate(32)
    try {
      return native.sealRecord(this.#root, key, rootCheck)
    } finally {
      key.dispose()
    }
  }

  /** True if `proof` was made under this root key. */
  proves(proof: Uint8Array): boolean {
    try {
      native.openRecord(this.#root, proof, rootCheck).dispose()
      return true
    } catch (error) {
      if (isVmsealError(error, 'VMSEAL_SEALED_RECORD_INVALID')) return false
      throw error
    }
  }

  dispose(): void {
    this.#root.dispose()
  }
}

const rootCheck = Buffer.from(JSON.stringify(['vmseal kms root check 1']))

function binding({ id, owner, algorithm, length, usageMask }: KeyIdentity): Buffer {
  return Buffer.from(
    JSON.stringify(['vmseal kms record 1', id, owner, 'SymmetricKey', algorithm, length, usageMask]),
  )
}
