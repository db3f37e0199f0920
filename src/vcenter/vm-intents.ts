/**
 * What is about to happen to VMs as a whole: written before a host makes or removes one, so that a vCenter that ends in
 * between knows afterwards which files are a VM of its own, and which VM has no files any more; and before one moves while it
 * runs, so that it knows that it has to ask which host runs it.
 */
import { isDeepStrictEqual } from 'node:util'
import { isVmsealError } from '../errors.js'
import type { Store, VmIntentRecord } from '../store/store.js'
import type { HostConnection, HostConnections } from './host-connections.js'
import { Turns } from './key-provider/turns.js'
import type { VmInventory } from './vm-inventory.js'
import { settleMigration } from './vm-migration-outcome.js'
import { referenceOf } from './vm-record.js'

/** Longer than any host works on one request. */
const forgottenAfterMs = 7 * 24 * 60 * 60 * 1000

export interface VmIntentsServices {
  readonly store: Pick<Store, 'vmIntents' | 'virtualMachines'>
  readonly inventory: VmInventory
  readonly clock: () => Date
  readonly connections: HostConnections
  /** Whether the host works on something that an earlier vCenter began; one that cannot be asked may. */
  readonly isWorking: (hostId: string) => Promise<boolean>
}

export class VmIntents {
  readonly #services: VmIntentsServices
  /** Those whose task runs in this process. */
  readonly #live = new Set<string>()
  readonly #turns = new Turns()

  constructor(services: VmIntentsServices) {
    this.#services = services
  }

  /** Runs `act` with its intent on record. When it cannot be known what the host did, the intent stays. */
  async during<Result>(intent: Omit<VmIntentRecord, 'beganAt'>, act: () => Promise<Result>): Promise<Result> {
    const { vmIntents } = this.#services.store
    this.#live.add(intent.vmId)
    try {
      await vmIntents.begin({ ...intent, beganAt: this.#services.clock().toISOString() })
      const result = await act()
      await vmIntents.end(intent.vmId)
      return result
    } catch (error) {
      if (!leavesOpen(intent.kind, error)) await vmIntents.end(intent.vmId)
      throw error
    } finally {
      this.#live.delete(intent.vmId)
    }
  }

  /** Ends what an earlier vCenter, or a lost link, left open, as far as this host can show it. */
  async settle(host: HostConnection): Promise<void> {
    const { vmIntents } = this.#services.store
    for (const intent of await vmIntents.list()) {
      if (this.#live.has(intent.vmId) || intent.clusterId !== host.clusterId || !host.has(intent.datastore))
        continue
      await this.#turns.take(intent.vmId, () => this.#settle(intent, host))
    }
  }

  /** Hosts are brought up to date side by side: what one of them has settled, and may be changed since, is not settled again. */
  async #settle(intent: VmIntentRecord, host: HostConnection): Promise<void> {
    const { vmIntents } = this.#services.store
    const isOpen = (await vmIntents.list()).some((open) => isDeepStrictEqual(open, intent))
    if (!isOpen || this.#live.has(intent.vmId)) return
    const settled = await this.#ways[intent.kind](intent, host)
    if (settled || this.#isForgotten(intent)) await vmIntents.end(intent.vmId)
  }

  readonly #ways = {
    create: (intent: VmIntentRecord, host: HostConnection) => this.#created(intent, host),
    destroy: (intent: VmIntentRecord, host: HostConnection) => this.#removed(intent, host),
    relocate: (intent: VmIntentRecord, host: HostConnection) => this.#relocated(intent, host),
    migrate: (intent: VmIntentRecord) => this.#migrated(intent),
  } as const

  /** A host may still be at work on a VM that is not there yet. */
  async #created(intent: VmIntentRecord, host: HostConnection): Promise<boolean> {
    const { store, inventory } = this.#services
    if (await store.virtualMachines.findById(intent.vmId)) return true
    const config = await read(intent, host)
    if (config === undefined) return false
    if (config.vmId !== intent.vmId) return true
    const policies = { home: intent.homePolicyId, disks: new Map(Object.entries(intent.diskPolicyIds)) }
    await inventory.adoptFound(config, intent.clusterId, host, policies)
    return true
  }

  async #removed(intent: VmIntentRecord, host: HostConnection): Promise<boolean> {
    const { virtualMachines } = this.#services.store
    const record = await virtualMachines.findById(intent.vmId)
    const moved = record?.datastore !== intent.datastore || record.vmx !== intent.vmx
    if (record === undefined || moved) return true
    const config = await read(intent, host)
    // It is whole, but a host may be about to remove it.
    if (config?.vmId === intent.vmId) return !(await this.#mayBeWorkedOn(intent))
    try {
      // What is left of it, after a crash of the host too.
      if (config === undefined) await host.call((api) => api.destroyVirtualMachine(referenceOf(intent)))
    } catch (error) {
      if (!isVmsealError(error, 'VMSEAL_NOT_FOUND')) throw error
    }
    await virtualMachines.remove(intent.vmId)
    return true
  }

  /** A vCenter that ended in the middle of a migration: where the VM runs, its hosts know. */
  async #migrated({ vmId }: VmIntentRecord): Promise<boolean> {
    const record = await this.#services.store.virtualMachines.findById(vmId)
    return record === undefined || settleMigration(this.#services, record)
  }

  /** The VM is in its new place, or, as far as this host can show it, in its old one still. */
  async #relocated(intent: VmIntentRecord, host: HostConnection): Promise<boolean> {
    const record = await this.#services.store.virtualMachines.findById(intent.vmId)
    if (record === undefined || record.datastore === intent.datastore) return true
    const config = await read(intent, host)
    if (config?.vmId !== intent.vmId) return false
    const { datastore, vmx } = intent
    await this.#services.inventory.absorb(record, config, host, { place: { datastore, vmx } })
    return true
  }

  async #mayBeWorkedOn({ clusterId }: VmIntentRecord): Promise<boolean> {
    const { connections, isWorking } = this.#services
    const hosts = connections.ofCluster(clusterId)
    return (await Promise.all(hosts.map(({ hostId }) => isWorking(hostId)))).includes(true)
  }

  #isForgotten({ beganAt }: VmIntentRecord): boolean {
    return this.#services.clock().getTime() - Date.parse(beganAt) > forgottenAfterMs
  }
}

/** A disk that failed or was full may have stopped a removal half-way. */
export function isDiskFailure(error: unknown): boolean {
  return isVmsealError(error, 'VMSEAL_IO') || isVmsealError(error, 'VMSEAL_NO_SPACE')
}

/** A host that does not answer, or that restarted in the middle, may have done it. */
function leavesOpen(kind: VmIntentRecord['kind'], error: unknown): boolean {
  if (kind === 'destroy' && isDiskFailure(error)) return true
  return isVmsealError(error, 'VMSEAL_HOST_UNREACHABLE') || isVmsealError(error, 'VMSEAL_TASK_INTERRUPTED')
}

/** Undefined: there is no such VM. */
async function read(intent: VmIntentRecord, host: HostConnection) {
  try {
    return await host.call((api) => api.readVirtualMachine(referenceOf(intent)))
  } catch (error) {
    if (isVmsealError(error, 'VMSEAL_NOT_FOUND')) return undefined
    throw error
  }
}
