/** The way of a KEK from its provider to hosts: fetched, sealed to each host, disposed of, sent. */
import { randomBytes } from 'node:crypto'
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import { native, type KeyHandle } from '../native/load.js'
import { sealContext, type SealedKey } from '../rpc/host-api.js'
import type { EventLog } from './events.js'
import type { HostConnection } from './host-connections.js'
import type { KeyProviders } from './key-providers.js'
import type { TaskStep } from './task.js'

const sealLifetimeMs = 2 * 60 * 1000
const nonceBytes = 16

export interface KeyPush {
  readonly key: CryptoKeyId
  readonly host: HostConnection
  /** Absent: the host has the key. */
  readonly error?: VmsealError
}

export class KeyDistribution {
  readonly #providers: KeyProviders
  readonly #events: EventLog
  readonly #clock: () => Date

  constructor(providers: KeyProviders, events: EventLog, clock: () => Date) {
    this.#providers = providers
    this.#events = events
    this.#clock = clock
  }

  /**
   * Fetches one key and pushes it to every host. A host that fails does not stop the others; its error is in the
   * result and in the event log. Rejects only if the key cannot be had.
   */
  async push(
    key: CryptoKeyId,
    hosts: readonly HostConnection[],
    step: Reporter = ignore,
  ): Promise<KeyPush[]> {
    const identities = await Promise.allSettled(hosts.map((host) => host.identify()))
    const seals = await this.#sealForAll(key, hosts, step)
    return Promise.all(
      hosts.map(async (host, index) => {
        const identified = identities[index]
        const seal = seals[index]
        try {
          if (identified?.status === 'rejected') throw identified.reason
          if (seal instanceof Error || seal === undefined) throw seal
          await host.call((api) => api.installKey(seal))
          await this.#events.append('vmseal.host.crypto.KeyPushed', { ...key, host: host.name })
          step({ actor: 'vcenter', action: 'key pushed', ...key, host: host.name })
          return { key, host }
        } catch (cause) {
          return this.#failed(key, host, cause, step)
        }
      }),
    )
  }

  /** Makes sure that one host has all of `keys`. VMSEAL_ENCRYPTION_KEY_REQUIRED or the reason why not. */
  async ensure(keys: readonly CryptoKeyId[], host: HostConnection, step: Reporter = ignore): Promise<void> {
    if (keys.length === 0) return
    const present = await host.call((api) => api.listKeys())
    for (const key of withoutKeys(keys, present)) requirePushed(await this.push(key, [host], step))
  }

  /** The handle lives until every seal is made, and not while anything is sent. */
  async #sealForAll(
    key: CryptoKeyId,
    hosts: readonly HostConnection[],
    step: Reporter,
  ): Promise<(SealedKey | VmsealError)[]> {
    const handle = await this.#fetch(key)
    try {
      step({ actor: 'kms', action: 'key fetched', ...key })
      return hosts.map((host) => this.#seal(key, handle, host))
    } finally {
      handle.dispose()
    }
  }

  async #fetch(key: CryptoKeyId): Promise<KeyHandle> {
    try {
      return await (await this.#providers.open(key.providerId)).fetchKey(key.keyId)
    } catch (error) {
      if (!isVmsealError(error)) throw error
      const missing = isVmsealError(error, 'VMSEAL_KEY_MISSING_IN_KMS')
      await this.#events.append(
        missing
          ? 'com.vmware.vc.kms.crypto.SendKeyError.KeyMissingOnKMS'
          : 'com.vmware.vc.kms.crypto.SendKeyError.KMSClusterError',
        { ...key, error: error.code },
      )
      throw error
    }
  }

  #seal(key: CryptoKeyId, handle: KeyHandle, host: HostConnection): SealedKey | VmsealError {
    const context = {
      ...key,
      hostId: host.hostId,
      nonce: randomBytes(nonceBytes).toString('base64'),
      expiresAt: new Date(this.#clock().getTime() + sealLifetimeMs).toISOString(),
    }
    try {
      const publicKey = Buffer.from(host.identity.publicKey, 'base64')
      const sealed = native.sealForHost(publicKey, sealContext(context), handle)
      return { ...context, sealed: sealed.toString('base64') }
    } catch (error) {
      if (isVmsealError(error)) return error
      throw error
    }
  }

  async #failed(key: CryptoKeyId, host: HostConnection, cause: unknown, step: Reporter): Promise<KeyPush> {
    const error = isVmsealError(cause)
      ? cause
      : new VmsealError('VMSEAL_INTERNAL', `key push to ${host.name} failed`, { cause })
    await this.#events.append('com.vmware.vc.host.Crypto.SendKeyError.HostError', {
      ...key,
      host: host.name,
      error: error.code,
    })
    step({ actor: 'vcenter', action: 'key push failed', ...key, host: host.name, error })
    return { key, host, error }
  }
}

/** Throws the error of the first host that does not have the key. */
export function requirePushed(pushes: readonly KeyPush[]): void {
  for (const { error } of pushes) if (error) throw error
}

/** For a push that is worth trying: a key that cannot be had is in the event log already. */
export function tolerateKnown(error: unknown): void {
  if (!isVmsealError(error)) throw error
}

export function sameKey(a: CryptoKeyId | null | undefined, b: CryptoKeyId | null | undefined): boolean {
  return a?.keyId === b?.keyId && a?.providerId === b?.providerId
}

/** `keys` less those of `present`, each once. */
export function withoutKeys(keys: readonly CryptoKeyId[], present: readonly CryptoKeyId[]): CryptoKeyId[] {
  const seen = new Set(present.map(keyText))
  return keys.filter((key) => !seen.has(keyText(key)) && seen.add(keyText(key)))
}

function keyText(key: CryptoKeyId): string {
  return JSON.stringify([key.providerId, key.keyId])
}

type Reporter = (step: TaskStep) => void
const ignore: Reporter = () => {}
