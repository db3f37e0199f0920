/** Snapshots of a VM, and what a VM with snapshots does not allow. */
import { randomUUID } from 'node:crypto'
import { VmsealError } from '../errors.js'
import type { HostApi, SnapshotConfig, VmConfig, Work } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import { notFound } from './names.js'
import type { Services } from './services.js'
import { refuseCancelled, type TaskContext } from './task.js'
import { keysOf, referenceOf } from './vm-record.js'
import { VmUnlocking } from './vm-unlocking.js'

export interface CreateSnapshotOptions {
  readonly name: string
  readonly description?: string
  /** A file or pipe of the VM's host from which the memory of a VM that is on is read; default: a snapshot of the disks alone. */
  readonly memory?: string
  readonly signal?: AbortSignal
}

export interface RemoveSnapshotOptions {
  /** With all that were taken after it. */
  readonly children?: boolean
  readonly signal?: AbortSignal
}

type SnapshotOperation = 'createSnapshot' | 'revertToSnapshot' | 'removeSnapshot' | 'consolidateDisks'

/** Refused before a key is made. The host has the same rule. */
export function refuseSnapshots({ name, snapshots = 0 }: VmConfig): void {
  if (snapshots > 0)
    throw new VmsealError('VMSEAL_SNAPSHOTS_EXIST', `${name} has ${snapshots} snapshots`, {
      details: { subject: name },
    })
}

/** Chains that branch or are shared keep their keys: refused before a key is made. The host has the same rule. */
export function refuseChain({ name, chain }: VmConfig, depth: 'shallow' | 'deep'): void {
  if (chain === undefined || (chain === 'single' && depth === 'shallow')) return
  const reasons = {
    single: 'has disks that wait to be consolidated',
    tree: 'has snapshots that branch',
    linkedClone: 'is a linked clone',
    linkedCloneParent: 'has linked clones',
  }
  throw new VmsealError('VMSEAL_DISK_CHAIN', `${name} ${reasons[chain]}`, { details: { subject: name } })
}

/** By name or id; of several with one name the newest. */
export function findSnapshot({ snapshotTree = [] }: VmConfig, selector: string): SnapshotConfig {
  const found = snapshotTree.findLast(({ id, name }) => id === selector || name === selector)
  if (!found) throw notFound('snapshot', selector)
  return found
}

export class VmSnapshots {
  readonly #services: Services

  constructor(services: Services) {
    this.#services = services
  }

  async list(vm: VmRecord): Promise<readonly SnapshotConfig[]> {
    return (await this.#read(vm)).config.snapshotTree ?? []
  }

  create(vm: VmRecord, options: CreateSnapshotOptions, context: TaskContext): Promise<VmRecord> {
    const { name, description, memory } = options
    const spec = {
      snapshotId: randomUUID(),
      name,
      ...(description === undefined ? {} : { description }),
      ...(memory === undefined ? {} : { memory }),
    }
    return this.#run(vm, 'createSnapshot', `snapshot ${name}`, context, (api, record, work) =>
      api.createSnapshot(referenceOf(record), spec, work),
    )
  }

  async revert(vm: VmRecord, selector: string, context: TaskContext): Promise<VmRecord> {
    const { id, name } = findSnapshot((await this.#read(vm)).config, selector)
    return this.#run(vm, 'revertToSnapshot', `revert to ${name}`, context, (api, record, work) =>
      api.revertToSnapshot(referenceOf(record), id, work),
    )
  }

  async remove(vm: VmRecord, selector: string, children: boolean, context: TaskContext): Promise<VmRecord> {
    const { id, name } = findSnapshot((await this.#read(vm)).config, selector)
    return this.#run(vm, 'removeSnapshot', `remove ${name}`, context, (api, record, work) =>
      api.removeSnapshot(referenceOf(record), id, children, work),
    )
  }

  async removeAll(vm: VmRecord, context: TaskContext): Promise<VmRecord> {
    let record = vm
    const roots = (await this.list(vm)).filter(({ parent }) => parent === undefined)
    for (const { id } of roots) record = await this.remove(record, id, true, context)
    return record
  }

  consolidate(vm: VmRecord, context: TaskContext): Promise<VmRecord> {
    return this.#run(vm, 'consolidateDisks', 'consolidate the disks', context, (api, record, work) =>
      api.consolidateDisks(referenceOf(record), work),
    )
  }

  async #read(vm: VmRecord): Promise<{ record: VmRecord; config: VmConfig; host: HostConnection }> {
    const { connections, inventory } = this.#services
    const host = connections.place(vm.clusterId, vm.datastore, { preferred: vm.hostId })
    return { ...(await inventory.read(vm, host)), host }
  }

  async #run(
    vm: VmRecord,
    operation: SnapshotOperation,
    work: string,
    { signal, onProgress, step }: TaskContext,
    request: (api: HostApi, record: VmRecord, work: Work) => Promise<VmConfig>,
  ): Promise<VmRecord> {
    const { events, inventory } = this.#services
    const { record, host } = await this.#read(vm)
    refuseCancelled(signal)
    const subject = { operation, vm: record.name, host: host.name, keys: keysOf(record) }
    try {
      const config = await recordOperation(events, subject, () => {
        step({ actor: 'host', action: 'work started', host: host.name, work })
        const act = () => host.call((api) => request(api, record, { signal, onProgress }))
        return new VmUnlocking(this.#services).withKeys(record, host, act, step)
      })
      step({ actor: 'host', action: 'work committed', host: host.name })
      return await inventory.absorb(record, config, host, { moved: true })
    } catch (error) {
      // A removal that stopped in the middle has merged some files: the store names what the files name.
      await inventory.read(record, host).catch(() => {})
      throw error
    }
  }
}
