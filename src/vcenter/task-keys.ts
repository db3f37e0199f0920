/** Which key each part of a task gets: by default one new key for all of them, made by one Create. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { VmRecord } from '../store/store.js'
import type { EventLog } from './events.js'
import type { HostConnection, HostConnections } from './host-connections.js'
import { requirePushed, tolerateKnown, withoutKeys, type KeyDistribution } from './key-distribution.js'
import type { HostEncryption } from './host-encryption.js'
import type { KeyProviders } from './key-providers.js'
import { makeKey } from './new-key.js'
import type { TaskContext } from './task.js'

/** An existing key: its id at the default provider of the cluster, or at the named one. */
export type KeyName = string | CryptoKeyId

export interface KeyChoice {
  /** A new key for VM home and each disk instead of one for all. */
  readonly perDiskKeys?: boolean | undefined
  /** Parts that take an existing key. */
  readonly named?: ReadonlyMap<string, KeyName> | undefined
  /** Where new keys are made and bare key ids are looked for; default: the default provider of the cluster. */
  readonly providerId?: string | undefined
}

/** VM home as a part; the other parts are disk ids. */
export const homePart = 'home'

export interface KeyPlan {
  /** Parts by existing key. */
  readonly existing: ReadonlyMap<string, CryptoKeyId>
  /** Each group of parts gets one new key of `providerId`. */
  readonly fresh: readonly (readonly string[])[]
  readonly providerId: string | undefined
}

interface TaskKeysServices {
  readonly keyProviders: KeyProviders
  readonly distribution: KeyDistribution
  readonly connections: HostConnections
  readonly hostEncryption: HostEncryption
  readonly events: EventLog
}

/** The keys of one task. */
export class TaskKeys {
  readonly #services: TaskKeysServices
  /** Which boots of hosts each key was pushed to, or should have been. */
  readonly #reached = new Map<CryptoKeyId, ReadonlySet<string>>()
  /** Those that did not get one. */
  readonly #lacking = new Set<HostConnection>()

  constructor(services: TaskKeysServices) {
    this.#services = services
  }

  /**
   * Decides without talking to a KMS. New keys come from the default provider of the cluster. VMSEAL_NO_DEFAULT_KEY_PROVIDER
   * if a key would have to be made and cannot.
   */
  async plan(parts: readonly string[], choice: KeyChoice, clusterId: string): Promise<KeyPlan> {
    const existing = new Map<string, CryptoKeyId>()
    for (const part of parts) {
      const name = choice.named?.get(part)
      if (name !== undefined) existing.set(part, await this.#resolve(name, choice.providerId, clusterId))
    }
    const rest = parts.filter((part) => !existing.has(part))
    const fresh = rest.length === 0 ? [] : choice.perDiskKeys ? rest.map((part) => [part]) : [rest]
    return {
      existing,
      fresh,
      providerId: fresh.length > 0 ? await this.#provider(choice.providerId, clusterId) : undefined,
    }
  }

  /**
   * Makes the new keys and pushes all keys of the plan to every host of the cluster. Fails if `host`, which is to
   * do the work, cannot be switched to safe (then no key is made) or does not get one. Returns the key of each part.
   */
  async provide(
    plan: KeyPlan,
    vm: Pick<VmRecord, 'id' | 'name' | 'clusterId'>,
    host: HostConnection,
    context: TaskContext,
  ): Promise<Map<string, CryptoKeyId>> {
    const keys = new Map(plan.existing)
    if (keys.size + plan.fresh.length === 0) return keys
    await host.identify()
    await this.#services.hostEncryption.ensureSafe(host)
    // What cannot be had is found before a key is made.
    await this.#push(plan.existing.values(), vm.clusterId, host, context)
    const fresh: CryptoKeyId[] = []
    for (const group of plan.fresh) {
      if (plan.providerId === undefined) throw new VmsealError('VMSEAL_NO_DEFAULT_KEY_PROVIDER')
      const key = await makeKey(this.#services, plan.providerId, { name: vm.name, identifier: vm.id })
      context.step({ actor: 'kms', action: 'key created', ...key })
      for (const part of group) keys.set(part, key)
      fresh.push(key)
    }
    await this.#push(fresh, vm.clusterId, host, context)
    return keys
  }

  /**
   * Call it once the store names the keys. Hosts that joined or restarted between `provide` and then were brought
   * up to date without them. So may those have been that did not get a key: nobody waits for them, they are tried again.
   */
  async reachLateHosts(clusterId: string, context: TaskContext): Promise<void> {
    for (const host of this.#lacking) this.#services.distribution.lacks(host)
    for (const [key, reached] of this.#reached) {
      const late = this.#services.connections
        .ofCluster(clusterId)
        .filter((host) => !reached.has(bootOf(host)))
      if (late.length === 0) continue
      try {
        await this.#services.distribution.push(key, late, context.step)
      } catch (error) {
        tolerateKnown(error)
        // The key cannot be had just now: they get it when it can.
        for (const host of late) this.#services.distribution.lacks(host)
      }
    }
  }

  async #push(
    keys: Iterable<CryptoKeyId>,
    clusterId: string,
    host: HostConnection,
    { step }: TaskContext,
  ): Promise<void> {
    const others = this.#services.connections
      .ofCluster(clusterId)
      .filter(({ hostId }) => hostId !== host.hostId)
    for (const key of withoutKeys([...keys], [])) {
      const pushes = await this.#services.distribution.push(key, [host, ...others], step)
      this.#reached.set(key, new Set(pushes.map((push) => bootOf(push.host))))
      for (const push of pushes) if (push.error) this.#lacking.add(push.host)
      requirePushed(pushes.filter((push) => push.host === host))
    }
  }

  async #resolve(name: KeyName, providerId: string | undefined, clusterId: string): Promise<CryptoKeyId> {
    if (typeof name !== 'string') return { keyId: name.keyId, providerId: name.providerId }
    return { keyId: name, providerId: await this.#provider(providerId, clusterId) }
  }

  /** The named provider, which must be registered, else the default. */
  async #provider(named: string | undefined, clusterId: string): Promise<string> {
    if (named === undefined) return this.#services.keyProviders.requireDefault(clusterId)
    await this.#services.keyProviders.open(named)
    return named
  }
}

function bootOf(host: HostConnection): string {
  return `${host.hostId} ${host.identity.bootId}`
}
