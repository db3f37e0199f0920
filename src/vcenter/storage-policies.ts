/** Storage policies: they say that a VM home or disk is encrypted, never with which key. */
import { randomUUID } from 'node:crypto'
import { VmsealError } from '../errors.js'
import type { StoragePolicyRecord, StoragePolicyTable } from '../store/store.js'
import type { Access } from './authorization/access.js'
import { rootEntity } from './authorization/inventory-objects.js'
import { requireName } from './names.js'

export type StoragePolicy = Readonly<StoragePolicyRecord>

/** The bundled policies. */
export const encryptionPolicyName = 'VM Encryption Policy'
export const plainPolicyName = 'Datastore Default'

export class StoragePolicies {
  readonly #table: StoragePolicyTable
  readonly #access: Access

  /** @internal */
  constructor(table: StoragePolicyTable, access: Access) {
    this.#table = table
    this.#access = access
  }

  /** VMSEAL_ALREADY_EXISTS if the name is taken, by a bundled policy too: those cannot be changed. */
  async create(spec: { name: string; encryption: boolean }): Promise<StoragePolicy> {
    const name = requireName('storage policy name', spec.name)
    if (typeof spec.encryption !== 'boolean')
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'encryption must be true or false')
    if (spec.encryption) await this.#access.require('Cryptographer.ManageEncryptionPolicy', rootEntity)
    const policy = { id: randomUUID(), name, encryption: spec.encryption, bundled: false }
    await this.#table.insert(policy)
    return policy
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
}
