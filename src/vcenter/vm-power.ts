/** A VM is powered on and off. */
import type { VmRecord } from '../store/store.js'
import type { HostConnection } from './host-connections.js'
import type { Services } from './services.js'
import type { TaskContext } from './task.js'
import { referenceOf } from './vm-record.js'
import { VmUnlocking } from './vm-unlocking.js'

export class VmPower {
  readonly #services: Services

  constructor(services: Services) {
    this.#services = services
  }

  /** The VM runs nowhere else. Keys that the host lacks are fetched. */
  async on(vm: VmRecord, host: HostConnection, { step }: TaskContext): Promise<VmRecord> {
    await this.#services.inventory.requireNotRunning(vm)
    const powerOn = () => host.call((api) => api.powerOn(referenceOf(vm)))
    const config = await new VmUnlocking(this.#services).withKeys(vm, host, powerOn, step)
    return this.#services.inventory.absorb(vm, config, host, { moved: true })
  }

  async off(vm: VmRecord, host: HostConnection): Promise<VmRecord> {
    const config = await host.call((api) => api.powerOff(referenceOf(vm)))
    return this.#services.inventory.absorb(vm, config, host, { moved: true })
  }
}
