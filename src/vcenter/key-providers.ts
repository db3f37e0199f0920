/** The registered key providers. Of each: where its servers are and how to authenticate; never a key of it. */
import { randomUUID } from 'node:crypto'
import { chmod, constants, copyFile, mkdir, open, rm } from 'node:fs/promises'
import path from 'node:path'
import { VmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { KeyProviderRecord, KeyProviderTable, KmsServerAddress } from '../store/store.js'
import type { EventLog } from './events.js'
import { KeyProvider } from './key-provider.js'
import { notFound, requireName } from './names.js'

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
  readonly credentials: KeyProviderCredentials
}

export interface KeyProviderInfo {
  readonly id: string
  readonly servers: readonly KmsServerAddress[]
  readonly isDefault: boolean
}

export class KeyProviders {
  readonly #table: KeyProviderTable
  readonly #directory: string
  readonly #events: EventLog
  readonly #clock: () => Date
  readonly #open = new Map<string, KeyProvider>()

  constructor(table: KeyProviderTable, directory: string, events: EventLog, clock: () => Date) {
    this.#table = table
    this.#directory = directory
    this.#events = events
    this.#clock = clock
  }

  /** Registers a provider; it need not be reachable. The first one becomes the default. */
  async add(spec: KeyProviderSpec): Promise<KeyProviderInfo> {
    const id = requireName('key provider id', spec.id)
    const servers = requireServers(spec.servers)
    const { caCertificate, certificate, privateKeyFile } = requireCredentials(spec.credentials)
    for (const pem of [caCertificate, certificate]) native.describeCertificate(pem)
    if ((await this.#table.list()).some((record) => record.id === id))
      throw new VmsealError('VMSEAL_ALREADY_EXISTS', `there is a key provider '${id}'`, {
        details: { subject: id },
      })
    const file = `${randomUUID()}.key`
    await this.#copyPrivateKey(privateKeyFile, file)
    try {
      const addedAt = this.#clock().toISOString()
      await this.#table.insert({ id, servers, caCertificate, certificate, privateKeyFile: file, addedAt })
    } catch (error) {
      await rm(path.join(this.#directory, file), { force: true })
      throw error
    }
    return this.get(id)
  }

  /** In the order in which they were added. */
  async list(): Promise<KeyProviderInfo[]> {
    const [records, standard] = await Promise.all([this.#table.list(), this.#table.getDefault()])
    return records.map(({ id, servers }) => ({ id, servers, isDefault: id === standard }))
  }

  async get(id: string): Promise<KeyProviderInfo> {
    const found = (await this.list()).find((provider) => provider.id === id)
    if (!found) throw notFound('key provider', id)
    return found
  }

  /** The provider that makes new keys; `null` when there is none. */
  async getDefault(): Promise<KeyProviderInfo | null> {
    return (await this.list()).find((provider) => provider.isDefault) ?? null
  }

  /** `null`: no default, so no new key can be made. */
  async setDefault(id: string | null): Promise<void> {
    if (id !== null) await this.get(id)
    await this.#table.setDefault(id)
  }

  /** Forgets a provider, also one in use: its keys stay at the KMS and open again when it is added under this id. */
  async remove(id: string): Promise<void> {
    const record = (await this.#table.list()).find((entry) => entry.id === id)
    if (!record) throw notFound('key provider', id)
    await this.#table.remove(id)
    await this.#open.get(id)?.close()
    this.#open.delete(id)
    await rm(path.join(this.#directory, record.privateKeyFile), { force: true })
  }

  /** @internal VMSEAL_KEY_PROVIDER_UNREACHABLE if no provider has this id. */
  async open(id: string): Promise<KeyProvider> {
    const known = this.#open.get(id)
    if (known) return known
    const record = await this.#record(id)
    const provider = new KeyProvider(record, path.join(this.#directory, record.privateKeyFile), (message) =>
      this.#events.append('com.vmware.vc.kms.crypto.Unreachable', { providerId: id, message }),
    )
    // Another call may have opened it while this one read the record.
    const existing = this.#open.get(id) ?? provider
    this.#open.set(id, existing)
    return existing
  }

  /** @internal VMSEAL_NO_DEFAULT_KEY_PROVIDER if there is none. */
  async requireDefault(): Promise<string> {
    const id = await this.#table.getDefault()
    if (id === null) throw new VmsealError('VMSEAL_NO_DEFAULT_KEY_PROVIDER')
    return id
  }

  /** @internal */
  async close(): Promise<void> {
    await Promise.all([...this.#open.values()].map((provider) => provider.close()))
    this.#open.clear()
  }

  async #record(id: string): Promise<KeyProviderRecord> {
    const record = (await this.#table.list()).find((entry) => entry.id === id)
    if (record) return record
    throw new VmsealError(
      'VMSEAL_KEY_PROVIDER_UNREACHABLE',
      `there is no key provider '${id}'. Add it under exactly this id`,
      { details: { subject: id } },
    )
  }

  async #copyPrivateKey(source: string, name: string): Promise<void> {
    const target = path.join(this.#directory, name)
    await mkdir(this.#directory, { recursive: true, mode: 0o700 })
    try {
      await copyFile(source, target, constants.COPYFILE_EXCL)
      await chmod(target, 0o600)
      await flush(target)
      await flush(this.#directory)
    } catch (cause) {
      await rm(target, { force: true })
      throw new VmsealError('VMSEAL_CERTIFICATE_INVALID', `cannot copy the private key file ${source}`, {
        cause,
        details: { subject: source },
      })
    }
  }
}

async function flush(file: string): Promise<void> {
  const handle = await open(file, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
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
  return list.map(({ host, port, serverName }) => {
    const address = requireName('KMS host', host)
    if (!Number.isInteger(port) || port < 1 || port > 65535)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `port ${port} of KMS ${address} is not 1 to 65535`)
    return serverName === undefined ? { host: address, port } : { host: address, port, serverName }
  })
}
