/** The encryption mode of one start of a host, and its host key. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { KeyHandle } from '../native/load.js'
import type { HostCryptoState, SealedKey } from '../rpc/host-api.js'
import { nextHostCryptoState } from './encryption-mode-states.js'
import type { KeyCache } from './key-cache.js'

export interface HostKey {
  readonly id: CryptoKeyId
  readonly handle: KeyHandle
}

export class EncryptionMode {
  readonly #hostName: string
  readonly #keys: KeyCache
  #state: HostCryptoState = 'incapable'
  #hostKey: HostKey | undefined

  constructor(hostName: string, keys: KeyCache) {
    this.#hostName = hostName
    this.#keys = keys
  }

  get state(): HostCryptoState {
    return this.#state
  }

  /** There while the mode is `safe`. */
  get hostKey(): HostKey | undefined {
    return this.#hostKey
  }

  prepare(): void {
    this.#state = nextHostCryptoState(this.#state, 'prepare')
  }

  enable(sealed: SealedKey): void {
    const next = nextHostCryptoState(this.#state, 'enable')
    const handle = this.#keys.open(sealed)
    const id = { keyId: sealed.keyId, providerId: sealed.providerId }
    if (this.#hostKey === undefined) {
      this.#hostKey = { id, handle }
      this.#state = next
      return
    }
    const present = this.#hostKey
    const same =
      present.id.keyId === id.keyId &&
      present.id.providerId === id.providerId &&
      present.handle.equals(handle)
    handle.dispose()
    if (!same)
      throw new VmsealError(
        'VMSEAL_ALREADY_EXISTS',
        `host ${this.#hostName} is safe with host key ${present.id.keyId} of ${present.id.providerId}; change the key instead`,
        { details: { subject: present.id.keyId } },
      )
  }

  /**
   * Replaces the host key. `rewrap` sees the old and the new one before the old one is wiped; when it throws, the old
   * one stays.
   */
  async changeKey<Result>(
    sealed: SealedKey,
    rewrap: (from: HostKey, to: HostKey) => Promise<Result>,
  ): Promise<Result> {
    nextHostCryptoState(this.#state, 'changeKey')
    const handle = this.#keys.open(sealed)
    const to = { id: { keyId: sealed.keyId, providerId: sealed.providerId }, handle }
    try {
      const from = this.#requireHostKey()
      const result = await rewrap(from, to)
      // The mode may have been switched off meanwhile.
      this.#state = nextHostCryptoState(this.#state, 'changeKey')
      this.#hostKey = to
      from.handle.dispose()
      return result
    } catch (error) {
      handle.dispose()
      throw error
    }
  }

  /** The caller has seen to it that no VM needs a key. */
  disable(): void {
    const next = nextHostCryptoState(this.#state, 'disable')
    const held = this.#keys.list()
    if (held.length > 0)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `host ${this.#hostName} holds ${held.length} keys of VMs (${held[0]?.keyId}${held.length > 1 ? ', ...' : ''}). Move its encrypted VMs away and remove the keys first`,
        { details: { subject: this.#hostName } },
      )
    this.#state = next
    this.dispose()
  }

  /** The host key. VMSEAL_INVALID_STATE unless the host is safe, and so takes keys of VMs. */
  requireSafe(): HostKey {
    if (this.#state === 'safe') return this.#requireHostKey()
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `host ${this.#hostName} takes no keys of VMs: its encryption mode is ${this.#state}, not safe`,
      { details: { subject: this.#hostName } },
    )
  }

  /** Wipes the host key. */
  dispose(): void {
    this.#hostKey?.handle.dispose()
    this.#hostKey = undefined
  }

  #requireHostKey(): HostKey {
    if (this.#hostKey === undefined) throw new VmsealError('VMSEAL_INTERNAL', 'a safe host has no host key')
    return this.#hostKey
  }
}
