/**
 * The keys of the providers in view: which are used by what, whether they can be had, and which at the KMS nothing uses
 * any more. A KMS key is destroyed only by `destroyUnused`, by its id.
 */
import { VmsealError, isVmsealError, type CryptoKeyId, type ErrorCode } from '../../errors.js'
import { attributeValue } from '../../kmip/attributes.js'
import type { KmipClient } from '../../kmip/client.js'
import type { Store, VmRecord } from '../../store/store.js'
import type { EventLog } from '../events.js'
import type { HostConnections } from '../host-connections.js'
import { sameKey, withoutKeys } from '../key-distribution.js'
import { productAttributes, type KeyProvider } from '../key-provider.js'
import type { VmInventory } from '../vm-inventory.js'
import { keysOf } from '../vm-record.js'
import { keyNamePrefix } from './key-creations.js'

/** The reasons of vSphere's CryptoManagerKmipCryptoKeyStatus that a KMIP provider can have. */
export type KeyStateReason =
  | 'KeyStateMissingInCache'
  | 'KeyStateClusterInvalid'
  | 'KeyStateClusterUnreachable'
  | 'KeyStateMissingInKMS'
  | 'KeyStateNotActiveOrEnabled'
  | 'NoPermissionToAccessKeyProvider'

export interface KeyUse {
  /** Names of the VMs whose home or a disk is wrapped with it. */
  readonly virtualMachines: readonly string[]
  /** Names of the connected hosts that hold it. */
  readonly hosts: readonly string[]
}

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

export interface UnusedKey {
  readonly key: CryptoKeyId
  readonly state?: string
  /** What it was made for: `x-Name` and `x-Identifier`. */
  readonly madeFor?: string
  readonly identifier?: string
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

/** Ids in one Locate, and keys in one message about their attributes. */
const pageSize = 500
const described = 50

export class ProviderKeys {
  readonly #services: ProviderKeysServices

  /** @internal */
  constructor(services: ProviderKeysServices) {
    this.#services = services
  }

