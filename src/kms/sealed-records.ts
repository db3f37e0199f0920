/** Keys at rest: each sealed under the root key and bound to what never changes about it. */
import { VmsealError, isVmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { KeyHandle } from '../native/load.js'
import type { KeyIdentity } from './keys.js'

/** A key as it lies in the store. */
export interface SealedRecord {
  /** Version of the root key that it is sealed under. */
  readonly root: number
  readonly sealed: Buffer
}

/** Records are sealed under the newest root key; those of earlier ones open as long as they are here. */
export class SealedRecords {
  readonly #roots = new Map<number, KeyHandle>()
  #newest = 0

  /** Takes the key over. */
  add(version: number, root: KeyHandle): void {
    this.#roots.set(version, root)
    this.#newest = Math.max(this.#newest, version)
  }

  get newest(): number {
    return this.#newest
  }

  /** Ends the use of every root key but the newest. */
  retire(): void {
    for (const [version, root] of this.#roots) {
      if (version === this.#newest) continue
      root.dispose()
      this.#roots.delete(version)
    }
  }

  seal(identity: KeyIdentity, key: KeyHandle): SealedRecord {
    return { root: this.#newest, sealed: native.sealRecord(this.root(), key, binding(identity)) }
  }

  /** The caller disposes of the key. Throws VMSEAL_SEALED_RECORD_INVALID for an altered, swapped or missing record. */
  open(identity: KeyIdentity, record: SealedRecord | undefined): KeyHandle {
    const altered = `the record of the key ${identity.id} was altered or moved (VMSEAL_SEALED_RECORD_INVALID)`
    const details = { subject: identity.id }
    const root = record && this.#roots.get(record.root)
    if (!record || !root) throw new VmsealError('VMSEAL_SEALED_RECORD_INVALID', altered, { details })
    try {
      const key = native.openRecord(root, record.sealed, binding(identity))
      if (key.length * 8 === identity.length) return key
      key.dispose()
      throw new VmsealError('VMSEAL_SEALED_RECORD_INVALID', altered, { details })
    } catch (cause) {
      if (!isVmsealError(cause, 'VMSEAL_SEALED_RECORD_INVALID')) throw cause
      throw new VmsealError('VMSEAL_SEALED_RECORD_INVALID', altered, { details, cause })
    }
  }

  /** The newest root key; it stays ours. */
  root(): KeyHandle {
    const root = this.#roots.get(this.#newest)
    if (!root) throw new VmsealError('VMSEAL_INTERNAL', 'there is no root key')
    return root
  }

  dispose(): void {
    for (const root of this.#roots.values()) root.dispose()
    this.#roots.clear()
  }
}

/** Of rows that are remembered: they do not change. */
const bindings = new WeakMap<KeyIdentity, Buffer>()

function binding(identity: KeyIdentity): Buffer {
  const known = bindings.get(identity)
  if (known) return known
  const { id, owner, algorithm, length, usageMask } = identity
  const text = JSON.stringify([
    'vmseal kms record 1',
    id,
    owner,
    'SymmetricKey',
    algorithm,
    length,
    usageMask,
  ])
  const bytes = Buffer.from(text)
  bindings.set(identity, bytes)
  return bytes
}
