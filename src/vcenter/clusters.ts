/** Clusters: the hosts of one have the keys of all its VMs. */
import { randomUUID } from 'node:crypto'
import { VmsealError } from '../errors.js'
import type { HostApi, HostIdentity } from '../rpc/host-api.js'
import { connectInProcess } from '../rpc/in-process.js'
import type { ClusterRecord, HostRecord } from '../store/store.js'
import {
  checkCryptoMode,
  cryptoModeOf,
  setCryptoMode,
  type ClusterCryptoMode,
  type ClusterCryptoModeInfo,
  type CryptoModeChange,
  type CryptoModePolicy,
} from './cluster-crypto-mode.js'
import { HostConnection } from './host-connections.js'
import { synchroniseHost, type HostSync } from './host-sync.js'
import type { HostInfo, Hosts } from './hosts.js'
import { notFound, requireName } from './names.js'
import type { JoiningHost } from './network-hosts.js'
import type { Services } from './services.js'

export class Clusters {
  readonly #services: Services
  readonly #hosts: Hosts

  /** @internal */
  constructor(services: Services, hosts: Hosts) {
    this.#services = services
    this.#hosts = hosts
  }

  async create(name: string): Promise<Cluster> {
    const createdAt = this.#services.clock().toISOString()
    const record = { id: randomUUID(), name: requireName('cluster name', name), createdAt }
    await this.#services.store.clusters.insert(record)
    return this.#cluster(record)
  }

