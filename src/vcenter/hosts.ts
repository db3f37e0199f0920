/** The hosts of all clusters. */
import type { HostApi } from '../rpc/host-api.js'
import { connectInProcess } from '../rpc/in-process.js'
import type { HostRecord } from '../store/store.js'
import { HostConnection } from './host-connections.js'
import { synchroniseHost, type HostSync } from './host-sync.js'
import { notFound } from './names.js'
import type { Services } from './services.js'

export interface HostInfo {
  readonly id: string
  readonly name: string
  /** Name of the cluster. */
  readonly cluster: string
  readonly datastores: readonly string[]
  /** As of the last time the host was talked to. */
  readonly connectionState: 'connected' | 'disconnected'
}

export class Hosts {
  readonly #services: Services

  /** @internal */
  constructor(services: Services) {
    this.#services = services
  }

  async list(): Promise<HostInfo[]> {
    const { store, connections } = this.#services
    const [hosts, clusters] = await Promise.all([store.hosts.list(), store.clusters.list()])
    return hosts.map(({ id, name, clusterId, datastores }) => ({
      id,
      name,
      cluster: clusters.find((cluster) => cluster.id === clusterId)?.name ?? clusterId,
      datastores,
      connectionState: connections.get(id)?.reachable ? 'connected' : 'disconnected',
    }))
  }

  async get(name: string): Promise<HostInfo> {
    const found = (await this.list()).find((host) => host.name === name)
    if (!found) throw notFound('host', name)
    return found
  }

  /** Connects a host that belongs to a cluster already, for instance after vCenter was opened again. */
  async connect(host: HostApi): Promise<HostSync> {
    const api = connectInProcess(host)
    const identity = await api.identify()
    const record = await this.#record(({ id }) => id === identity.hostId, identity.name)
    const connection = new HostConnection(api, identity, record.clusterId)
    this.#services.connections.set(connection)
    return synchroniseHost(this.#services, connection)
  }

  /**
   * Asks a connected host who it is and gives it what it lacks. After a restart that is every key of the cluster,
   * fetched by the same ids; its locked VMs unlock.
   */
  async reconnect(name: string): Promise<HostSync> {
    const record = await this.#record((host) => host.name === name, name)
    return synchroniseHost(this.#services, this.#services.connections.require(record))
  }

  async #record(matches: (record: HostRecord) => boolean, name: string): Promise<HostRecord> {
    const record = (await this.#services.store.hosts.list()).find(matches)
    if (!record) throw notFound('host', name)
    return record
  }
}
