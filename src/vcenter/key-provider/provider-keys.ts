/**
 * The keys of the providers in view: which are used by what, whether they can be had, and which at the KMS nothing uses
 * any more. A KMS key is destroyed only by `destroyUnused`, by its id.
 */
import { VmsealError, isVmsealError, type CryptoKeyId, type ErrorCode } from '../../errors.js'
import type { Store, VmRecord } from '../../store/store.js'
import type { EventLog } from '../events.js'
import type { HostConnections } from '../host-connections.js'
import { sameKey, withoutKeys } from '../key-distribution.js'
import type { KeyProvider } from '../key-provider.js'
import type { VmInventory } from '../vm-inventory.js'
import { heldByHosts, takeFromHost, useOf, type HeldKeys, type KeyUse } from './key-use.js'
import { usageOf, type KeyUsage } from './key-usage.js'
import { UnusedKeys, type UnusedKey } from './unused-keys.js'

export type { KeyUse } from './key-use.js'
export type { UnusedKey } from './unused-keys.js'

/** The reasons of vSphere's CryptoManagerKmipCryptoKeyStatus that a KMIP provider can have. */
export type KeyStateReason =
  | 'KeyStateMissingInCache'
  | 'KeyStateClusterInvalid'
  | 'KeyStateClusterUnreachable'
  | 'KeyStateMissingInKMS'
  | 'KeyStateNotActiveOrEnabled'
  | 'NoPermissionToAccessKeyProvider'

export interface KeyStatus extends KeyUse {
  readonly key: CryptoKeyId
  /** It can be fetched now. */
  readonly available: boolean
  /** KMIP state, when the KMS tells it. */
  readonly state?: string
  /** Why it is not available. */
  readonly reason?: KeyStateReason
}

export interface RemovedKey {
  readonly key: CryptoKeyId
  /** Names of the hosts it was taken from. */
  readonly hosts: readonly string[]
}

export interface ProviderKeysServices {
  readonly store: Store
  readonly connections: HostConnections
  readonly inventory: VmInventory
  readonly events: EventLog
  /** VMSEAL_KEY_PROVIDER_UNREACHABLE if no provider has this id. */
  readonly open: (id: string) => Promise<KeyProvider>
  /** VMSEAL_NO_DEFAULT_KEY_PROVIDER. */
  readonly requireDefault: () => Promise<string>
}

export class ProviderKeys {
  readonly #services: ProviderKeysServices
  readonly #unused: UnusedKeys

  /** @internal */
  constructor(services: ProviderKeysServices) {
    this.#services = services
    this.#unused = new UnusedKeys(services)
  }

  /** Every key that a VM or a connected host has, each once. */
  async list(): Promise<CryptoKeyId[]> {
    const used = await this.#services.store.virtualMachines.usedKeys()
    const held = await this.#heldByHosts()
    return withoutKeys([...used, ...held.flatMap(({ keys }) => keys)], [])
  }

