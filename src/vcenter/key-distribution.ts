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
/** Keys of one `pushMany` that are on their way to the host at the same moment. */
const sentAtOnce = 8

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
        return identified?.status === 'fulfilled' && seal
          ? this.#send(key, seal, host, step)
          : this.#failed(key, host, identified?.status === 'rejected' ? identified.reason : undefined, step)
      }),
    )
  }

  /** Makes sure that one host has all of `keys`. VMSEAL_ENCRYPTION_KEY_REQUIRED or the reason why not. */
  async ensure(keys: readonly CryptoKeyId[], host: HostConnection, step: Reporter = ignore): Promise<void> {
    if (keys.length === 0) return
    const present = await host.call((api) => api.listKeys())
    const [failure] = (await this.pushMany(withoutKeys(keys, present), host, step)).failed
    if (failure) throw failure.error
  }

  /**
   * Pushes many keys to one host, each once: they are fetched many in one message. Never rejects for a key or the host;
   * what failed is in the result and in the event log.
   */
  async pushMany(
    keys: readonly CryptoKeyId[],
    host: HostConnection,
    step: Reporter = ignore,
  ): Promise<{ pushed: CryptoKeyId[]; failed: { key: CryptoKeyId; error: VmsealError }[] }> {
    const pushes: KeyPush[] = []
    const wanted = withoutKeys(keys, [])
    const unidentified = await host.identify().then(
      () => undefined,
      (cause: unknown) => ({ cause }),
    )
    for (const providerId of new Set(wanted.map((key) => key.providerId))) {
      const ids = wanted.filter((key) => key.providerId === providerId).map(({ keyId }) => keyId)
      if (unidentified)
        for (const keyId of ids)
          pushes.push(await this.#failed({ keyId, providerId }, host, unidentified.cause, step))
      else pushes.push(...(await this.#pushOf(providerId, ids, host, step)))
    }
    return {
      pushed: pushes.flatMap(({ key, error }) => (error ? [] : [key])),
      failed: pushes.flatMap(({ key, error }) => (error ? [{ key, error }] : [])),
    }
  }

  /** A page of keys is sealed as it comes, and sent when its handles are wiped. */
  async #pushOf(
    providerId: string,
    keyIds: readonly string[],
    host: HostConnection,
    step: Reporter,
  ): Promise<KeyPush[]> {
    const pushes: KeyPush[] = []
    const seals = new Map<string, SealedKey | VmsealError>()
    const send = async (keyId: string): Promise<void> => {
      const seal = seals.get(keyId)
      seals.delete(keyId)
      if (seal) pushes.push(await this.#send({ keyId, providerId }, seal, host, step))
    }
    const use = (keyId: string, handle: KeyHandle): void => {
      const key = { keyId, providerId }
      step({ actor: 'kms', action: 'key fetched', ...key })
      seals.set(keyId, this.#seal(key, handle, host))
    }
    const pageDone = async (page: readonly string[]): Promise<void> => {
      for (let start = 0; start < page.length; start += sentAtOnce)
        await Promise.all(page.slice(start, start + sentAtOnce).map(send))
    }
    const failures = await this.#fetchAll(providerId, keyIds, use, pageDone)
    // A provider that is closed in the middle fails what it had not fetched.
    const sent = new Set(pushes.map(({ key }) => key.keyId))
    for (const [keyId, error] of failures) {
      const key = { keyId, providerId }
      if (sent.has(keyId)) continue
      await this.#tellUnavailable(key, error)
      pushes.push({ key, host, error })
    }
    return pushes
  }

  /** A provider that cannot be opened fails all of them. */
  async #fetchAll(
    providerId: string,
    keyIds: readonly string[],
    use: (keyId: string, handle: KeyHandle) => void,
    pageDone: (page: readonly string[]) => Promise<void>,
  ): Promise<ReadonlyMap<string, VmsealError>> {
    try {
      return await (await this.#providers.open(providerId)).fetchKeys(keyIds, use, pageDone)
    } catch (error) {
      if (!isVmsealError(error)) throw error
      return new Map(keyIds.map((keyId) => [keyId, error]))
    }
  }

  async #send(
    key: CryptoKeyId,
    seal: SealedKey | VmsealError,
    host: HostConnection,
    step: Reporter,
  ): Promise<KeyPush> {
    try {
      if (seal instanceof VmsealError) throw seal
      await host.call((api) => api.installKey(seal))
      await this.#events.append('vmseal.host.crypto.KeyPushed', { ...key, host: host.name })
      step({ actor: 'vcenter', action: 'key pushed', ...key, host: host.name })
      return { key, host }
    } catch (cause) {
      return this.#failed(key, host, cause, step)
    }
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
      await this.#tellUnavailable(key, error)
      throw error
    }
  }

  async #tellUnavailable(key: CryptoKeyId, { code }: VmsealError): Promise<void> {
    await this.#events.append(
      code === 'VMSEAL_KEY_MISSING_IN_KMS'
        ? 'com.vmware.vc.kms.crypto.SendKeyError.KeyMissingOnKMS'
        : 'com.vmware.vc.kms.crypto.SendKeyError.KMSClusterError',
      { ...key, error: code },
    )
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
