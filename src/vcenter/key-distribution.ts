/** The way of a KEK from its provider to hosts: fetched, sealed to each host, disposed of, sent. */
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import type { KeyHandle } from '../native/load.js'
import type { SealedKey } from '../rpc/host-api.js'
import type { EventLog } from './events.js'
import type { HostConnection } from './host-connections.js'
import type { HostEncryption } from './host-encryption.js'
import type { KeyProviders } from './key-providers.js'
import type { KeyFailure } from './missing-keys.js'
import type { KeySealing } from './key-sealing.js'
import type { TaskStep } from './task.js'

/** Keys of one `pushMany` that are on their way to the host at the same moment. */
const sentAtOnce = 16
/** Keys that a host is asked about in one message. */
const mostAsked = 1000

export interface KeyPush {
  readonly key: CryptoKeyId
  readonly host: HostConnection
  /** Absent: the host has the key. */
  readonly error?: VmsealError
}

export interface KeyDistributionServices {
  readonly providers: Pick<KeyProviders, 'open'>
  readonly events: EventLog
  readonly sealing: KeySealing
  readonly encryption: Pick<HostEncryption, 'ensureSafe'>
  /** A host lacks a key that it should have: somebody tries again. */
  readonly onLacking?: (host: HostConnection) => void
  /** A key that is in use could not be had: hosts that lack it are tried again. */
  readonly onUnavailable?: (key: CryptoKeyId, hosts: readonly HostConnection[]) => void
}

export class KeyDistribution {
  readonly #services: KeyDistributionServices

  constructor(services: KeyDistributionServices) {
    this.#services = services
  }

  /**
   * Fetches one key and pushes it to every host, which is switched to safe for it. A host that fails, or is silent while
   * others answer, does not hold up the others; its error is in the result and in the event log, and it is tried again.
   * Rejects only if the key cannot be had.
   */
  async push(
    key: CryptoKeyId,
    hosts: readonly HostConnection[],
    step: Reporter = ignore,
  ): Promise<KeyPush[]> {
    const ready = await withoutWaiting(hosts, (host) => this.#makeReady(host))
    const seals = await this.#fetchAndSeal(key, hosts, step)
    const sent = await withoutWaiting(hosts, (host, index) => {
      const state = ready[index]
      const seal = seals[index]
      return state?.status === 'fulfilled' && seal
        ? this.#send(key, seal, host, step)
        : this.#failed(key, host, state?.status === 'rejected' ? state.reason : undefined, step)
    })
    return Promise.all(
      hosts.map(async (host, index) => {
        const push = sent[index]
        return push?.status === 'fulfilled' ? push.value : this.#failed(key, host, push?.reason, step)
      }),
    )
  }

  /** As `push` of a key that is in use, and why `host`, one of `hosts`, did not get it. Never rejects for it. */
  async tryPush(
    key: CryptoKeyId,
    host: HostConnection,
    hosts: readonly HostConnection[],
    step: Reporter = ignore,
  ): Promise<KeyFailure[]> {
    try {
      const error = (await this.push(key, hosts, step)).find((push) => push.host === host)?.error
      return error ? [{ key, error }] : []
    } catch (error) {
      if (!isVmsealError(error)) throw error
      this.#services.onUnavailable?.(key, hosts)
      return [{ key, error }]
    }
  }

  /** A host lacks a key that the store names: it is brought up to date once more, whatever was done for it before. */
  lacks(host: HostConnection): void {
    host.missSomething()
    this.#services.onLacking?.(host)
  }

  /** Makes sure that one host has all of `keys`. VMSEAL_ENCRYPTION_KEY_REQUIRED or the reason why not. */
  async ensure(keys: readonly CryptoKeyId[], host: HostConnection, step: Reporter = ignore): Promise<void> {
    if (keys.length === 0) return
    const present = await heldOn(host, keys)
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
    if (wanted.length === 0) return { pushed: [], failed: [] }
    const unready = await this.#makeReady(host).then(
      () => undefined,
      (cause: unknown) => ({ cause }),
    )
    for (const providerId of new Set(wanted.map((key) => key.providerId))) {
      const ids = wanted.filter((key) => key.providerId === providerId).map(({ keyId }) => keyId)
      if (unready)
        for (const keyId of ids)
          pushes.push(await this.#failed({ keyId, providerId }, host, unready.cause, step))
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
      seals.set(keyId, this.#services.sealing.seal(key, handle, host))
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
      return await (await this.#services.providers.open(providerId)).fetchKeys(keyIds, use, pageDone)
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
      await this.#services.events.append('vmseal.host.crypto.KeyPushed', { ...key, host: host.name })
      step({ actor: 'vcenter', action: 'key pushed', ...key, host: host.name })
      return { key, host }
    } catch (cause) {
      return this.#failed(key, host, cause, step)
    }
  }

  /** The identity that seals are made to, and the mode in which it takes them. */
  async #makeReady(host: HostConnection): Promise<void> {
    await host.identify()
    // It lacks more than what is pushed now.
    if (host.missedSomething) this.#services.onLacking?.(host)
    await this.#services.encryption.ensureSafe(host)
  }

  async #fetchAndSeal(
    key: CryptoKeyId,
    hosts: readonly HostConnection[],
    step: Reporter,
  ): Promise<(SealedKey | VmsealError)[]> {
    try {
      const seals = await this.#services.sealing.fetchAndSeal(key, hosts)
      step({ actor: 'kms', action: 'key fetched', ...key })
      return seals
    } catch (error) {
      if (!isVmsealError(error)) throw error
      await this.#tellUnavailable(key, error)
      throw error
    }
  }

  async #tellUnavailable(key: CryptoKeyId, { code }: VmsealError): Promise<void> {
    await this.#services.events.append(
      code === 'VMSEAL_KEY_MISSING_IN_KMS'
        ? 'com.vmware.vc.kms.crypto.SendKeyError.KeyMissingOnKMS'
        : 'com.vmware.vc.kms.crypto.SendKeyError.KMSClusterError',
      { ...key, error: code },
    )
  }

  async #failed(key: CryptoKeyId, host: HostConnection, cause: unknown, step: Reporter): Promise<KeyPush> {
    const error = isVmsealError(cause)
      ? cause
      : new VmsealError('VMSEAL_INTERNAL', `key push to ${host.name} failed`, { cause })
    await this.#services.events.append('com.vmware.vc.host.Crypto.SendKeyError.HostError', {
      ...key,
      host: host.name,
      error: error.code,
    })
    step({ actor: 'vcenter', action: 'key push failed', ...key, host: host.name, error })
    this.#services.onLacking?.(host)
    return { key, host, error }
  }
}

