/**
 * The KEKs of a host, in native memory for this start only, keyed by provider and key id. Keys come
 * in sealed to the key pair of this start; nothing survives it.
 */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import { native, type HostKeyPair, type KeyHandle } from '../native/load.js'
import {
  migrationSealContext,
  sealContext,
  type SealedKey,
  type SealedMigrationKey,
} from '../rpc/host-api.js'

const kekLength = 32
/** How many unexpired seals are remembered, against a second use. */
const nonceLimit = 65_536

/** What every seal says of itself. */
type Seal = Pick<SealedKey, 'hostId' | 'nonce' | 'expiresAt' | 'sealed'>

export class KeyCache {
  readonly #hostId: string
  readonly #now: () => number
  readonly #keyPair: HostKeyPair
  readonly #keys = new Map<string, { readonly id: CryptoKeyId; readonly handle: KeyHandle }>()
  /** Nonce to expiry, in milliseconds. */
  readonly #usedNonces = new Map<string, number>()

  constructor(hostId: string, now: () => number = Date.now) {
    this.#hostId = hostId
    this.#now = now
    this.#keyPair = native.HostKeyPair.generate()
  }

  /** X25519 public key, base64. */
  get publicKey(): string {
    return this.#keyPair.publicKey.toString('base64')
  }

  /** Opens a seal. A key that is there already may come again; another key under its id may not. */
  install(sealed: SealedKey): void {
    const handle = this.open(sealed)
    const index = indexOf(sealed)
    const present = this.#keys.get(index)
    if (present === undefined) {
      this.#keys.set(index, { id: idOf(sealed), handle })
      return
    }
    const same = present.handle.equals(handle)
    handle.dispose()
    if (!same)
      throw new VmsealError(
        'VMSEAL_ALREADY_EXISTS',
        `key ${sealed.keyId} of provider ${sealed.providerId} is on this host with other contents; remove it first`,
      )
  }

  /** Opens a seal, once. The caller disposes of the key. */
  open(sealed: SealedKey): KeyHandle {
    return this.#openOnce(sealed, sealContext(sealed))
  }

  /** As `open`, a key of a live migration. */
  openMigrationKey(sealed: SealedMigrationKey): KeyHandle {
    return this.#openOnce(sealed, migrationSealContext(sealed))
  }

  get(key: CryptoKeyId): KeyHandle | undefined {
    return this.#keys.get(indexOf(key))?.handle
  }

  /** The key, or VMSEAL_ENCRYPTION_KEY_REQUIRED with `message` and the key id. */
  require(key: CryptoKeyId, message: string): KeyHandle {
    const handle = this.get(key)
    if (handle !== undefined) return handle
    throw new VmsealError('VMSEAL_ENCRYPTION_KEY_REQUIRED', message, {
      details: { requiredKeys: [idOf(key)] },
    })
  }

  list(): CryptoKeyId[] {
    return [...this.#keys.values()].map(({ id }) => id)
  }

  /** Wipes a key; one that is not there is fine. */
  remove(key: CryptoKeyId): void {
    const index = indexOf(key)
    this.#keys.get(index)?.handle.dispose()
    this.#keys.delete(index)
  }

  /** Wipes every key and the private key of this start. */
  dispose(): void {
    for (const { handle } of this.#keys.values()) handle.dispose()
    this.#keys.clear()
    this.#usedNonces.clear()
    this.#keyPair.dispose()
  }

  #openOnce(sealed: Seal, context: Buffer): KeyHandle {
    const expiry = this.#checkFresh(sealed)
    const handle = this.#open(sealed, context)
    this.#usedNonces.set(sealed.nonce, expiry)
    return handle
  }

  /** The expiry in milliseconds, if the seal is for this host and may be opened now. */
  #checkFresh(sealed: Seal): number {
    if (sealed.hostId !== this.#hostId)
      throw new VmsealError('VMSEAL_SEAL_INVALID', `the seal is for host ${sealed.hostId}, not for this one`)
    const now = this.#now()
    const expiry = Date.parse(sealed.expiresAt)
    if (!(expiry > now))
      throw new VmsealError('VMSEAL_SEAL_EXPIRED', `the seal expired at ${sealed.expiresAt}`)
    if ((this.#usedNonces.get(sealed.nonce) ?? 0) > now) throw new VmsealError('VMSEAL_SEAL_REPLAYED')
    if (this.#usedNonces.size >= nonceLimit)
      for (const [nonce, end] of this.#usedNonces) if (end <= now) this.#usedNonces.delete(nonce)
    if (this.#usedNonces.size >= nonceLimit)
      throw new VmsealError(
        'VMSEAL_SEAL_INVALID',
        `${nonceLimit} seals have not expired yet; push keys with a shorter expiry`,
      )
    return expiry
  }

  #open(sealed: Seal, context: Buffer): KeyHandle {
    const handle = this.#keyPair.open(context, Buffer.from(sealed.sealed, 'base64'))
    if (handle.length === kekLength) return handle
    handle.dispose()
    throw new VmsealError('VMSEAL_SEAL_INVALID', `the sealed key is no key of ${kekLength} bytes`)
  }
}

function idOf({ keyId, providerId }: CryptoKeyId): CryptoKeyId {
  return { keyId, providerId }
}

function indexOf({ keyId, providerId }: CryptoKeyId): string {
  return JSON.stringify([providerId, keyId])
}
