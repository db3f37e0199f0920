/** Storage policies: they say that a VM home or disk is encrypted, never with which key. */
import { randomUUID } from 'node:crypto'
import { VmsealError } from '../errors.js'
import type { Store, StoragePolicyRecord, StoragePolicyTable } from '../store/store.js'
import type { Access } from './authorization/access.js'
import { rootEntity } from './authorization/inventory-objects.js'
import { requireName } from './names.js'

export type StoragePolicy = Readonly<StoragePolicyRecord>

/** The bundled policies. */
export const encryptionPolicyName = 'VM Encryption Policy'
export const plainPolicyName = 'Datastore Default'

interface PolicyRules {
  /** The part is encrypted. */
  readonly encryption: boolean
  /**
   * I/O filters of the host, for instance one that replicates, may see the data before it is encrypted. Default false: they see
   * ciphertext. vmseal has no such filters of its own; it keeps the rule for a data path that has.
   */
  readonly filtersBeforeEncryption?: boolean
}

export class StoragePolicies {
  readonly #store: Pick<Store, 'storagePolicies' | 'virtualMachines' | 'tasks'>
  readonly #access: Access

  /** @internal */
  constructor(store: Pick<Store, 'storagePolicies' | 'virtualMachines' | 'tasks'>, access: Access) {
    this.#store = store
    this.#access = access
  }

  /** VMSEAL_ALREADY_EXISTS if the name is taken, by a bundled policy too: those cannot be changed. */
  async create(spec: PolicyRules & { readonly name: string }): Promise<StoragePolicy> {
    const name = requireName('storage policy name', spec.name)
    const { encryption, filtersBeforeEncryption = false } = spec
    requireRules(encryption, filtersBeforeEncryption)
    if (encryption) await this.#access.require('Cryptographer.ManageEncryptionPolicy', rootEntity)
    const policy = { id: randomUUID(), name, encryption, filtersBeforeEncryption, bundled: false, version: 1 }
    await this.#table.insert(policy)
    return policy
  }

  /** A policy of one's own with the rules of another one, for instance of the bundled encryption policy. */
  async clone(name: string, newName: string, changes: Partial<PolicyRules> = {}): Promise<StoragePolicy> {
    const { encryption, filtersBeforeEncryption } = await this.get(name)
    return this.create({ encryption, filtersBeforeEncryption, ...definedOf(changes), name: newName })
  }

  /**
   * Changes a policy of one's own. Nothing happens to the VMs that have it: they are out of date until it is applied to them again.
   * VMSEAL_INVALID_STATE for a bundled one: clone it.
   */
  async update(
    name: string,
    changes: Partial<PolicyRules> & { readonly name?: string },
  ): Promise<StoragePolicy> {
    const before = await this.get(name)
    refuseBundled(before)
    const after = { ...before, ...definedOf(changes) }
    requireName('storage policy name', after.name)
    requireRules(after.encryption, after.filtersBeforeEncryption)
    if (before.encryption || after.encryption)
      await this.#access.require('Cryptographer.ManageEncryptionPolicy', rootEntity)
    const sameRules =
      after.encryption === before.encryption &&
      after.filtersBeforeEncryption === before.filtersBeforeEncryption
    if (sameRules && after.name === before.name) return before
    const written = { ...after, version: before.version + 1 }
    if (await this.#table.update(written)) return written
    throw new VmsealError('VMSEAL_INVALID_STATE', `the storage policy '${name}' was changed meanwhile`)
  }

  /** VMSEAL_INVALID_STATE for a bundled one, while a VM has it, and while a task is under way that may give it to one. */
  async remove(name: string): Promise<void> {
    const policy = await this.get(name)
    refuseBundled(policy)
    if (policy.encryption) await this.#access.require('Cryptographer.ManageEncryptionPolicy', rootEntity)
    const running = (await this.#store.tasks.list(1000)).find(
      ({ state }) => state === 'queued' || state === 'running',
    )
    if (running)
      throw new VmsealError('VMSEAL_INVALID_STATE', `task ${running.name} of ${running.entity} is under way`)
    if (await this.#table.remove(policy.id)) return
    const users = (await this.#store.virtualMachines.search({ policyId: policy.id, limit: 10 })).map(
      (vm) => vm.name,
    )
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `the storage policy '${name}' is that of ${users.join(', ')}: give them another one first`,
      { details: { subject: name } },
    )
  }

  list(): Promise<StoragePolicy[]> {
    return this.#table.list()
  }

  /** VMSEAL_POLICY_UNKNOWN if there is none of this name. */
  async get(name: string): Promise<StoragePolicy> {
    const policies = await this.#table.list()
    const found = policies.find((policy) => policy.name === name)
    if (found) return found
    const known = policies.map((policy) => `'${policy.name}'`).join(', ')
    throw new VmsealError(
      'VMSEAL_POLICY_UNKNOWN',
      `there is no storage policy '${name}'. There are ${known}`,
      {
        details: { subject: name },
      },
    )
  }

  get #table(): StoragePolicyTable {
    return this.#store.storagePolicies
  }
}

function requireRules(encryption: unknown, filtersBeforeEncryption: unknown): void {
  if (typeof encryption !== 'boolean')
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'encryption must be true or false')
  if (typeof filtersBeforeEncryption !== 'boolean')
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'filtersBeforeEncryption must be true or false')
  if (filtersBeforeEncryption && !encryption)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'filtersBeforeEncryption makes no sense in a policy that does not encrypt',
    )
}

function refuseBundled({ bundled, name }: StoragePolicy): void {
  if (bundled)
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `'${name}' is bundled and stays as it is: clone it and change the clone`,
      { details: { subject: name } },
    )
}

/** The named changes alone. */
function definedOf({
  name,
  encryption,
  filtersBeforeEncryption,
}: Partial<PolicyRules> & { readonly name?: string }) {
  return {
    ...(name === undefined ? {} : { name }),
    ...(encryption === undefined ? {} : { encryption }),
    ...(filtersBeforeEncryption === undefined ? {} : { filtersBeforeEncryption }),
  }
}
