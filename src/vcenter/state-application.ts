/** Brings a VM to its declared state: as few changes as that takes, one new key for all of them, nothing when it is so already. */
import type { CryptoKeyId } from '../errors.js'
import type { VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { complianceOf } from './compliance.js'
import {
  checkState,
  planState,
  type DesiredState,
  type PlannedChange,
  type StatePlan,
} from './desired-state.js'
import type { Services } from './services.js'
import type { TaskContext } from './task.js'
import { homePart } from './task-keys.js'
import { requireDisk } from './vm-part-rules.js'
import type { VirtualMachineInfo } from './vm-inventory.js'
import { VmReconfiguration } from './vm-reconfiguration.js'
import { VmRecrypt } from './vm-recrypt.js'

export interface ApplyStateOptions {
  /** Only tell what would change. */
  readonly dryRun?: boolean
  /** The host that does the work; default: the one the VM is registered on. */
  readonly host?: string
  readonly signal?: AbortSignal
}

export interface AppliedState {
  /** What was changed, or with `dryRun` would be; empty: the VM is as declared. */
  readonly changes: readonly PlannedChange[]
  readonly virtualMachine: VirtualMachineInfo
}

export class StateApplication {
  readonly #services: Services

  constructor(services: Services) {
    this.#services = services
  }

  /**
   * Interrupted anywhere, the same call does what is left. Policies come first; what then is under another provider's keys is
   * recrypted (shallow) under the key that they made, if they made one.
   */
  async apply(
    vm: VmRecord,
    state: DesiredState,
    options: ApplyStateOptions,
    context: TaskContext,
  ): Promise<readonly PlannedChange[]> {
    checkState(state)
    const { record, config, plan } = await this.#plan(vm, state, options)
    if (options.dryRun === true) return plan.changes
    if (plan.changes.length === 0) {
      context.step({ actor: 'vcenter', action: 'nothing to change' })
      return []
    }
    if (plan.recrypt.length > 0)
      await this.#services.access.require('Cryptographer.Recrypt', { type: 'vm', id: record.id })
    const work = { ...(options.host && { host: options.host }), signal: context.signal }
    const { keyProvider } = state
    const { home, disks } = state
    const reconfigured = await new VmReconfiguration(this.#services).applyPolicy(
      record,
      { ...(home !== undefined && { home }), ...(disks !== undefined && { disks }) },
      { ...work, ...(keyProvider !== undefined && { keyProvider }) },
      context,
    )
    if (plan.recrypt.length > 0)
      await new VmRecrypt(this.#services).run(
        reconfigured,
        {
          ...work,
          depth: 'shallow',
          ...(keyProvider !== undefined && { keyProvider }),
          ...optionalKey(newKeyOf(config, reconfigured)),
          home: plan.recrypt.includes(homePart),
          disks: plan.recrypt.filter((part) => part !== homePart),
        },
        context,
      )
    return plan.changes
  }

  async #plan(
    vm: VmRecord,
    state: DesiredState,
    options: ApplyStateOptions,
  ): Promise<{ record: VmRecord; config: VmConfig; plan: StatePlan }> {
    const { connections, inventory, keyProviders, store, storagePolicies } = this.#services
    const host = connections.place(vm.clusterId, vm.datastore, {
      name: options.host,
      preferred: vm.hostId,
    })
    const { record, config } = await inventory.read(vm, host)
    if (state.keyProvider !== undefined) await keyProviders.open(state.keyProvider)
    const policies = await store.storagePolicies.list()
    const applied = await store.storagePolicies.appliedVersions(record.id)
    const { parts } = complianceOf(record, { policies, applied }, 'now')
    const wanted = new Map<string, string>()
    if (typeof state.disks === 'string')
      for (const { diskId } of config.disks) wanted.set(diskId, state.disks)
    else
      for (const [selector, policy] of Object.entries(state.disks ?? {}))
        wanted.set(requireDisk(config.disks, selector).diskId, policy)
    if (state.home !== undefined) wanted.set(homePart, state.home)
    const partPolicies = []
    for (const { part, diskId, policy, status } of parts) {
      const name = wanted.get(diskId ?? homePart)
      partPolicies.push({
        part,
        ...(diskId && { diskId }),
        present: policies.find((one) => one.name === policy),
        outOfDate: status === 'outOfDate',
        wanted: name === undefined ? undefined : await storagePolicies.get(name),
      })
    }
    return { record, config, plan: planState(state, config, partPolicies) }
  }
}

/** The key that parts got which were plain before. */
function newKeyOf(before: VmConfig, after: VmRecord): CryptoKeyId | undefined {
  if (!before.homeKey && after.homeKey) return after.homeKey
  const plain = new Set(before.disks.filter(({ key }) => !key).map(({ diskId }) => diskId))
  return after.disks.find(({ diskId, key }) => key && plain.has(diskId))?.key ?? undefined
}

function optionalKey(key: CryptoKeyId | undefined) {
  return key ? { key } : {}
}
