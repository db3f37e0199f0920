/** A VM made of an export, under its own key again or under others. */
import { randomUUID } from 'node:crypto'
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { ExportDescription, RestoreSpec } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import { withoutKeys } from './key-distribution.js'
import { takeUnusedFromHosts } from './key-provider/key-use.js'
import { requireVirtualMachineName } from './names.js'
import type { Services } from './services.js'
import { encryptionPolicyName, type StoragePolicy } from './storage-policies.js'
import { refuseCancelled, type TaskContext } from './task.js'
import { TaskKeys, homePart, type KeyName } from './task-keys.js'
import { refuseTaken } from './vm-creation.js'

/** What is restored, and as what. */
export interface RestorePlan {
  /** Absolute path of the export on the host that does the work. */
  readonly from: string
  readonly name: string
  readonly clusterId: string
  readonly datastore: string
  readonly host?: string | undefined
  /** `new`, the default: another VM. `same`: the VM that was exported, which must not be in the inventory. */
  readonly identity?: 'new' | 'same' | undefined
  /** Keep the key of the export, instead of a new one. */
  readonly reuseKey?: boolean | undefined
  /** An existing key instead of a new one. */
  readonly keyId?: KeyName | undefined
  /** A new key for VM home and each disk instead of one for all. */
  readonly perDiskKeys?: boolean | undefined
  /** Policy of VM home and every disk, one that encrypts; default: `VM Encryption Policy`. */
  readonly policy?: string | undefined
}

export class VmRestoration {
  readonly #services: Services
  readonly #keys: TaskKeys

  constructor(services: Services) {
    this.#services = services
    this.#keys = new TaskKeys(services)
  }

  /** Every byte of the export is read and compared before a key or anything else is made. */
  async restore(plan: RestorePlan, context: TaskContext): Promise<VmRecord> {
    const { connections, distribution } = this.#services
    const name = check(plan)
    const cluster = { type: 'cluster', id: plan.clusterId } as const
    await this.#services.access.require('Cryptographer.RegisterVM', cluster)
    if (!plan.reuseKey) await this.#services.access.require('Cryptographer.EncryptNew', cluster)
    const policy = await this.#policy(plan.policy)
    const host = connections.placeNew(plan.clusterId, plan.datastore, { name: plan.host })
    if (await this.#services.store.virtualMachines.findByName(name)) throw alreadyThere(name)
    await refuseTaken(host, plan.datastore, name)
    const described = await host.call((api) => api.describeExport(plan.from))
    const vmId = await this.#identity(plan, described)
    const keyOfExport = described.key
    try {
      await distribution.ensure([keyOfExport], host, context.step)
      const { signal, onProgress } = context
      const verified = await host.call((api) => api.verifyExport(plan.from, { signal, onProgress }))
      refuseCancelled(signal)
      return await this.#make(plan, { vmId, name, policy }, verified, host, context)
    } finally {
      await takeUnusedFromHosts(this.#services, [keyOfExport])
    }
  }

  async #make(
    plan: RestorePlan,
    { vmId, name, policy }: { vmId: string; name: string; policy: StoragePolicy },
    exported: ExportDescription,
    host: HostConnection,
    context: TaskContext,
  ): Promise<VmRecord> {
    const { clusterId, datastore, from, perDiskKeys } = plan
    const disks = exported.disks.map(({ diskId }) => ({
      diskId,
      newDiskId: plan.identity === 'same' ? diskId : (randomUUID() as string),
    }))
    const parts = [homePart, ...disks.map(({ newDiskId }) => newDiskId)]
    const existing = plan.reuseKey ? exported.key : plan.keyId
    const named = existing === undefined ? {} : { named: new Map(parts.map((part) => [part, existing])) }
    const wanted = await this.#keys.plan(parts, { perDiskKeys, ...named }, clusterId)
    const vm = { id: vmId, name, clusterId }
    const keys = await this.#keys.provide(wanted, vm, host, context)
    refuseCancelled(context.signal)
    const keyOf = (part: string): CryptoKeyId => {
      const key = keys.get(part)
      if (!key) throw new VmsealError('VMSEAL_INTERNAL', `no key was provided for ${part}`)
      return key
    }
    const spec: RestoreSpec = {
      from,
      vmId,
      name,
      datastore,
      homeKey: keyOf(homePart),
      disks: disks.map((disk) => ({ ...disk, key: keyOf(disk.newDiskId) })),
    }
    const policies = new Map(disks.map(({ newDiskId }) => [newDiskId, policy.id]))
    const used = withoutKeys([...keys.values()], [])
    const record = await this.#services.intents.during(
      {
        vmId,
        kind: 'create',
        clusterId,
        datastore,
        vmx: `${name}/${name}.vmx`,
        keys: used,
        homePolicyId: policy.id,
        diskPolicyIds: Object.fromEntries(policies),
      },
      async () => {
        const all = withoutKeys([exported.key, ...used], [])
        const subject = { operation: 'restore', vm: name, host: host.name, keys: all } as const
        const { signal, onProgress, step } = context
        const config = await recordOperation(this.#services.events, subject, () => {
          step({ actor: 'host', action: 'work started', host: host.name, work: `restore ${name}` })
          return host.call((api) => api.restoreVirtualMachine(spec, { signal, onProgress }))
        })
        step({ actor: 'host', action: 'work committed', host: host.name })
        return this.#services.inventory.adopt(config, clusterId, host, { home: policy.id, disks: policies })
      },
    )
    await this.#keys.reachLateHosts(clusterId, context)
    return record
  }

  async #identity({ identity }: RestorePlan, { vmId, name }: ExportDescription): Promise<string> {
    if (identity !== 'same') return randomUUID()
    if (await this.#services.store.virtualMachines.findById(vmId)) throw alreadyThere(name)
    return vmId
  }

  async #policy(name = encryptionPolicyName): Promise<StoragePolicy> {
    const policy = await this.#services.storagePolicies.get(name)
    if (policy.encryption) return policy
    throw new VmsealError(
      'VMSEAL_POLICY_NOT_ENCRYPTION',
      `an export is restored as it is, encrypted, and the policy ${name} does not encrypt: decrypt the VM afterwards`,
      { details: { subject: name } },
    )
  }
}

function check({ from, name, identity, reuseKey, keyId, perDiskKeys }: RestorePlan): string {
  const refuse = (message: string): never => {
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', message)
  }
  if (typeof from !== 'string' || !from.startsWith('/')) refuse('from is an absolute path on the host')
  if (identity !== undefined && identity !== 'new' && identity !== 'same') refuse('identity is new or same')
  if ([reuseKey, keyId !== undefined, perDiskKeys].filter(Boolean).length > 1)
    refuse('reuseKey, keyId and perDiskKeys exclude each other')
  return requireVirtualMachineName(name)
}

function alreadyThere(name: string): VmsealError {
  return new VmsealError('VMSEAL_ALREADY_EXISTS', `the virtual machine ${name} is in the inventory`, {
    details: { subject: name },
  })
}