  async list(): Promise<Cluster[]> {
    return (await this.#services.store.clusters.list()).map((record) => this.#cluster(record))
  }

  async get(name: string): Promise<Cluster> {
    const found = (await this.list()).find((cluster) => cluster.name === name)
    if (!found) throw notFound('cluster', name)
    return found
  }

  /** Another name; its hosts, VMs and permissions stay. VMSEAL_ALREADY_EXISTS for a name that is taken. */
  async rename(name: string, newName: string): Promise<Cluster> {
    const { id } = await this.get(name)
    const renamed = requireName('cluster name', newName)
    if (renamed === name) return this.get(name)
    if (!(await this.#services.store.clusters.rename(id, renamed))) throw notFound('cluster', name)
    await this.#services.events.append('vim.event.ClusterRenamedEvent', { oldName: name, newName: renamed })
    return this.get(renamed)
  }

  /**
   * Forgets a cluster, with its default key provider and what users may do there. VMSEAL_INVALID_STATE, naming one, while hosts or VMs
   * are in it.
   */
  async remove(name: string): Promise<void> {
    const { store, events } = this.#services
    const { id } = await this.get(name)
    if (await store.clusters.remove(id)) {
      await events.append('vim.event.ClusterDestroyedEvent', { cluster: name })
      return
    }
    const host = (await store.hosts.list()).find(({ clusterId }) => clusterId === id)
    const [vm] = await store.virtualMachines.search({ clusterId: id, limit: 1 })
    const inIt = host ? `host ${host.name} is` : vm ? `VM ${vm.name} is` : 'a VM is being made or removed'
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `${inIt} in cluster ${name}: take hosts out of it and remove or unregister its VMs first`,
      { details: { subject: name } },
    )
  }

  #cluster(record: Pick<ClusterRecord, 'id' | 'name'>): Cluster {
    return new Cluster(record, this.#services, this.#hosts)
  }
}

export class Cluster {
  readonly id: string
  readonly name: string
  readonly #services: Services
  readonly #hosts: Hosts

  /** @internal */
  constructor(record: Pick<ClusterRecord, 'id' | 'name'>, services: Services, hosts: Hosts) {
    this.id = record.id
    this.name = record.name
    this.#services = services
    this.#hosts = hosts
  }

  /**
   * Adds a host of this process, or a host agent by the address and the join token that it showed; or connects one that
   * belongs here already. If VMs of the cluster are encrypted, it is switched to safe with a host key of its own and gets
   * every key that they use. A key that cannot be had now does not keep the host out; the result names it.
   */
  async addHost(host: HostApi | JoiningHost): Promise<HostSync> {
    if (!('token' in host)) return (await this.#admit(connectInProcess(host))).sync
    const joined = await this.#services.networkHosts.join(
      host,
      async (offer) => void (await this.#check(offer)),
    )
    try {
      const { connection, sync } = await this.#admit(joined.api, joined.keep)
      joined.watch(connection)
      return sync
    } catch (error) {
      joined.giveUp(this.id)
      throw error
    }
  }

  /** `keep` is called when the host is in the store. */
  async #admit(
    api: HostApi,
    keep: () => Promise<void> = async () => {},
  ): Promise<{ connection: HostConnection; sync: HostSync }> {
    const identity = await api.identify()
    const known = await this.#check(identity)
    const connection = new HostConnection(api, identity, this.id)
    const keys = await this.#services.store.virtualMachines.keysOfCluster(this.id)
    // A host that says it is safe is given them as well.
    const { mode } = await cryptoModeOf(this.#services.store, this.id)
    if (!known && (keys.length > 0 || mode === 'forceEnable'))
      await this.#services.hostEncryption.authorize(connection)
    if (!known)
      await this.#services.store.hosts.save({
        id: identity.hostId,
        name: identity.name,
        clusterId: this.id,
        bootId: identity.bootId,
        datastores: identity.datastores,
        addedAt: this.#services.clock().toISOString(),
      })
    await keep()
    this.#services.connections.set(connection)
    return { connection, sync: await synchroniseHost(this.#services, connection, { joins: !known }) }
  }

  /** Its record, if it belongs here already. Refuses a host of another cluster, and a name that is taken. */
  async #check({ hostId, name }: Pick<HostIdentity, 'hostId' | 'name'>): Promise<HostRecord | undefined> {
    const isThere = (await this.#services.store.clusters.list()).some(({ id }) => id === this.id)
    if (!isThere) throw notFound('cluster', this.name)
    const hosts = await this.#services.store.hosts.list()
    const known = hosts.find((record) => record.id === hostId)
    if (known && known.clusterId !== this.id)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `host ${known.name} belongs to another cluster. Remove it there first`,
        { details: { subject: known.name } },
      )
    if (hosts.some((record) => record.name === name && record.id !== hostId))
      throw new VmsealError('VMSEAL_ALREADY_EXISTS', `there is another host named ${name}`, {
        details: { subject: name },
      })
    return known
  }

  /** Whether its hosts are safe on demand or always, and where their host keys come from. */
  cryptoMode(): Promise<ClusterCryptoModeInfo> {
    return cryptoModeOf(this.#services.store, this.id)
  }

  /**
   * vSphere's SetCryptoMode. `''` is `onDemand`, the default: a host is switched to safe when a task needs it. `forceEnable`
   * makes every connected host safe now, and every other one when it joins or is there again; the result tells of each. A host
   * that becomes safe gets the key of the policy, or a new one of its provider, else of the default provider; one that is safe
   * keeps its host key. VMSEAL_INVALID_ARGUMENT for another mode, and for a policy with both a key and a provider;
   * VMSEAL_NOT_FOUND for a provider that is not registered; VMSEAL_NO_DEFAULT_KEY_PROVIDER.
   */
  async setCryptoMode(
    mode: ClusterCryptoMode | '',
    policy: CryptoModePolicy = {},
  ): Promise<CryptoModeChange> {
    const { tasks } = this.#services
    return tasks.start({
      name: 'Cluster.setCryptoMode',
      entity: this.name,
      lane: `cluster ${this.id}`,
      run: async () => {
        const wanted = await checkCryptoMode(this.#services, this.id, mode, policy)
        return setCryptoMode(this.#services, this, wanted)
      },
    }).done
  }

  async hosts(): Promise<HostInfo[]> {
    return (await this.#hosts.list()).filter((host) => host.cluster === this.name)
  }

  /**
   * Forgets a host and takes the keys of the cluster from it. VMSEAL_INVALID_STATE while a VM runs on it.
   * Its VMs stay in the cluster; another host with their datastore can open them.
   */
  async removeHost(name: string): Promise<void> {
    const { store, connections } = this.#services
    const record = (await store.hosts.list()).find((host) => host.name === name && host.clusterId === this.id)
    if (!record) throw notFound(`host of cluster ${this.name}`, name)
    const running = (await store.virtualMachines.listByHost(record.id)).filter(
      (vm) => vm.powerState === 'poweredOn',
    )
    if (running.length > 0)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `${running[0]?.name} runs on host ${name}. Power it off first`,
      )
    const connection = connections.get(record.id)
    if (connection?.reachable) {
      for (const key of await connection.call((api) => api.listKeys()))
        await connection.call((api) => api.removeKey(key))
    }
    await this.#services.networkHosts.forget(record.id)
    connections.delete(record.id)
    await store.hosts.remove(record.id)
    await this.#services.events.append('vim.event.HostRemovedEvent', { host: name })
  }
}