  /** Every key that a VM or a connected host has, each once. */
  async list(): Promise<CryptoKeyId[]> {
    const vms = await this.#services.store.virtualMachines.list()
    const held = await this.#heldByHosts()
    return withoutKeys([...vms.flatMap(keysOf), ...held.flatMap(({ keys }) => keys)], [])
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
    const [vms, held] = await Promise.all([this.#services.store.virtualMachines.list(), this.#heldByHosts()])
    return Promise.all(
      keys.map(async (name) => {
        const key = await this.#resolve(name)
        const use = useOf(key, vms, held)
        if (key.providerId === '')
          return { key, available: false, reason: 'KeyStateMissingInCache' as const, ...use }
        return { key, ...(await this.#availability(key)), ...use }
      }),
    )
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
    const vms = await this.#services.store.virtualMachines.list()
    const held = await this.#heldByHosts()
    const resolved = await Promise.all(keys.map((name) => this.#resolve(name)))
    for (const key of resolved) {
      const use = useOf(key, vms, held)
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
    await this.#lookAgain(
      vms.filter((vm) => keysOf(vm).some((key) => resolved.some((gone) => sameKey(key, gone)))),
    )
    return removed
  }

  /**
   * The keys at the KMS that this client made for a vCenter and that no VM and no connected host uses. Where several
   * vCenters share one client certificate, those of the others are among them.
   */
  async unused(providerId: string): Promise<UnusedKey[]> {
    const provider = await this.#services.open(providerId)
    const all = await this.#locateAll(provider)
    const used = await this.#usedIds(providerId)
    const candidates = all.filter((id) => !used.has(id))
    const found: UnusedKey[] = []
    for (let start = 0; start < candidates.length; start += described)
      found.push(...(await this.#describe(provider, candidates.slice(start, start + described))))
    return found
  }

  /**
   * Destroys keys of the report at the KMS, for good; returns their ids. VMSEAL_INVALID_STATE for one that is used,
   * VMSEAL_INVALID_ARGUMENT for one that is not of the report: nothing is destroyed then.
   */
  async destroyUnused(providerId: string, keyIds: readonly string[]): Promise<string[]> {
    const report = new Map((await this.unused(providerId)).map((entry) => [entry.key.keyId, entry]))
    const used = await this.#usedIds(providerId)
    for (const keyId of keyIds) {
      if (used.has(keyId))
        throw new VmsealError('VMSEAL_INVALID_STATE', `key ${keyId} is used by a VM or held by a host`, {
          details: { subject: keyId },
        })
      if (!report.has(keyId))
        throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `key ${keyId} is no unused key of ${providerId}`, {
          details: { subject: keyId },
        })
    }
    const provider = await this.#services.open(providerId)
    for (const keyId of keyIds) {
      await this.#destroy(provider, keyId, report.get(keyId)?.state)
      await this.#services.events.append('vmseal.kms.crypto.KeyDestroyed', { keyId, providerId })
    }
    return [...keyIds]
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

  async #heldByHosts(): Promise<{ host: string; hostId: string; keys: readonly CryptoKeyId[] }[]> {
    const hosts = await this.#services.store.hosts.list()
    const connected = hosts.flatMap(({ id }) => this.#services.connections.get(id) ?? [])
    const held = await Promise.all(
      connected.map(async (host) => {
        try {
          const keys = await host.call((api) => api.listKeys())
          return [{ host: host.name, hostId: host.hostId, keys }]
        } catch (error) {
          if (isVmsealError(error, 'VMSEAL_HOST_UNREACHABLE')) return []
          throw error
        }
      }),
    )
    return held.flat()
  }

  async #takeFromHosts(
    key: CryptoKeyId,
    held: readonly { hostId: string; keys: readonly CryptoKeyId[] }[],
  ): Promise<string[]> {
    const taken: string[] = []
    for (const { hostId, keys } of held) {
      const host = this.#services.connections.get(hostId)
      if (!host || !keys.some((other) => sameKey(other, key))) continue
      await host.call((api) => api.removeKey(key))
      await this.#services.events.append('vmseal.host.crypto.KeyRemoved', { ...key, host: host.name })
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

  async #usedIds(providerId: string): Promise<Set<string>> {
    const { store } = this.#services
    const [vms, creations, held] = await Promise.all([
      store.virtualMachines.keysOfProvider(providerId),
      store.keyCreations.list(providerId),
      this.#heldByHosts(),
    ])
    const onHosts = held.flatMap(({ keys }) => keys).filter((key) => key.providerId === providerId)
    return new Set([
      ...vms,
      // The next task gets these.
      ...creations.flatMap(({ keyId }) => keyId ?? []),
      ...onHosts.map(({ keyId }) => keyId),
    ])
  }

  async #locateAll(provider: KeyProvider): Promise<string[]> {
    return provider.ask(async (client) => {
      const filter = { objectType: 'SymmetricKey' as const }
      // Offset Items came with 1.3; an older server gives all at once.
      if (client.version < '1.3') return [...(await client.locate(filter))]
      const found = new Set<string>()
      for (;;) {
        const page = await client.locate({ ...filter, maximumItems: pageSize, offsetItems: found.size })
        const before = found.size
        for (const id of page) found.add(id)
        if (page.length < pageSize || found.size === before) return [...found]
      }
    })
  }

  async #describe(provider: KeyProvider, ids: readonly string[]): Promise<UnusedKey[]> {
    const names = ['Name', 'State', 'x-Product', 'x-Name', 'x-Identifier']
    const answers = await provider.ask((client: KmipClient) =>
      client.batch(ids.map((id) => ({ operation: 'GetAttributes' as const, request: { id, names } }))),
    )
    return answers.flatMap((answer, index) => {
      if (answer.status === 'rejected') return []
      const { attributes } = answer.value
      const text = (name: string): string | undefined => {
        const value = attributeValue(attributes, name)
        return typeof value === 'string' && value !== '' ? value : undefined
      }
      const ours =
        text('x-Product') === productAttributes['x-Product'] ||
        JSON.stringify(attributeValue(attributes, 'Name') ?? '').includes(`"${keyNamePrefix}`)
      const state = text('State')
      if (!ours || state === 'Destroyed' || state === 'DestroyedCompromised') return []
      const madeFor = text('x-Name')
      const identifier = text('x-Identifier')
      return [
        {
          key: { keyId: ids[index] ?? '', providerId: provider.id },
          ...(state === undefined ? {} : { state }),
          ...(madeFor === undefined ? {} : { madeFor }),
          ...(identifier === undefined ? {} : { identifier }),
        },
      ]
    })
  }

  /** An active key has to be revoked first. Both may be repeated: what is done already is no failure. */
  async #destroy(provider: KeyProvider, keyId: string, state: string | undefined): Promise<void> {
    await provider.ask(async (client) => {
      if (state === 'Active')
        await client.revoke(keyId, 'CessationOfOperation', 'unused').catch(tolerateRefusal)
      await client.destroy(keyId).catch((error: unknown) => {
        if (!isVmsealError(error) || error.details.resultReason !== 'ItemNotFound') throw error
      })
    })
  }
}

const reasons: Partial<Record<ErrorCode, KeyStateReason>> = {
  VMSEAL_KEY_PROVIDER_UNREACHABLE: 'KeyStateClusterUnreachable',
  VMSEAL_KEY_MISSING_IN_KMS: 'KeyStateMissingInKMS',
  VMSEAL_KEY_NOT_ACTIVE: 'KeyStateNotActiveOrEnabled',
  // What a KMS refuses although it has the key.
  VMSEAL_KMIP_OPERATION_FAILED: 'NoPermissionToAccessKeyProvider',
}

function useOf(
  key: CryptoKeyId,
  vms: readonly VmRecord[],
  held: readonly { host: string; keys: readonly CryptoKeyId[] }[],
): KeyUse {
  return {
    virtualMachines: vms
      .filter((vm) => keysOf(vm).some((other) => sameKey(other, key)))
      .map(({ name }) => name),
    hosts: held.filter(({ keys }) => keys.some((other) => sameKey(other, key))).map(({ host }) => host),
  }
}

function tolerateRefusal(error: unknown): void {
  if (!isVmsealError(error, 'VMSEAL_KMIP_OPERATION_FAILED')) throw error
}
