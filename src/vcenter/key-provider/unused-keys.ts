/** The keys at a KMS that nothing here uses any more: a report, and the end of those that somebody names. */
import { VmsealError, isVmsealError, type CryptoKeyId } from '../../errors.js'
import { attributeValue } from '../../kmip/attributes.js'
import type { KmipClient } from '../../kmip/client.js'
import { productAttributes, type KeyProvider } from '../key-provider.js'
import { keyNamePrefix } from './key-creations.js'
import { filesOf, keysInFiles } from './key-usage.js'
import { heldByHosts } from './key-use.js'
import type { ProviderKeysServices } from './provider-keys.js'

export interface UnusedKey {
  readonly key: CryptoKeyId
  readonly state?: string
  /** What it was made for: `x-Name` and `x-Identifier`. */
  readonly madeFor?: string
  readonly identifier?: string
  /** Files on datastores of connected hosts that name it all the same: of VMs that are not registered here, and detached disks. */
  readonly files?: readonly string[]
}

/** Ids in one Locate, and keys in one message about their attributes. */
const pageSize = 500
const described = 50
/** Tasks that may be under way are among the newest ones. */
const newestTasks = 1000

export class UnusedKeys {
  readonly #services: ProviderKeysServices

  constructor(services: ProviderKeysServices) {
    this.#services = services
  }

  /** The keys at the KMS that were made for a vCenter and that no VM and no connected host uses. */
  async report(providerId: string): Promise<UnusedKey[]> {
    const provider = await this.#services.open(providerId)
    // Before the inventory: a key that is made in between is not in the list.
    const all = await locateAll(provider)
    const { used } = await this.#used(providerId)
    const candidates = all.filter((id) => !used.has(id))
    const { named } = await keysInFiles(this.#services)
    const found: UnusedKey[] = []
    for (let start = 0; start < candidates.length; start += described)
      found.push(...(await describe(provider, candidates.slice(start, start + described))))
    return found.map((entry) => {
      const files = filesOf(named, entry.key)
      return files.length > 0 ? { ...entry, files } : entry
    })
  }

  /**
   * Destroys keys of the report at the KMS. Everything is checked before the first one is destroyed, so that a key that
   * only a running task or a host that does not answer knows of is safe.
   */
  async destroy(providerId: string, keyIds: readonly string[]): Promise<string[]> {
    const report = new Map((await this.report(providerId)).map((entry) => [entry.key.keyId, entry]))
    await this.#refuseWhileTasksRun()
    const { used, silent } = await this.#used(providerId)
    if (silent.length > 0)
      throw new VmsealError(
        'VMSEAL_HOST_UNREACHABLE',
        `nobody knows what host ${silent.join(', ')} uses. Connect it, or remove it from its cluster`,
        { details: { subject: silent[0] ?? '' } },
      )
    const { unknown } = await keysInFiles(this.#services)
    if (unknown.length > 0)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `nobody knows which keys ${unknown.slice(0, 5).join(', ')} needs: it cannot be read. Repair or remove it`,
        { details: { subject: unknown[0] ?? '' } },
      )
    for (const keyId of keyIds) {
      const { files = [] } = report.get(keyId) ?? {}
      if (files.length > 0)
        throw new VmsealError(
          'VMSEAL_INVALID_STATE',
          `key ${keyId} is named by ${files.slice(0, 5).join(', ')}: what it opens would be lost`,
          { details: { subject: files[0] ?? '' } },
        )
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
      await destroy(provider, keyId, report.get(keyId)?.state)
      await this.#services.events.append('vmseal.kms.crypto.KeyDestroyed', { keyId, providerId })
    }
    return [...keyIds]
  }

  /** The inventory names the keys of a task when it has ended. */
  async #refuseWhileTasksRun(): Promise<void> {
    const tasks = await this.#services.store.tasks.list(newestTasks)
    const running = tasks.find(({ state }) => state === 'queued' || state === 'running')
    if (running)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `task ${running.name} of ${running.entity} is under way and may use a key. Wait for its end`,
        { details: { subject: running.id } },
      )
  }

  async #used(providerId: string): Promise<{ used: Set<string>; silent: readonly string[] }> {
    const { store, connections } = this.#services
    const [vms, creations, { held, silent }] = await Promise.all([
      store.virtualMachines.keysOfProvider(providerId),
      store.keyCreations.list(providerId),
      heldByHosts(store.hosts, connections),
    ])
    const onHosts = held.flatMap(({ keys }) => keys).filter((key) => key.providerId === providerId)
    // The next task gets the keys of `creations`.
    const spare = creations.flatMap(({ keyId }) => keyId ?? [])
    return { used: new Set([...vms, ...spare, ...onHosts.map(({ keyId }) => keyId)]), silent }
  }
}

function locateAll(provider: KeyProvider): Promise<string[]> {
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

async function describe(provider: KeyProvider, ids: readonly string[]): Promise<UnusedKey[]> {
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
async function destroy(provider: KeyProvider, keyId: string, state: string | undefined): Promise<void> {
  await provider.ask(async (client) => {
    if (state === 'Active')
      await client.revoke(keyId, 'CessationOfOperation', 'unused').catch(tolerateRefusal)
    await client.destroy(keyId).catch((error: unknown) => {
      if (!isVmsealError(error) || error.details.resultReason !== 'ItemNotFound') throw error
    })
  })
}

function tolerateRefusal(error: unknown): void {
  if (!isVmsealError(error, 'VMSEAL_KMIP_OPERATION_FAILED')) throw error
}
