/** A VM leaves the inventory, with its files or without. */
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import type { Services } from './services.js'
import { isDiskFailure } from './vm-intents.js'
import { keysOf, referenceOf } from './vm-record.js'
import { VmUnlocking } from './vm-unlocking.js'

export class VmRemoval {
  readonly #services: Services

  constructor(services: Services) {
    this.#services = services
  }

  async unregister({ id, name }: VmRecord): Promise<void> {
    await this.#services.store.virtualMachines.remove(id)
    await this.#services.events.append('vim.event.VmRemovedEvent', { vm: name })
  }

  /** The files go first: a vCenter that ends in between knows by the intent that the VM may have none. */
  async destroy(vm: VmRecord, host: HostConnection): Promise<void> {
    const { events, intents, restoration } = this.#services
    await new VmUnlocking(this.#services).refuseLocked('VirtualMachine.destroy', vm, host, () => {})
    const subject = { operation: 'destroy', vm: vm.name, host: host.name, keys: keysOf(vm) } as const
    const destroyed = intents.during(
      {
        vmId: vm.id,
        kind: 'destroy',
        clusterId: vm.clusterId,
        ...referenceOf(vm),
        keys: keysOf(vm),
        homePolicyId: vm.homePolicyId,
        diskPolicyIds: Object.fromEntries(vm.disks.map(({ diskId, policyId }) => [diskId, policyId])),
      },
      async () => {
        await recordOperation(events, subject, () =>
          host.call((api) => api.destroyVirtualMachine(referenceOf(vm))),
        )
        await this.unregister(vm)
      },
    )
    await destroyed.catch((error: unknown) => {
      // What a failing disk left half done is finished, or found whole, as soon as it can be.
      if (isDiskFailure(error)) restoration.expect(host)
      throw error
    })
  }
}
