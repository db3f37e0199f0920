/** The registered key providers. Of each: where its servers are and how to authenticate; never a key of it. */
import { VmsealError, isVmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { KeyProviderRecord, KmsServerAddress, Store } from '../store/store.js'
import { runAsSystem } from './authorization/access.js'
import type { EventLog } from './events.js'
import type { HostConnections } from './host-connections.js'
import type { KeyProvider } from './key-provider.js'
import { describeForPeople } from './key-provider/certificate-info.js'
import { ClientCertificates } from './key-provider/client-certificates.js'
import { CredentialFiles } from './key-provider/credential-files.js'
import { diagnose, diagnoseUnregistered, type ServerDiagnosis } from './key-provider/doctor.js'
import { warnOfExpiry } from './key-provider/expiry-warnings.js'
import { ProviderKeys } from './key-provider/provider-keys.js'
import { OpenProviders } from './key-provider/open-providers.js'
import { tellRecovery } from './key-provider/recovery.js'
import { ServerTrust } from './key-provider/server-trust.js'
import { requireCredentials, requireServers } from './key-provider/spec.js'
import type { KeyProviderCredentials, KeyProviderSpec } from './key-provider/spec.js'
import { overallStatus, serverStatus, type KeyProviderStatus } from './key-provider/status.js'
import { defaultTiming, type KeyProviderTiming } from './key-provider/timing.js'
import { Turns } from './key-provider/turns.js'
import { notFound, requireName } from './names.js'
import type { VmInventory } from './vm-inventory.js'

export interface KeyProviderInfo {
  readonly id: string
  readonly servers: readonly KmsServerAddress[]
  /** Of the whole vCenter. */
  readonly isDefault: boolean
  /** Ids of the clusters that have it as their own default. */
  readonly defaultOf: readonly string[]
}

/** A cluster, or its id. */
type Entity = string | { readonly id: string }

export interface KeyProvidersOptions {
  readonly store: Store
  /** For private keys. */
  readonly directory: string
  readonly events: EventLog
  readonly clock: () => Date
  readonly connections: HostConnections
  readonly inventory: VmInventory
  readonly timing?: Partial<KeyProviderTiming>
  /** Keys that could not be had may be had now: a provider was added or changed, or a server answers again. */
  readonly onReturn?: () => void
}

/** Of the certificates: soon after the start, also of a process that is never up for long, and then now and again. */
const firstCheckMs = 60 * 1000
const checkIntervalMs = 12 * 60 * 60 * 1000

export class KeyProviders {
  /** How a KMS comes to trust this vCenter. */
  readonly clientCertificates: ClientCertificates
  /** How this vCenter comes to trust the servers of a KMS. */
  readonly serverTrust: ServerTrust
  readonly keys: ProviderKeys
  readonly #store: Store
  readonly #events: EventLog
  readonly #clock: () => Date
  readonly #timing: KeyProviderTiming
  readonly #files: CredentialFiles
  readonly #open: OpenProviders
  readonly #turns = new Turns()
  readonly #onReturn: () => void
  readonly #timers: readonly NodeJS.Timeout[]
  #checking: Promise<void> = Promise.resolve()

  /** @internal */
  constructor(options: KeyProvidersOptions) {
    const { store, events, clock, connections, inventory, onReturn = () => {} } = options
    this.#onReturn = onReturn
    this.#store = store
    this.#events = events
    this.#clock = clock
    this.#timing = { ...defaultTiming, ...options.timing }
    this.#files = new CredentialFiles(options.directory)
    this.#open = new OpenProviders({
      store,
      events,
      clock,
      files: this.#files,
      timing: this.#timing,
      onReturn,
    })
    const registration = {
      record: (id: string) => this.#registered(id),
      inTurn: <Result>(id: string, change: () => Promise<Result>) => this.#turns.take(id, change),
      replace: (record: KeyProviderRecord) => this.#replace(record),
      reopen: (id: string) => this.#reopen(id),
    }
    this.clientCertificates = new ClientCertificates(registration, store.keyProviderTrust, this.#files, clock)
    this.serverTrust = new ServerTrust(registration, store.keyProviderTrust, clock)
    this.keys = new ProviderKeys({
      store,
      connections,
      inventory,
      events,
      open: (id) => this.open(id),
      requireDefault: () => this.requireDefault(),
    })
    const check = (): void => {
      this.#checking = this.#checking.then(() => runAsSystem(() => this.#checkAll()))
    }
    this.#timers = [setTimeout(check, firstCheckMs).unref(), setInterval(check, checkIntervalMs).unref()]
  }

  /** Registers a provider; it need not be reachable. The first one becomes the default. */
  async add(spec: KeyProviderSpec): Promise<KeyProviderInfo> {
    const id = requireName('key provider id', spec.id)
    const servers = requireServers(spec.servers)
    const given = spec.credentials === undefined ? noCredentials : requireCredentials(spec.credentials)
    const { caCertificate, certificate, privateKeyFile } = given
    if (spec.credentials) for (const pem of [caCertificate, certificate]) native.describeCertificate(pem)
    if ((await this.#store.keyProviders.list()).some((record) => record.id === id))
      throw new VmsealError('VMSEAL_ALREADY_EXISTS', `there is a key provider '${id}'`, {
        details: { subject: id },
      })
    const file = spec.credentials ? await this.#files.copy(privateKeyFile) : ''
    try {
      const addedAt = this.#clock().toISOString()
      const record = { id, servers, caCertificate, certificate, privateKeyFile: file, addedAt }
      await this.#store.keyProviders.insert(record)
    } catch (error) {
      await this.#files.remove(file)
      throw error
    }
    this.#onReturn()
    return this.get(id)
  }

  /** In the order in which they were added. */
  async list(): Promise<KeyProviderInfo[]> {
    const { keyProviders } = this.#store
    const [records, standard] = await Promise.all([keyProviders.list(), keyProviders.getDefault()])
    return Promise.all(
      records.map(async ({ id, servers }) => ({
        id,
        servers,
        isDefault: id === standard,
        defaultOf: await keyProviders.clustersOf(id),
      })),
    )
  }

  async get(id: string): Promise<KeyProviderInfo> {
    const found = (await this.list()).find((provider) => provider.id === id)
    if (!found) throw notFound('key provider', id)
    return found
  }

  /** Adds a replica as the last in order. VMSEAL_ALREADY_EXISTS if the provider has it. */
  addServer(id: string, server: KmsServerAddress): Promise<KeyProviderInfo> {
    return this.#change(id, (record) => ({ servers: requireServers([...record.servers, server]) }))
  }

  /** VMSEAL_NOT_FOUND, or VMSEAL_INVALID_STATE for the last one: remove the provider instead. */
  removeServer(id: string, server: KmsServerAddress): Promise<KeyProviderInfo> {
    return this.#change(id, ({ servers }) => {
      const rest = servers.filter(({ host, port }) => host !== server.host || port !== server.port)
      if (rest.length === servers.length) throw notFound('server', `${server.host}:${server.port}`)
      if (rest.length === 0)
        throw new VmsealError('VMSEAL_INVALID_STATE', `it is the only server of ${id}: remove the provider`, {
          details: { subject: id },
        })
      return { servers: rest }
    })
  }

  /** Replaces the servers, for instance to change their order. They must serve the same keys. */
  setServers(id: string, servers: readonly KmsServerAddress[]): Promise<KeyProviderInfo> {
    return this.#change(id, () => ({ servers: requireServers(servers) }))
  }

  /** PEM of the authority that the servers' certificates come from; replaces the one before. */
  async setAuthority(id: string, caCertificate: string): Promise<void> {
    await this.#change(id, () => {
      native.describeCertificate(caCertificate)
      return { caCertificate }
    })
  }

  /** User name and password that a KMS asks for beside the client certificate; `null`: none. Not shown again. */
  setLogin(
    id: string,
    login: { readonly username: string; readonly password: string } | null,
  ): Promise<void> {
    return this.#turns.take(id, async () => {
      await this.#registered(id)
      const before = await this.#store.keyProviderTrust.getLogin(id)
      if (login && (typeof login.username !== 'string' || typeof login.password !== 'string'))
        throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'username and password must be strings')
      await this.#store.keyProviderTrust.setLogin(
        id,
        login && {
          username: requireName('user name', login.username),
          passwordFile: await this.#files.writePassword(login.password),
        },
      )
      if (before) await this.#files.remove(before.passwordFile)
      await this.#reopen(id)
    })
  }

  /**
   * The provider that makes new keys, of the whole vCenter or of a cluster: its own, else that of the whole vCenter
   * unless `defaultsToParent` is false. `null` when there is none.
   */
  async getDefault(
    cluster?: Entity,
    options: { readonly defaultsToParent?: boolean } = {},
  ): Promise<KeyProviderInfo | null> {
    const id = await this.#defaultId(cluster, options.defaultsToParent ?? true)
    return (await this.list()).find((provider) => provider.id === id) ?? null
  }

  /** `null`: no default. A cluster without one of its own makes its keys at that of the whole vCenter. */
  async setDefault(id: string | null, cluster?: Entity): Promise<void> {
    if (id !== null) await this.get(id)
    const clusterId = entityId(cluster)
    if (
      clusterId !== undefined &&
      !(await this.#store.clusters.list()).some((entry) => entry.id === clusterId)
    )
      throw notFound('cluster', clusterId)
    await this.#store.keyProviders.setDefault(id, clusterId)
  }

  /** Forgets a provider, also one in use: its keys stay at the KMS and open again when it is added under this id. */
  remove(id: string): Promise<void> {
    return this.#turns.take(id, async () => {
      const record = await this.#registered(id)
      const pending = await this.#store.keyProviderTrust.getPending(id)
      const login = await this.#store.keyProviderTrust.getLogin(id)
      await this.#store.keyProviders.remove(id)
      await this.#open.forget(id)
      await this.#files.remove(record.privateKeyFile)
      if (pending) await this.#files.remove(pending.privateKeyFile)
      if (login) await this.#files.remove(login.passwordFile)
    })
  }

  /** Asks every server. Leaves a warning in the event log for each certificate that is about to expire. */
  async status(id: string): Promise<KeyProviderStatus> {
    const record = await this.#registered(id)
    const now = this.#clock()
    const identities = await this.#open.identities(record)
    const servers = await Promise.all(
      identities.map(({ server, identity }) => serverStatus(server, identity, this.#timing, now)),
    )
    const client = record.certificate === '' ? undefined : describeForPeople(record.certificate, now)
    await warnOfExpiry(this.#store.keyProviderTrust, this.#events, { providerId: id, client, servers })
    await tellRecovery(this.#store.alarms, this.#events, { providerId: id, client, servers })
    return {
      id,
      status: overallStatus(servers, client),
      servers,
      ...(client ? { clientCertificate: client } : {}),
    }
  }

  /**
   * Walks the way to a key of every server of a provider, of one of them, or of one that is not registered yet: name, TCP, trust both ways, versions, then a test key
   * that is made, fetched, compared and destroyed. Says at which hop it breaks and what to do.
   */
  async doctor(
    target: string | { readonly server: KmsServerAddress; readonly credentials: KeyProviderCredentials },
    server?: KmsServerAddress,
  ): Promise<ServerDiagnosis[]> {
    if (typeof target !== 'string')
      return [await diagnoseUnregistered(target.server, target.credentials, this.#timing)]
    const identities = await this.#open.identities(await this.#registered(target))
    const chosen = identities.filter(
      (entry) => !server || (entry.server.host === server.host && entry.server.port === server.port),
    )
    if (server && chosen.length === 0) throw notFound('server', `${server.host}:${server.port}`)
    return Promise.all(chosen.map((entry) => diagnose(entry.server, entry.identity, this.#timing)))
  }

  /** @internal VMSEAL_KEY_PROVIDER_UNREACHABLE if no provider has this id. */
  open(id: string): Promise<KeyProvider> {
    return this.#open.open(id)
  }

  /** @internal Of the cluster, else of the whole vCenter. VMSEAL_NO_DEFAULT_KEY_PROVIDER if there is none. */
  async requireDefault(clusterId?: string): Promise<string> {
    const id = await this.#defaultId(clusterId, true)
    if (id === null) throw new VmsealError('VMSEAL_NO_DEFAULT_KEY_PROVIDER')
    return id
  }

  /** @internal */
  async close(): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer)
    await this.#checking
    await this.#open.close()
  }

  async #defaultId(cluster: Entity | undefined, defaultsToParent: boolean): Promise<string | null> {
    const clusterId = entityId(cluster)
    const own = await this.#store.keyProviders.getDefault(clusterId)
    if (own !== null || clusterId === undefined || !defaultsToParent) return own
    return this.#store.keyProviders.getDefault()
  }

  async #change(
    id: string,
    change: (record: KeyProviderRecord) => Partial<Pick<KeyProviderRecord, 'servers' | 'caCertificate'>>,
  ): Promise<KeyProviderInfo> {
    await this.#turns.take(id, async () => {
      const record = await this.#registered(id)
      await this.#replace({ ...record, ...change(record) })
    })
    return this.get(id)
  }

  async #replace(record: KeyProviderRecord): Promise<void> {
    await this.#store.keyProviders.update(record)
    await this.#reopen(record.id)
  }

  /** By its registration as it is now. */
  async #reopen(id: string): Promise<void> {
    await this.#open.forget(id)
    this.#onReturn()
  }

  /** Nobody waits for it, so there is nobody to tell of what it cannot do. */
  async #checkAll(): Promise<void> {
    const tolerate = (error: unknown): void => {
      if (!isVmsealError(error)) throw error
    }
    const check = async (): Promise<void> => {
      for (const { id } of await this.#store.keyProviders.list()) await this.status(id).catch(tolerate)
    }
    await check().catch(tolerate)
  }

  async #registered(id: string): Promise<KeyProviderRecord> {
    const record = (await this.#store.keyProviders.list()).find((entry) => entry.id === id)
    if (!record) throw notFound('key provider', id)
    return record
  }
}

const noCredentials: KeyProviderCredentials = { caCertificate: '', certificate: '', privateKeyFile: '' }

function entityId(entity: Entity | undefined): string | undefined {
  return typeof entity === 'object' ? entity.id : entity
}
