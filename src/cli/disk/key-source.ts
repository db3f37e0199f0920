/** Where a disk command gets its KEKs: straight from a KMS over KMIP, or through the registration of a vCenter that does not run. */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { VmsealError } from '../../errors.js'
import type { KeyHandle } from '../../native/load.js'
import type { KeyCreationRecord, KeyCreationTable, KmsServerAddress } from '../../store/store.js'
import { KeyProvider } from '../../vcenter/key-provider.js'
import { VCenter } from '../../vcenter/vcenter.js'
import { address, type Address } from '../arguments.js'
import { requireClientCredentials } from '../client-credentials.js'
import { order } from '../kms/control.js'

export interface KeyOptions {
  readonly server?: Address
  readonly serverName?: string
  readonly kms?: string
  readonly credentials?: string
  readonly ca?: string
  readonly certificate?: string
  readonly key?: string
  readonly vcenter?: string
  readonly providerId?: string
}

export const keyHelp = `
Where the keys come from, one of:
  --server HOST:PORT --credentials DIR    a KMS; DIR as \`vmseal kms enrol\` makes it (certificate, key, ca.pem)
  --server HOST:PORT --ca F --certificate F --key F
  --kms DIR --credentials DIR             a KMS that serves DIR on this machine
  --vcenter DIR                           the key providers of a vCenter that is not running
Keys go from the KMS into locked memory of this process; they are never written and never shown.`

export function addKeyOptions(command: Command): Command {
  return command
    .option('--server <host:port>', 'the KMS', address)
    .option('--server-name <name>', 'name in the certificate of the KMS, when it is not its host')
    .option('--kms <dir>', 'directory of a KMS that serves on this machine, instead of --server')
    .option('--credentials <dir>', 'folder with the files that `vmseal kms enrol` writes')
    .option('--ca <file>', 'authority, or certificate, of the KMS (PEM)')
    .option('--certificate <file>', 'certificate of the client (PEM)')
    .option('--key <file>', 'private key of the client; it is read by the TLS library alone')
    .option('--vcenter <dir>', 'directory of a vCenter that is not running')
    .option(
      '--provider-id <id>',
      'name of the key provider in what is written; with --vcenter which one (default: kms, or the default provider)',
    )
}

/** Gives out KEKs as handles, which it wipes when it is closed. */
export class KeySource {
  /** The id that a new wrap names. */
  readonly providerId: string
  readonly #open: (providerId: string) => Promise<KeyProvider>
  readonly #close: () => Promise<void>
  readonly #handles: KeyHandle[] = []

  private constructor(
    providerId: string,
    open: (providerId: string) => Promise<KeyProvider>,
    close: () => Promise<void>,
  ) {
    this.providerId = providerId
    this.#open = open
    this.#close = close
  }

  /** Opens what the options name; nothing is sent yet. VMSEAL_INVALID_ARGUMENT when they name no way to a key. */
  static async open(options: KeyOptions): Promise<KeySource> {
    if (options.vcenter !== undefined) return KeySource.#ofVCenter(resolve(options.vcenter), options)
    const { privateKeyFile, ...credentials } = requireClientCredentials(options)
    const provider = new KeyProvider({
      record: {
        id: options.providerId ?? 'kms',
        servers: [await serverOf(options)],
        privateKeyFile,
        addedAt: '',
        ...credentials,
      },
      privateKeyFile,
      creations: creationsOfThisCall(),
    })
    return new KeySource(
      provider.id,
      async () => provider,
      () => provider.close(),
    )
  }

  static async #ofVCenter(directory: string, { providerId }: KeyOptions): Promise<KeySource> {
    // VCenter.open would make a new one.
    if (!existsSync(join(directory, 'vcenter.db')))
      throw new VmsealError('VMSEAL_NOT_FOUND', `${directory} is not the directory of a vCenter`, {
        details: { subject: directory },
      })
    const vcenter = await VCenter.open({ directory })
    try {
      const { keyProviders } = vcenter
      const id = providerId ?? (await keyProviders.requireDefault())
      return new KeySource(
        id,
        (named) => keyProviders.open(providerId ?? named),
        () => vcenter.close(),
      )
    } catch (error) {
      await vcenter.close()
      throw error
    }
  }

  /** The KEK of this id, in locked memory until the source is closed. */
  async fetch({ keyId, providerId }: { keyId: string; providerId: string }): Promise<KeyHandle> {
    const provider = await this.#open(providerId)
    const handle = await provider.fetchKey(keyId)
    this.#handles.push(handle)
    return handle
  }

  /** Makes a KEK at the KMS for the disk and returns its id. */
  async create(name: string, diskId: string): Promise<string> {
    const provider = await this.#open(this.providerId)
    return provider.createKey({ name, identifier: diskId, attributes: { 'x-Component': 'Virtual Disk' } })
  }

  async close(): Promise<void> {
    for (const handle of this.#handles) handle.dispose()
    await this.#close()
  }
}

/** Runs `work` with the keys of the options, and wipes them after it. */
export async function withKeys<Result>(
  options: KeyOptions,
  work: (keys: KeySource) => Promise<Result>,
): Promise<Result> {
  const keys = await KeySource.open(options)
  try {
    return await work(keys)
  } finally {
    await keys.close()
  }
}

async function serverOf({ server, serverName, kms }: KeyOptions): Promise<KmsServerAddress> {
  if (server !== undefined) return serverName === undefined ? server : { ...server, serverName }
  if (kms === undefined)
    throw wrongCall(
      'no KMS is named: give --server (or --kms, the directory of one on this machine) and --credentials, or --vcenter',
    )
  const directory = resolve(kms)
  return (await order(directory, 'status', { directory })).endpoint
}

/** A lost answer is followed up while this command runs, not after it. */
function creationsOfThisCall(): KeyCreationTable {
  const records = new Map<string, KeyCreationRecord>()
  return {
    list: async () => [...records.values()],
    begin: async (record) => void records.set(record.name, record),
    found: async (name, keyId) => {
      const record = records.get(name)
      if (record) records.set(name, { ...record, keyId })
    },
    end: async (name) => void records.delete(name),
  }
}

function wrongCall(message: string): VmsealError {
  return new VmsealError('VMSEAL_INVALID_ARGUMENT', message)
}