  /** Makes a key that no VM uses yet, at the default provider or the named one. `x-` attributes go with it. */
  async create(
    options: { readonly providerId?: string; readonly attributes?: Readonly<Record<string, string>> } = {},
  ): Promise<CryptoKeyId> {
    const { attributes = {} } = options
    for (const [name, value] of Object.entries(attributes))
      if (!/^x-[\x21-\x7e]{1,80}$/.test(name) || typeof value !== 'string' || value.length > 1000)
        throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${name} is no x- attribute with a short text`)
    const providerId = options.providerId ?? (await this.#services.requireDefault())
    const provider = await this.#services.open(providerId)
    const keyId = await provider.createKey({ name: 'vCenter', identifier: '', attributes })
    await this.#services.events.append('vmseal.kms.crypto.KeyCreated', {
      keyId,
      providerId,
      context: 'vCenter',
    })
    return { keyId, providerId }
  }

  /** In the order asked for. A text is an id at the default provider. Never fetches a key. */
  async query(keys: readonly (string | CryptoKeyId)[]): Promise<KeyStatus[]> {
    const held = await this.#heldByHosts()
    return Promise.all(
      keys.map(async (name) => {
        const key = await this.#resolve(name)
        const use = await useOf(this.#services.store, key, held)
        if (key.providerId === '')
          return { key, available: false, reason: 'KeyStateMissingInCache' as const, ...use }
        return { key, ...(await this.#availability(key)), ...use }
      }),
    )
  }

  /**
   * Everything that needs a key, in the order asked for: parts of VMs, hosts, and files on the datastores of connected hosts, which are
   * searched for it. A text is an id at the default provider.
   */
  async usage(keys: readonly (string | CryptoKeyId)[]): Promise<KeyUsage[]> {
    return usageOf(this.#services, await Promise.all(keys.map((name) => this.#resolve(name))))
  }

  /**
   * Takes keys from the hosts that hold them; never from the KMS. VMSEAL_INVALID_STATE naming the VMs while any uses one
   * of the keys, VMSEAL_INVALID_ARGUMENT for one that nothing here knows: nothing is removed then. With `force` the
   * VMs that use them are locked: for keys that may be in wrong hands.
   */
  async remove(
    keys: readonly (string | CryptoKeyId)[],
    options: { readonly force?: boolean } = {},
  ): Promise<RemovedKey[]> {
    const { virtualMachines } = this.#services.store
    const held = await this.#heldByHosts()
    const users = new Set<string>()
    const resolved = await Promise.all(keys.map((name) => this.#resolve(name)))
    for (const key of resolved) {
      const use = await useOf(this.#services.store, key, held)
      for (const name of use.virtualMachines) users.add(name)
      if (use.virtualMachines.length > 0 && options.force !== true)
        throw new VmsealError(
          'VMSEAL_INVALID_STATE',
          `key ${key.keyId} is used by ${use.virtualMachines.join(', ')}. Recrypt them first, or force it`,
          { details: { subject: key.keyId } },
        )
      if (use.virtualMachines.length + use.hosts.length === 0)
        throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `no VM and no host has key ${key.keyId}`, {
          details: { subject: key.keyId },
        })
    }
    const removed: RemovedKey[] = []
    for (const key of resolved) removed.push({ key, hosts: await this.#takeFromHosts(key, held) })
    const lookedAt = await Promise.all([...users].map((name) => virtualMachines.findByName(name)))
    await this.#lookAgain(lookedAt.filter((vm) => vm !== undefined))
    return removed
  }

  /**
   * The keys at the KMS that this client made for a vCenter and that no VM and no connected host uses. Where several
   * vCenters share one client certificate, those of the others are among them. Where files on datastores of connected hosts name a
   * key all the same (VMs that are not registered here, detached disks, copies), they are told. Other backups are not looked at.
   */
  unused(providerId: string): Promise<UnusedKey[]> {
    return this.#unused.report(providerId)
  }

  /**
   * Destroys keys of the report at the KMS, for good; returns their ids. Nothing is destroyed after
   * VMSEAL_INVALID_STATE (one is used, a file on a datastore names it or cannot be read, or a task is under way), VMSEAL_INVALID_ARGUMENT (one is not of the report), or
   * VMSEAL_HOST_UNREACHABLE (a host does not say what it uses).
   */
  destroyUnused(providerId: string, keyIds: readonly string[]): Promise<string[]> {
    return this.#unused.destroy(providerId, keyIds)
  }

  async #resolve(name: string | CryptoKeyId): Promise<CryptoKeyId> {
    if (typeof name !== 'string') return { keyId: name.keyId, providerId: name.providerId }
    const providerId = await this.#services.requireDefault().catch((error: unknown) => {
      if (isVmsealError(error, 'VMSEAL_NO_DEFAULT_KEY_PROVIDER')) return ''
      throw error
    })
    return { keyId: name, providerId }
  }

  async #availability({
    keyId,
    providerId,
  }: CryptoKeyId): Promise<Pick<KeyStatus, 'available' | 'state' | 'reason'>> {
    if (!(await this.#services.store.keyProviders.list()).some(({ id }) => id === providerId))
      return { available: false, reason: 'KeyStateClusterInvalid' }
    try {
      const state = String(await (await this.#services.open(providerId)).keyState(keyId))
      if (state === 'Active') return { available: true, state }
      const destroyed = state === 'Destroyed' || state === 'DestroyedCompromised'
      return {
        available: false,
        state,
        reason: destroyed ? 'KeyStateMissingInKMS' : 'KeyStateNotActiveOrEnabled',
      }
    } catch (error) {
      if (!isVmsealError(error)) throw error
      return { available: false, reason: reasons[error.code] ?? 'KeyStateClusterUnreachable' }
    }
  }

  async #heldByHosts(): Promise<readonly HeldKeys[]> {
    return (await heldByHosts(this.#services.store.hosts, this.#services.connections)).held
  }

  async #takeFromHosts(key: CryptoKeyId, held: readonly HeldKeys[]): Promise<string[]> {
    const taken: string[] = []
    for (const { host, keys } of held) {
      if (!keys.some((other) => sameKey(other, key))) continue
      await takeFromHost(host, key, this.#services.events)
      taken.push(host.name)
    }
    return taken
  }

  /** VMs that lost their key are locked now, and are known to be. */
  async #lookAgain(vms: readonly VmRecord[]): Promise<void> {
    for (const vm of vms) {
      const host = vm.hostId === null ? undefined : this.#services.connections.get(vm.hostId)
      if (!host?.reachable) continue
      try {
        await this.#services.inventory.read(vm, host)
      } catch (error) {
        if (!isVmsealError(error)) throw error
      }
    }
  }
}

const reasons: Partial<Record<ErrorCode, KeyStateReason>> = {
  VMSEAL_KEY_PROVIDER_UNREACHABLE: 'KeyStateClusterUnreachable',
  VMSEAL_KEY_MISSING_IN_KMS: 'KeyStateMissingInKMS',
  VMSEAL_KEY_NOT_ACTIVE: 'KeyStateNotActiveOrEnabled',
  // What a KMS refuses although it has the key.
  VMSEAL_KMIP_OPERATION_FAILED: 'NoPermissionToAccessKeyProvider',
}
