/** The registered key providers. Of each: where its servers are and how to authenticate; never a key of it. */
import { isDeepStrictEqual } from 'node:util'
import { VmsealError, isVmsealError } from '../errors.js'
import type { KmipCredential } from '../kmip/credential.js'
import { native } from '../native/load.js'
import type { KeyProviderRecord, KmsServerAddress, Store } from '../store/store.js'
import type { EventLog } from './events.js'
import type { HostConnections } from './host-connections.js'
import { KeyProvider } from './key-provider.js'
import { describeForPeople, dueWarning, type CertificateInfo } from './key-provider/certificate-info.js'
import { ClientCertificates } from './key-provider/client-certificates.js'
import { CredentialFiles } from './key-provider/credential-files.js'
import type { ServerIdentity } from './key-provider/dialer.js'
import { diagnose, type ServerDiagnosis } from './key-provider/doctor.js'
import { ProviderKeys } from './key-provider/provider-keys.js'
import { acceptedCertificates, ServerTrust } from './key-provider/server-trust.js'
import { overallStatus, serverStatus, type KeyProviderStatus } from './key-provider/status.js'
import { defaultTiming, type KeyProviderTiming } from './key-provider/timing.js'
import { notFound, requireName } from './names.js'
import type { VmInventory } from './vm-inventory.js'

/** How vCenter shows the KMS who it is, and knows the KMS. */
export interface KeyProviderCredentials {
  /** PEM of the authority that the KMS's certificate comes from. */
  readonly caCertificate: string
  /** PEM of the client certificate. */
  readonly certificate: string
  /** Its private key, a file. vCenter makes its own copy; the key is never read into JavaScript. */
  readonly privateKeyFile: string
}

