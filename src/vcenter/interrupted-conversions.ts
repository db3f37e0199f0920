/**
 * Conversions in place that nothing works on: after a failure, a cancel, a kill of the host or of vCenter. vCenter does not go on with
 * them by itself, because whoever stopped one may have meant it; an event, and the alarm that follows from it, say what to do.
 */
import type { VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import type { HostConnection } from './host-connections.js'
import type { Services } from './services.js'

type Needed = Pick<Services, 'store' | 'events' | 'tasks' | 'networkHosts'>

export class InterruptedConversions {
  readonly #services: () => Needed
  /** Ids of the VMs that were told of; those of an earlier process are found by their alarms. */
  #told: Promise<Set<string>> | undefined

  constructor(services: () => Needed) {
    this.#services = services
  }

  /**
   * Draws its conclusions from what `host` shows of a VM, and tells each once. A conversion that a task of this vCenter, or the host
   * for an earlier one, works on is none; `taskFailed`: the task that asks has just given it up.
   */
  async note(
    { id, name }: VmRecord,
    { disks }: VmConfig,
    host: HostConnection,
    { taskFailed = false } = {},
  ): Promise<void> {
    const open = disks.flatMap(({ device, conversion }) => (conversion ? [{ device, ...conversion }] : []))
    const told = await (this.#told ??= this.#alarmed())
    const { events } = this.#services()
    if (open.length === 0) {
      if (told.delete(id))
        await events.append('vmseal.vm.crypto.ConversionEnded', { vm: name, host: host.name })
      return
    }
    if (told.has(id) || (!taskFailed && (await this.#isWorkedOn(id, host)))) return
    told.add(id)
    await events.append('vmseal.vm.crypto.ConversionInterrupted', { vm: name, host: host.name, disks: open })
  }

  /** A store that failed is asked again the next time. */
  #alarmed(): Promise<Set<string>> {
    return this.#vmsWithAlarms().catch((error: unknown) => {
      this.#told = undefined
      throw error
    })
  }

  async #vmsWithAlarms(): Promise<Set<string>> {
    const { store } = this.#services()
    const alarms = (await store.alarms.list()).filter(({ kind }) => kind === 'vm.conversion')
    const records = await Promise.all(
      alarms.map(({ entity }) => store.virtualMachines.findByName(entity.name)),
    )
    return new Set(records.flatMap((record) => (record ? [record.id] : [])))
  }

  async #isWorkedOn(id: string, host: HostConnection): Promise<boolean> {
    const { tasks, networkHosts } = this.#services()
    return tasks.isWorkingOn(id) || networkHosts.isWorking(host.hostId)
  }
}
