/** The hosts that vCenter can talk to now. Connections live in this process; what was learned is in the store. */
import { VmsealError, isVmsealError, type ErrorCode } from '../errors.js'
import type { HostApi, HostIdentity } from '../rpc/host-api.js'
import type { HostRecord } from '../store/store.js'

/** The host may be well, but nobody can talk to it; or it restarted in the middle. */
const absences: ReadonlySet<ErrorCode> = new Set([
  'VMSEAL_HOST_UNREACHABLE',
  'VMSEAL_HOST_NOT_TRUSTED',
  'VMSEAL_HOST_CERTIFICATE_EXPIRED',
  'VMSEAL_TASK_INTERRUPTED',
])

export class HostConnection {
  readonly hostId: string
  readonly clusterId: string
  readonly name: string
  readonly #api: HostApi
  #identity: HostIdentity
  #reachable = true
  #missedSomething = false
  #closedToVms = false

  constructor(api: HostApi, identity: HostIdentity, clusterId: string) {
    this.#api = api
    this.#identity = identity
    this.hostId = identity.hostId
    this.name = identity.name
    this.clusterId = clusterId
  }

  /** As of the last `identify`. */
  get identity(): HostIdentity {
    return this.#identity
  }

  get reachable(): boolean {
    return this.#reachable
  }

  /** It did not answer at some time, or restarted, since it was last brought up to date: it lacks what was sent before. */
  get missedSomething(): boolean {
    return this.#missedSomething
  }

  missSomething(): void {
    this.#missedSomething = true
  }

  /** Call it when the host was identified to be brought up to date: what is lost from then on counts again. */
  catchUp(): void {
    this.#missedSomething = false
  }

  /** It is about to leave encryption mode, or has: no VM comes to it that has another choice. */
  get takesVms(): boolean {
    return !this.#closedToVms && this.#identity.cryptoState !== 'pendingIncapable'
  }

  /** While `act` runs no VM comes to the host at all. */
  async closedToVms<Result>(act: () => Promise<Result>): Promise<Result> {
    this.#closedToVms = true
    try {
      return await act()
    } finally {
      this.#closedToVms = false
    }
  }

  /** VMSEAL_INVALID_STATE while it is closed to VMs. */
  requireOpenToVms(): void {
    if (this.#closedToVms)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `host ${this.name} is leaving encryption mode: no VM goes there now`,
        {
          details: { subject: this.name },
        },
      )
  }

  has(datastore: string): boolean {
    return this.#identity.datastores.includes(datastore)
  }

  /** Asks the host who it is: seals must be made to the public key of its present boot. */
  async identify(): Promise<HostIdentity> {
    const identity = await this.call((api) => api.identify())
    if (identity.hostId !== this.hostId)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `${this.name} now answers as host ${identity.hostId}, it was ${this.hostId}. Add it as a new host`,
      )
    // Who asks may not be who brings hosts up to date: that a restart emptied its key cache is not to be lost with it.
    if (identity.bootId !== this.#identity.bootId) this.missSomething()
    this.#identity = identity
    return identity
  }

  /** Talks to the host and takes note whether it answers. */
  async call<Result>(request: (api: HostApi) => Promise<Result>): Promise<Result> {
    try {
      const result = await request(this.#api)
      this.#reachable = true
      return result
    } catch (error) {
      this.#reachable = !isVmsealError(error) || !absences.has(error.code)
      if (!this.#reachable) this.#missedSomething = true
      throw error
    }
  }
}

export class HostConnections {
  readonly #connections = new Map<string, HostConnection>()

  set(connection: HostConnection): void {
    this.#connections.set(connection.hostId, connection)
  }

  delete(hostId: string): void {
    this.#connections.delete(hostId)
  }

  get(hostId: string): HostConnection | undefined {
    return this.#connections.get(hostId)
  }

  /** Those of a cluster that answered when they were last asked. */
  ofCluster(clusterId: string): HostConnection[] {
    return [...this.#connections.values()].filter((host) => host.clusterId === clusterId && host.reachable)
  }

  /** VMSEAL_HOST_UNREACHABLE if the host is not connected. */
  require(record: Pick<HostRecord, 'id' | 'name'>): HostConnection {
    const connection = this.#connections.get(record.id)
    if (connection) return connection
    throw new VmsealError(
      'VMSEAL_HOST_UNREACHABLE',
      `host ${record.name} is not connected. Start it; one in this process also has to be connected with hosts.connect(host)`,
      { details: { subject: record.name } },
    )
  }

  /** As `place`, for a VM that is not on a host yet, or leaves its own: not on one that is leaving encryption mode. */
  placeNew(
    clusterId: string,
    datastore: string,
    wish: { name?: string | undefined; preferred?: string | null | undefined },
  ): HostConnection {
    const able = this.ofCluster(clusterId).filter((host) => host.has(datastore) && host.takesVms)
    const found =
      wish.name === undefined ? (able.find((host) => host.hostId === wish.preferred) ?? able[0]) : undefined
    const host = found ?? this.place(clusterId, datastore, wish)
    host.requireOpenToVms()
    return host
  }

  /** A host of the cluster that has the datastore: the named one, else the preferred one, else any. */
  place(
    clusterId: string,
    datastore: string,
    wish: { name?: string | undefined; preferred?: string | null | undefined },
  ): HostConnection {
    const hosts = this.ofCluster(clusterId).filter((host) => host.has(datastore))
    const found =
      wish.name === undefined
        ? (hosts.find((host) => host.hostId === wish.preferred) ?? hosts[0])
        : hosts.find((host) => host.name === wish.name)
    if (found) return found
    throw new VmsealError(
      'VMSEAL_HOST_UNREACHABLE',
      wish.name === undefined
        ? `no connected host of the cluster has datastore ${datastore}`
        : `host ${wish.name} is not a connected host of the cluster with datastore ${datastore}`,
      { details: { subject: wish.name ?? datastore } },
    )
  }
}
