/** Which key each part of a task gets: by default one new key for all of them, made by one Create. */
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import type { VmRecord } from '../store/store.js'
import type { EventLog } from './events.js'
import type { HostConnection, HostConnections } from './host-connections.js'
import { requirePushed, tolerateKnown, withoutKeys, type KeyDistribution } from './key-distribution.js'
import { UnusedKeyError, type KeyPurpose } from './key-provider.js'
import type { KeyProviders } from './key-providers.js'
import type { TaskContext } from './task.js'

/** An existing key: its id at the default provider of the cluster, or at the named one. */
export type KeyName = string | CryptoKeyId

export interface KeyChoice {
  /** A new key for VM home and each disk instead of one for all. */
  readonly perDiskKeys?: boolean | undefined
  /** Parts that take an existing key. */
  readonly named?: ReadonlyMap<string, KeyName> | undefined
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

/** The keys of one task. */
export class TaskKeys {
  readonly #providers: KeyProviders
  readonly #distribution: KeyDistribution
  readonly #connections: HostConnections
  readonly #events: EventLog
  /** Which boots of hosts each key was pushed to, or should have been. */
  readonly #reached = new Map<CryptoKeyId, ReadonlySet<string>>()

  constructor(services: {
    keyProviders: KeyProviders
    distribution: KeyDistribution
    connections: HostConnections
    events: EventLog
  }) {
    this.#providers = services.keyProviders
    this.#distribution = services.distribution
    this.#connections = services.connections
    this.#events = services.events
  }

  /**
   * Decides without talking to a KMS. New keys come from the default provider of the cluster. VMSEAL_NO_DEFAULT_KEY_PROVIDER
   * if a key would have to be made and cannot.
   */
  async plan(parts: readonly string[], choice: KeyChoice, clusterId: string): Promise<KeyPlan> {
    const existing = new Map<string, CryptoKeyId>()
    for (const part of parts) {
      const name = choice.named?.get(part)
      if (name !== undefined) existing.set(part, await this.#resolve(name, clusterId))
    }
    const rest = parts.filter((part) => !existing.has(part))
    const fresh = rest.length === 0 ? [] : choice.perDiskKeys ? rest.map((part) => [part]) : [rest]
    return {
      existing,
      fresh,
      providerId: fresh.length > 0 ? await this.#providers.requireDefault(clusterId) : undefined,
    }
  }

  /**
   * Makes the new keys and pushes all keys of the plan to every host of the cluster. Fails if `host`, which is to
   * do the work, does not get one. Returns the key of each part.
   */
  async provide(
    plan: KeyPlan,
    vm: Pick<VmRecord, 'id' | 'name' | 'clusterId'>,
    host: HostConnection,
    context: TaskContext,
  ): Promise<Map<string, CryptoKeyId>> {
    const keys = new Map(plan.existing)
    for (const group of plan.fresh) {
      const key = await this.#create(plan.providerId, { name: vm.name, identifier: vm.id })
      context.step({ actor: 'kms', action: 'key created', ...key })
      for (const part of group) keys.set(part, key)
    }
    const others = this.#connections.ofCluster(vm.clusterId).filter(({ hostId }) => hostId !== host.hostId)
    for (const key of withoutKeys([...keys.values()], [])) {
      const pushes = await this.#distribution.push(key, [host, ...others], context.step)
      this.#reached.set(key, new Set(pushes.map((push) => bootOf(push.host))))
      requirePushed(pushes.filter((push) => push.host === host))
    }
    return keys
  }

  /**
   * Call it once the store names the keys. Hosts that joined or restarted between `provide` and then were brought
   * up to date without them.
   */
  async reachLateHosts(clusterId: string, context: TaskContext): Promise<void> {
    for (const [key, reached] of this.#reached) {
      const late = this.#connections.ofCluster(clusterId).filter((host) => !reached.has(bootOf(host)))
      if (late.length > 0) await this.#distribution.push(key, late, context.step).catch(tolerateKnown)
    }
  }

  async #create(providerId: string | undefined, purpose: KeyPurpose): Promise<CryptoKeyId> {
    if (providerId === undefined) throw new VmsealError('VMSEAL_NO_DEFAULT_KEY_PROVIDER')
    try {
      const keyId = await (await this.#providers.open(providerId)).createKey(purpose)
      await this.#events.append('vmseal.kms.crypto.KeyCreated', { keyId, providerId, context: purpose.name })
      return { keyId, providerId }
    } catch (error) {
      const unused = error instanceof UnusedKeyError ? { keyId: error.keyId } : {}
      const reason = error instanceof UnusedKeyError ? error.reason : error
      if (isVmsealError(reason))
        await this.#events.append('com.vmware.vc.kms.crypto.KeyGenerateFail', {
          providerId,
          ...unused,
          error: reason.code,
          message: reason.message,
        })
      throw reason
    }
  }

  async #resolve(name: KeyName, clusterId: string): Promise<CryptoKeyId> {
    if (typeof name !== 'string') return { keyId: name.keyId, providerId: name.providerId }
    return { keyId: name, providerId: await this.#providers.requireDefault(clusterId) }
  }
}

function bootOf(host: HostConnection): string {
  return `${host.hostId} ${host.identity.bootId}`
}
