/** A VM that is off gets another datastore: its files move as they lie, encrypted ones as ciphertext. vSphere's RelocateVM_Task. */
import { VmsealError } from '../errors.js'
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import { withoutKeys } from './key-distribution.js'
import type { Services } from './services.js'
import { refuseCancelled, type TaskContext } from './task.js'
import { keysOf, referenceOf } from './vm-record.js'

export interface RelocateOptions {
  /** Of the host that the VM is registered on. */
  readonly datastore: string
  readonly signal?: AbortSignal
}

export class VmRelocation {
  readonly #services: Services

  constructor(services: Services) {
    this.#services = services
  }

  /** The VM is whole on one of the two datastores at every instant; on a failure or cancel on the one that it was on. */
  async relocate(vm: VmRecord, options: RelocateOptions, context: TaskContext): Promise<VmRecord> {
    const { access, inventory, events, intents } = this.#services
    const { datastore } = options
    if (typeof datastore !== 'string')
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'datastore is the name of a datastore')
    await access.require('Datastore.AllocateSpace', { type: 'datastore', id: datastore })
    const keys = withoutKeys(keysOf(vm), [])
    if (keys.length > 0) await access.require('Cryptographer.Migrate', { type: 'vm', id: vm.id })
    const host = this.#hostOf(vm, datastore)
    await inventory.requireNotRunning(vm)
    if (vm.datastore === datastore) {
      context.step({ actor: 'vcenter', action: 'nothing to change' })
      return vm
    }
    refuseCancelled(context.signal)
    const { signal, onProgress, step } = context
    const place = { datastore, vmx: vm.vmx }
    const moved = await intents.during(
      {
        vmId: vm.id,
        kind: 'relocate',
        clusterId: vm.clusterId,
        ...place,
        keys,
        homePolicyId: vm.homePolicyId,
        diskPolicyIds: {},
      },
      async () => {
        const subject = { operation: 'relocate', vm: vm.name, host: host.name, keys } as const
        const config = await recordOperation(events, subject, () => {
          step({ actor: 'host', action: 'work started', host: host.name, work: `move ${vm.name}` })
          const work = { signal, onProgress }
          return host.call((api) => api.moveVirtualMachine(referenceOf(vm), datastore, work))
        })
        step({ actor: 'host', action: 'work committed', host: host.name })
        return inventory.absorb(vm, config, host, { place })
      },
    )
    await events.append('vim.event.VmRelocatedEvent', {
      vm: vm.name,
      host: host.name,
      datastore,
      sourceDatastore: vm.datastore,
    })
    return moved
  }

  /** Nobody else does it: the VM may be on there. */
  #hostOf(vm: VmRecord, datastore: string): HostConnection {
    const { connections } = this.#services
    const host = connections.place(vm.clusterId, vm.datastore, { preferred: vm.hostId })
    if (vm.hostId !== null && host.hostId !== vm.hostId)
      throw new VmsealError('VMSEAL_HOST_UNREACHABLE', `the host of ${vm.name} does not answer`, {
        details: { subject: vm.name },
      })
    if (host.has(datastore)) return host
    throw new VmsealError(
      'VMSEAL_NOT_FOUND',
      `host ${host.name} has no datastore ${datastore}: migrate ${vm.name} to a host that has both first`,
      { details: { subject: datastore } },
    )
  }
}