/** How long hosts are waited for when another one has answered, in milliseconds. */
const patienceMs = 2000

/**
 * What `work` comes to for each host: those that are silent for long after the first success count as unreachable. Their
 * work goes on, and nobody waits for it.
 */
async function withoutWaiting<Result>(
  hosts: readonly HostConnection[],
  work: (host: HostConnection, index: number) => Promise<Result>,
): Promise<PromiseSettledResult<Result>[]> {
  const outcomes: PromiseSettledResult<Result>[] = hosts.map(({ name }) => ({
    status: 'rejected',
    reason: new VmsealError('VMSEAL_HOST_UNREACHABLE', `host ${name} does not answer, others do`, {
      details: { subject: name },
    }),
  }))
  let timer: NodeJS.Timeout | undefined
  let over = false
  const patience = new Promise<void>((resolve) => {
    const all = hosts.map(async (host, index) => {
      try {
        const value = await work(host, index)
        timer ??= setTimeout(resolve, patienceMs)
        if (!over) outcomes[index] = { status: 'fulfilled', value }
      } catch (reason) {
        // After the end it is on record as unreachable.
        if (!over) outcomes[index] = { status: 'rejected', reason }
      }
    })
    void Promise.all(all).then(() => resolve())
  })
  await patience
  over = true
  clearTimeout(timer)
  return outcomes
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

/** Those of `keys` that the host has, in their order. The list of all that it has may be thousands. */
export async function heldOn(host: HostConnection, keys: readonly CryptoKeyId[]): Promise<CryptoKeyId[]> {
  const held: CryptoKeyId[] = []
  for (let from = 0; from < keys.length; from += mostAsked) {
    const some = keys.slice(from, from + mostAsked)
    held.push(...(await host.call((api) => api.heldKeys(some))))
  }
  return held
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
