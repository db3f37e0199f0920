/** The hosts of all clusters. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { HostApi, HostCryptoState, HostKeyChange } from '../rpc/host-api.js'
import { connectInProcess } from '../rpc/in-process.js'
import type { HostRecord } from '../store/store.js'
import { cryptoModeOf } from './cluster-crypto-mode.js'
import type { RenewedCertificate } from './host-certificates.js'
import { HostConnection } from './host-connections.js'
import { synchroniseHost, type HostSync } from './host-sync.js'
import { notFound } from './names.js'
import { leaveEncryptionMode } from './leave-encryption-mode.js'
import type { Services } from './services.js'
import type { KeyName } from './task-keys.js'

export interface HostInfo {
  readonly id: string
  readonly name: string
  /** Name of the cluster. */
  readonly cluster: string
  readonly clusterId: string
  readonly datastores: readonly string[]
  /** As of the last time the host was talked to. */
  readonly connectionState: 'connected' | 'disconnected'
  /** Host encryption mode, as of the last time the host was talked to; unknown until then. */
  readonly cryptoState?: HostCryptoState
  /** The host key: it encrypts the host's dumps. */
  readonly cryptoKeyId?: CryptoKeyId
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
    const modeOf = (id: string): Pick<HostInfo, 'cryptoState'> => {
      const connection = connections.get(id)
      return connection ? { cryptoState: connection.identity.cryptoState } : {}
    }
    return hosts.map(({ id, name, clusterId, datastores, cryptoKey }) => ({
      id,
      name,
      cluster: clusters.find((cluster) => cluster.id === clusterId)?.name ?? clusterId,
      clusterId,
      datastores,
      connectionState: connections.get(id)?.reachable ? 'connected' : 'disconnected',
      ...modeOf(id),
      ...(cryptoKey ? { cryptoKeyId: cryptoKey } : {}),
    }))
  }

  async get(name: string): Promise<HostInfo> {
    const found = (await this.list()).find((host) => host.name === name)
    if (!found) throw notFound('host', name)
    return found
  }

  /** Connects a host of this process that belongs to a cluster already, for instance after vCenter was opened again. */
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
    return (
      (await this.#services.networkHosts.reconnect(record.id)) ??
      synchroniseHost(this.#services, this.#services.connections.require(record))
    )
  }

  /**
   * Gives a host on the network another key and certificate now; vCenter does it by itself when a third of its time is left. Also
   * for one whose certificate has expired while it was away. VMSEAL_INVALID_STATE for a host of this process, VMSEAL_HOST_UNREACHABLE,
   * VMSEAL_HOST_NOT_TRUSTED.
   */
  async renewCertificate(name: string): Promise<RenewedCertificate> {
    const record = await this.#record((host) => host.name === name, name)
    const renewed = await this.#services.networkHosts.renewCertificate(record.id)
    if (renewed) return renewed
    throw new VmsealError('VMSEAL_INVALID_STATE', `host ${name} is in this process: it has no certificate`, {
      details: { subject: name },
    })
  }

  /**
   * Switches a host to safe by hand: with this key, else with the host key that it had, else with a new one of the
   * default provider (vSphere: ConfigureCryptoKey). Then it gets the keys of its cluster, and its locked VMs unlock. A
   * safe host changes its host key to the one given.
   */
  configureCryptoKey(name: string, key?: KeyName): Promise<HostSync> {
    return this.#start('Hosts.configureCryptoKey', name, async (host) => {
      await this.#services.hostEncryption.configureKey(host, await this.#key(key, host))
      return synchroniseHost(this.#services, host)
    })
  }

  /** Gives a safe host another host key, by default a new one; its dumps are wrapped with it. VMSEAL_INVALID_STATE. */
  changeHostKey(name: string, key?: KeyName): Promise<HostKeyChange> {
    return this.#start('Hosts.changeHostKey', name, async (host) =>
      this.#services.hostEncryption.changeKey(host, await this.#key(key, host)),
    )
  }

  /**
   * Takes a host out of encryption mode: the keys of the cluster and the host key leave it now, and a restart completes
   * it. VMSEAL_INVALID_STATE while one of its own VMs is encrypted, while a task is under way that may bring it one, while its cluster
   * forces the mode, or if it is out already.
   */
  disableEncryption(name: string): Promise<void> {
    return this.#start('Hosts.disableEncryption', name, async (host) => {
      const { store, hostEncryption } = this.#services
      await hostEncryption.authorize(host)
      if ((await cryptoModeOf(store, host.clusterId)).mode === 'forceEnable')
        throw new VmsealError(
          'VMSEAL_INVALID_STATE',
          `the cluster of host ${name} forces encryption mode. Set its crypto mode to onDemand first`,
          { details: { subject: name } },
        )
      await leaveEncryptionMode(this.#services, host)
    })
  }

  async #start<Result>(
    task: string,
    name: string,
    run: (host: HostConnection) => Promise<Result>,
  ): Promise<Result> {
    const record = await this.#record((host) => host.name === name, name)
    const connection = this.#services.connections.require(record)
    const lane = `host ${record.id}`
    return this.#services.tasks.start({ name: task, entity: name, lane, run: () => run(connection) }).done
  }

  async #key(key: KeyName | undefined, host: HostConnection): Promise<CryptoKeyId | undefined> {
    if (typeof key !== 'string') return key
    return { keyId: key, providerId: await this.#services.keyProviders.requireDefault(host.clusterId) }
  }

  async #record(matches: (record: HostRecord) => boolean, name: string): Promise<HostRecord> {
    const record = (await this.#services.store.hosts.list()).find(matches)
    if (!record) throw notFound('host', name)
    return record
  }
}