export interface KeyProviderSpec {
  /** Written into VM files as the name of the provider. It never changes, and must be used again after a loss. */
  readonly id: string
  /** Replicas that serve the same keys, in the order in which they are tried. */
  readonly servers: KmsServerAddress | readonly KmsServerAddress[]
  /** Without them trust is set up step by step: `serverTrust` and `clientCertificates`. */
  readonly credentials?: KeyProviderCredentials
}

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
}

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
  readonly #open = new Map<string, KeyProvider>()
  readonly #checking: NodeJS.Timeout

  /** @internal */
  constructor(options: KeyProvidersOptions) {
    const { store, events, clock, connections, inventory } = options
    this.#store = store
    this.#events = events
    this.#clock = clock
    this.#timing = { ...defaultTiming, ...options.timing }
    this.#files = new CredentialFiles(options.directory)
    const registration = {
      record: (id: string) => this.#registered(id),
      replace: async (record: KeyProviderRecord) => {
        await store.keyProviders.update(record)
        await this.#forget(record.id)
      },
      reopen: (id: string) => this.#forget(id),
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
    this.#checking = setInterval(() => void this.#checkAll(), checkIntervalMs).unref()
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
  async addServer(id: string, server: KmsServerAddress): Promise<KeyProviderInfo> {
    const { servers } = await this.#registered(id)
    return this.setServers(id, [...servers, server])
  }

  /** VMSEAL_NOT_FOUND, or VMSEAL_INVALID_STATE for the last one: remove the provider instead. */
  async removeServer(id: string, server: KmsServerAddress): Promise<KeyProviderInfo> {
    const { servers } = await this.#registered(id)
    const rest = servers.filter(({ host, port }) => host !== server.host || port !== server.port)
    if (rest.length === servers.length) throw notFound('server', `${server.host}:${server.port}`)
    if (rest.length === 0)
      throw new VmsealError('VMSEAL_INVALID_STATE', `it is the only server of ${id}: remove the provider`, {
        details: { subject: id },
      })
    return this.setServers(id, rest)
  }

  /** Replaces the servers, for instance to change their order. They must serve the same keys. */
  async setServers(id: string, servers: readonly KmsServerAddress[]): Promise<KeyProviderInfo> {
    const record = await this.#registered(id)
    await this.#store.keyProviders.update({ ...record, servers: requireServers(servers) })
    await this.#forget(id)
    return this.get(id)
  }

  /** PEM of the authority that the servers' certificates come from; replaces the one before. */
  async setAuthority(id: string, caCertificate: string): Promise<void> {
    const record = await this.#registered(id)
    native.describeCertificate(caCertificate)
    await this.#store.keyProviders.update({ ...record, caCertificate })
    await this.#forget(id)
  }

  /** User name and password that a KMS asks for beside the client certificate; `null`: none. Not shown again. */
  async setLogin(
    id: string,
    login: { readonly username: string; readonly password: string } | null,
  ): Promise<void> {
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
    await this.#forget(id)
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
  async remove(id: string): Promise<void> {
    const record = await this.#registered(id)
    const pending = await this.#store.keyProviderTrust.getPending(id)
    const login = await this.#store.keyProviderTrust.getLogin(id)
    await this.#store.keyProviders.remove(id)
    await this.#forget(id)
    await this.#files.remove(record.privateKeyFile)
    if (pending) await this.#files.remove(pending.privateKeyFile)
    if (login) await this.#files.remove(login.passwordFile)
  }

  /** Asks every server. Leaves a warning in the event log for each certificate that is about to expire. */
  async status(id: string): Promise<KeyProviderStatus> {
    const record = await this.#registered(id)
    const now = this.#clock()
    const identities = await this.#identities(record)
    const servers = await Promise.all(
      identities.map(({ server, identity }) => serverStatus(server, identity, this.#timing, now)),
    )
    const client = record.certificate === '' ? undefined : describeForPeople(record.certificate, now)
    await this.#warnAbout(id, client, servers)
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
    if (typeof target !== 'string') return [await this.#diagnoseStranger(target.server, target.credentials)]
    const identities = await this.#identities(await this.#registered(target))
    const chosen = identities.filter(
      (entry) => !server || (entry.server.host === server.host && entry.server.port === server.port),
    )
    if (server && chosen.length === 0) throw notFound('server', `${server.host}:${server.port}`)
    return Promise.all(chosen.map((entry) => diagnose(entry.server, entry.identity, this.#timing)))
  }

  /** @internal VMSEAL_KEY_PROVIDER_UNREACHABLE if no provider has this id. */
  async open(id: string): Promise<KeyProvider> {
    const known = this.#open.get(id)
    if (known) return known
    const record = await this.#record(id)
    const trusted = await this.#store.keyProviderTrust.listServers(id)
    const credential = await this.#credential(id)
    // Another call may have opened it while this one read the record.
    const existing = this.#open.get(id)
    if (existing) return existing
    const provider = new KeyProvider({
      record,
      trusted,
      credential,
      privateKeyFile: this.#files.path(record.privateKeyFile),
      creations: this.#store.keyCreations,
      timing: this.#timing,
      clock: this.#clock,
      onUnreachable: (message) =>
        this.#events.append('com.vmware.vc.kms.crypto.Unreachable', { providerId: id, message }),
      onDistrust: (server, message) =>
        this.#events.append('vmseal.kms.crypto.ServerNotTrusted', { providerId: id, server, message }),
    })
    this.#open.set(id, provider)
    return provider
  }

  /** @internal Of the cluster, else of the whole vCenter. VMSEAL_NO_DEFAULT_KEY_PROVIDER if there is none. */
  async requireDefault(clusterId?: string): Promise<string> {
    const id = await this.#defaultId(clusterId, true)
    if (id === null) throw new VmsealError('VMSEAL_NO_DEFAULT_KEY_PROVIDER')
    return id
  }

  /** @internal */
  async close(): Promise<void> {
    clearInterval(this.#checking)
    await Promise.all([...this.#open.values()].map((provider) => provider.close()))
    this.#open.clear()
  }

  async #defaultId(cluster: Entity | undefined, defaultsToParent: boolean): Promise<string | null> {
    const clusterId = entityId(cluster)
    const own = await this.#store.keyProviders.getDefault(clusterId)
    if (own !== null || clusterId === undefined || !defaultsToParent) return own
    return this.#store.keyProviders.getDefault()
  }

  async #diagnoseStranger(server: KmsServerAddress, given: KeyProviderCredentials): Promise<ServerDiagnosis> {
    const { caCertificate, certificate, privateKeyFile } = requireCredentials(given)
    const [address = server] = requireServers(server)
    const accepted = acceptedCertificates(caCertificate, [], address)
    return diagnose(address, { accepted, certificate, privateKeyFile }, this.#timing)
  }

  async #identities(
    record: KeyProviderRecord,
  ): Promise<{ server: KmsServerAddress; identity: ServerIdentity }[]> {
    const trusted = await this.#store.keyProviderTrust.listServers(record.id)
    const credential = await this.#credential(record.id)
    const { certificate } = record
    const privateKeyFile = this.#files.path(record.privateKeyFile)
    return record.servers.map((server) => ({
      server,
      identity: {
        accepted: acceptedCertificates(record.caCertificate, trusted, server),
        certificate,
        privateKeyFile,
        ...(credential ? { credential } : {}),
      },
    }))
  }

  async #credential(id: string): Promise<KmipCredential | undefined> {
    const login = await this.#store.keyProviderTrust.getLogin(id)
    if (!login) return undefined
    return { username: login.username, password: await this.#files.readPassword(login.passwordFile) }
  }

  /** Each warning once for each certificate. */
  async #warnAbout(
    providerId: string,
    client: CertificateInfo | undefined,
    servers: KeyProviderStatus['servers'],
  ): Promise<void> {
    const { keyProviderTrust } = this.#store
    const isNews = async (certificate: CertificateInfo): Promise<boolean> => {
      const days = dueWarning(certificate)
      // The same key may be in the certificate that follows.
      const name = `${certificate.keyHash} ${certificate.notAfter}`
      return days !== undefined && keyProviderTrust.noteWarning(name, days)
    }
    if (client && (await isNews(client)))
      await this.#events.append('com.vmware.vc.vecs.KMSClientCertExpirationEvent', {
        providerId,
        daysToExpiry: client.daysToExpiry,
        notAfter: client.notAfter,
      })
    for (const { server, certificate } of servers)
      if (certificate && (await isNews(certificate)))
        await this.#events.append('com.vmware.vc.vecs.KMSServerCertExpirationEvent', {
          providerId,
          server,
          daysToExpiry: certificate.daysToExpiry,
          notAfter: certificate.notAfter,
        })
  }

  /** Nobody waits for it, so there is nobody to tell of what it cannot do. */
  async #checkAll(): Promise<void> {
    try {
      for (const { id } of await this.#store.keyProviders.list()) await this.status(id)
    } catch (error) {
      if (!isVmsealError(error)) throw error
    }
  }

  async #forget(id: string): Promise<void> {
    const open = this.#open.get(id)
    this.#open.delete(id)
    await open?.close()
  }

  async #registered(id: string): Promise<KeyProviderRecord> {
    const record = (await this.#store.keyProviders.list()).find((entry) => entry.id === id)
    if (!record) throw notFound('key provider', id)
    return record
  }

  async #record(id: string): Promise<KeyProviderRecord> {
    const record = (await this.#store.keyProviders.list()).find((entry) => entry.id === id)
    if (record) return record
    throw new VmsealError(
      'VMSEAL_KEY_PROVIDER_UNREACHABLE',
      `there is no key provider '${id}'. Add it under exactly this id`,
      { details: { subject: id } },
    )
  }
}

const noCredentials: KeyProviderCredentials = { caCertificate: '', certificate: '', privateKeyFile: '' }

function entityId(entity: Entity | undefined): string | undefined {
  return typeof entity === 'object' ? entity.id : entity
}

function requireCredentials(credentials: KeyProviderCredentials | undefined): KeyProviderCredentials {
  for (const field of ['caCertificate', 'certificate', 'privateKeyFile'] as const)
    if (typeof credentials?.[field] !== 'string')
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        `credentials.${field} of a key provider must be a string`,
      )
  return credentials as KeyProviderCredentials
}

function requireServers(servers: KeyProviderSpec['servers']): KmsServerAddress[] {
  const list = Array.isArray(servers)
    ? (servers as readonly KmsServerAddress[])
    : [servers as KmsServerAddress]
  if (list.length === 0) throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'a key provider needs a server')
  const addresses = list.map(({ host, port, serverName }) => {
    const address = requireName('KMS host', host)
    if (!Number.isInteger(port) || port < 1 || port > 65535)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `port ${port} of KMS ${address} is not 1 to 65535`)
    return serverName === undefined ? { host: address, port } : { host: address, port, serverName }
  })
  for (const [index, { host, port }] of addresses.entries())
    if (addresses.slice(0, index).some((other) => isDeepStrictEqual([other.host, other.port], [host, port])))
      throw new VmsealError('VMSEAL_ALREADY_EXISTS', `${host}:${port} is given twice`, {
        details: { subject: `${host}:${port}` },
      })
  return addresses
}
