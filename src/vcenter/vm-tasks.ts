/** Tasks on one VM: they take turns, a locked VM is unlocked first or refuses, and what is refused is on record. */
import { isVmsealError } from '../errors.js'
import type { VmRecord } from '../store/store.js'
import { recordRefusal } from './crypto-operation.js'
import type { CryptoOperationName } from './events.js'
import type { HostConnection } from './host-connections.js'
import type { Services } from './services.js'
import type { Task, TaskContext } from './task.js'
import type { VirtualMachineInfo } from './vm-inventory.js'
import { keysOf } from './vm-record.js'
import { VmUnlocking } from './vm-unlocking.js'

export interface HostOption {
  /** Name of the host of the VM's cluster; default: the one the VM is registered on. */
  readonly host?: string
}

export interface VmTaskOptions extends HostOption {
  readonly signal?: AbortSignal
}

export class VmTasks {
  readonly #vm: Pick<VmRecord, 'id' | 'name'>
  readonly #services: Services

  constructor(vm: Pick<VmRecord, 'id' | 'name'>, services: Services) {
    this.#vm = vm
    this.#services = services
  }

  /** Changes the VM on its host; ends with what the VM is then. */
  change(
    name: string,
    options: VmTaskOptions,
    change: (vm: VmRecord, context: TaskContext) => Promise<VmRecord>,
  ): Task<VirtualMachineInfo> {
    return this.run(name, options, async (vm, context) => {
      await change(vm, context)
      return this.#services.inventory.describe(this.#vm.id, this.#vm.name)
    })
  }

  /** Works on the VM on its host, which opens it. */
  run<Result>(
    name: string,
    options: VmTaskOptions,
    act: (vm: VmRecord, context: TaskContext) => Promise<Result>,
  ): Task<Result> {
    return this.begin(name, options.signal, async (vm, context) => {
      const host = this.host(vm, options.host)
      return this.recorded(name, vm, async () => {
        await new VmUnlocking(this.#services).refuseLocked(name, vm, host, context.step)
        return act(await this.record(), context)
      })
    })
  }

  /** Takes the VM away: it must not run. */
  end(name: string, act: (vm: VmRecord) => Promise<void>): Promise<void> {
    return this.begin(name, undefined, async (vm) => {
      await this.#services.inventory.requireNotRunning(vm)
      await this.recorded(name, vm, () => act(vm))
    }).done
  }

  /** Only waits for its turn: `act` sees to hosts, locks and `recorded` itself. */
  begin<Result>(
    name: string,
    signal: AbortSignal | undefined,
    act: (vm: VmRecord, context: TaskContext) => Promise<Result>,
  ): Task<Result> {
    return this.#services.tasks.start({
      name,
      entity: this.#vm.name,
      lane: this.#vm.id,
      signal,
      run: async (context) => act(await this.record(), context),
    })
  }

  /**
   * What is refused is on record, with whom and why: every operation with keys, and of the others what fails for a key that cannot
   * be had.
   */
  async recorded<Result>(task: string, vm: VmRecord, act: () => Promise<Result>): Promise<Result> {
    const { events, connections } = this.#services
    const host = (vm.hostId === null ? undefined : connections.get(vm.hostId)?.name) ?? ''
    const subject = { vm: vm.name, host, keys: keysOf(vm) }
    const operation = cryptoTasks[task]
    if (operation) return recordRefusal(events, { ...subject, operation }, act)
    try {
      return await act()
    } catch (error) {
      if (!isVmsealError(error, 'VMSEAL_ENCRYPTION_KEY_REQUIRED')) throw error
      const refused = otherTasks[task] ?? 'access'
      return recordRefusal(events, { ...subject, operation: refused }, () => Promise.reject(error))
    }
  }

  /** VMSEAL_NOT_FOUND when the VM is no longer in the inventory. */
  record(): Promise<VmRecord> {
    return this.#services.inventory.require(this.#vm.id, this.#vm.name)
  }

  host(vm: VmRecord, name: string | undefined): HostConnection {
    return this.#services.connections.place(vm.clusterId, vm.datastore, { name, preferred: vm.hostId })
  }
}

/** The tasks that have to do with keys, whatever they do. */
const cryptoTasks: Readonly<Record<string, CryptoOperationName>> = {
  'VirtualMachine.applyPolicy': 'reconfigure',
  'VirtualMachine.apply': 'reconfigure',
  'VirtualMachine.addDisk': 'reconfigure',
  'VirtualMachine.attachDisk': 'reconfigure',
  'VirtualMachine.recrypt': 'recrypt',
  'VirtualMachine.unlock': 'unlock',
  'VirtualMachine.resumeConversion': 'reconfigure',
  'VirtualMachine.createSnapshot': 'createSnapshot',
  'VirtualMachine.revertToSnapshot': 'revertToSnapshot',
  'VirtualMachine.removeSnapshot': 'removeSnapshot',
  'VirtualMachine.removeAllSnapshots': 'removeSnapshot',
  'VirtualMachine.consolidateDisks': 'consolidateDisks',
  'VirtualMachine.clone': 'clone',
  'VirtualMachine.migrate': 'migrate',
  'VirtualMachine.liveMigrate': 'migrate',
  'VirtualMachine.setMigrateEncryption': 'reconfigure',
  'VirtualMachine.relocate': 'relocate',
  'VirtualMachine.export': 'export',
}

const otherTasks: Readonly<Record<string, CryptoOperationName>> = {
  'VirtualMachine.powerOn': 'powerOn',
  'VirtualMachine.destroy': 'destroy',
  'VirtualMachine.detachDisk': 'reconfigure',
}
