/** One start of a host: everything that a restart loses, and the requests that it has to end first. */
import { randomUUID } from 'node:crypto'
import type { VmConfig, Work } from '../rpc/host-api.js'
import type { Datastores } from './datastores.js'
import { DiskAccess } from './disk-access.js'
import { DiskConsolidation } from './disk-consolidation.js'
import { EncryptionMode } from './encryption-mode.js'
import { GuestStates } from './guest-state.js'
import type { HostContext } from './host-context.js'
import type { HostOptions } from './host-options.js'
import { interruptedKeysOf } from './interrupted-request.js'
import { ioError } from './io-error.js'
import { KeyCache } from './key-cache.js'
import { registerBoot } from './lock.js'
import { LiveMigrations } from './live-migration.js'
import { PoweredOnVms } from './power.js'
import { Snapshots } from './snapshots.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { readConsistently, readVirtualMachine, toConfig } from './vm-config.js'

export class Boot {
  readonly id = randomUUID()
  readonly keys: KeyCache
  readonly mode: EncryptionMode
  readonly context: HostContext
  readonly powered: PoweredOnVms
  readonly disks: DiskAccess
  readonly guests: GuestStates
  readonly consolidation: DiskConsolidation
  readonly snapshots: Snapshots
  readonly migrations: LiveMigrations
  readonly #hostName: string
  readonly #stopping = new AbortController()
  readonly #requests = new Set<Promise<unknown>>()
  readonly #unregister: () => void

  constructor(
    hostId: string,
    { name, now, freeBytes, encryptedMigration = true }: HostOptions,
    datastores: Datastores,
  ) {
    this.#hostName = name
    this.keys = new KeyCache(hostId, now)
    this.mode = new EncryptionMode(name, this.keys)
    this.context = {
      name,
      owner: { hostId, bootId: this.id },
      keys: this.keys,
      freeBytes: (datastore) => (freeBytes ? freeBytes(datastore.name) : datastore.freeBytes()),
      datastores,
    }
    this.powered = new PoweredOnVms(this.context)
    this.disks = new DiskAccess(this.context, this.powered)
    this.guests = new GuestStates(this.context, this.powered)
    this.consolidation = new DiskConsolidation(this.context, this.powered)
    this.snapshots = new Snapshots(this.context, this.powered, this.consolidation)
    this.migrations = new LiveMigrations(this.context, this.powered, { encrypted: encryptedMigration, now })
    this.#unregister = registerBoot(this.id)
  }

  /** Runs a request that a halt waits for. Rejects with `VmsealError` only. */
  async serve<T>(request: (boot: Boot) => T | Promise<T>): Promise<T> {
    const running = (async () => request(this))()
    this.#requests.add(running)
    try {
      return await running
    } catch (error) {
      throw ioError(error, this.#hostName)
    } finally {
      this.#requests.delete(running)
    }
  }

  /** The work, which a halt cancels too. */
  stoppable(work: Work): Work {
    const signals = [this.#stopping.signal, ...(work.signal ? [work.signal] : [])]
    return { ...work, signal: AbortSignal.any(signals) }
  }

  async configOf(files: VirtualMachineFiles): Promise<VmConfig> {
    const vm = await readConsistently(files, () => readVirtualMachine(files))
    const interruptedKeys = await interruptedKeysOf(files, vm.description.generation)
    const config = toConfig(vm, files, this.keys, this.powered.isOn(files) ? 'poweredOn' : 'poweredOff')
    return { ...config, ...(interruptedKeys.length > 0 && { interruptedKeys }) }
  }

  /** Cancels what runs and waits for it, powers every VM off, and wipes every key. */
  async halt(): Promise<void> {
    this.#stopping.abort()
    await Promise.allSettled(this.#requests)
    try {
      await this.migrations.dispose()
      await this.powered.dispose()
    } finally {
      this.mode.dispose()
      this.keys.dispose()
      this.#unregister()
    }
  }
}
