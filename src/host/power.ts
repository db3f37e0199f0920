/** The VMs that a host has powered on: their lock, VM home DEK and open disks. */
import { VmsealError } from '../errors.js'
import type { DiskHandle, KeyHandle } from '../native/load.js'
import { openForGuest } from './disk-chain.js'
import { keyRequired, missingKeysOfDisk, refuseInConversion, type DiskState } from './disks.js'
import { holdVirtualMachine, takeVirtualMachine, type HostContext } from './host-context.js'
import type { VirtualMachineLock } from './lock.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import {
  keysRequired,
  missingHomeKeys,
  missingKeysOf,
  openHomeOf,
  readVirtualMachine,
  type VirtualMachine,
} from './vm-config.js'
import { logLine } from './vm-log.js'

interface RunningVm {
  readonly files: VirtualMachineFiles
  readonly lock: VirtualMachineLock
  readonly homeDek?: KeyHandle
  readonly disks: ReadonlyMap<string, DiskHandle>
  /** Ends with the work on its files that goes on while it runs. */
  work: Promise<unknown>
  /** Writes of the guest that are under way. */
  readonly writes: Set<Promise<void>>
  /** The guest's writes wait until this ends. */
  still: Promise<unknown>
}

export class PoweredOnVms {
  readonly #context: HostContext
  readonly #running = new Map<string, RunningVm>()

  constructor(context: HostContext) {
    this.#context = context
  }

  isOn(files: VirtualMachineFiles): boolean {
    return this.#running.has(files.directory)
  }

  requireOff(files: VirtualMachineFiles): void {
    if (this.isOn(files)) throw invalidPowerState(files, 'it is powered on and must be powered off')
  }

  /** VMSEAL_INVALID_STATE while an encrypted VM is on. */
  requireNoneEncrypted(): void {
    for (const { files, homeDek } of this.#running.values())
      if (homeDek !== undefined) {
        const subject = files.label(files.vmx)
        throw new VmsealError('VMSEAL_INVALID_STATE', `${subject} is encrypted and powered on`, {
          details: { subject },
        })
      }
  }

  /** The open disk of a VM that is on. */
  disk(files: VirtualMachineFiles, diskId: string): DiskHandle | undefined {
    return this.#running.get(files.directory)?.disks.get(diskId)
  }

  /**
   * Runs `body` while the VM's lock is held: its own if it is on, which it keeps until `body` has ended. `homeDek` is
   * the open DEK of an encrypted VM that is on.
   */
  async hold<T>(
    files: VirtualMachineFiles,
    body: (lock: VirtualMachineLock, homeDek: KeyHandle | undefined) => Promise<T>,
  ): Promise<T> {
    const running = this.#running.get(files.directory)
    if (running === undefined)
      return holdVirtualMachine(this.#context, files, (lock) => body(lock, undefined))
    const turn = running.work.then(() => body(running.lock, running.homeDek))
    running.work = turn.catch(() => {})
    return turn
  }

  /** A write of the guest; undefined: the VM is off. Durable when it resolves. */
  write(
    files: VirtualMachineFiles,
    diskId: string,
    offset: number,
    data: Uint8Array,
  ): Promise<void> | undefined {
    const running = this.#running.get(files.directory)
    if (running === undefined) return undefined
    return this.#write(running, diskId, offset, data)
  }

  /** Runs `body` while no write of the guest is under way and every disk is durable. The VM's lock is held. */
  async stunned<T>(files: VirtualMachineFiles, body: () => Promise<T>): Promise<T> {
    const running = this.#running.get(files.directory)
    if (running === undefined) return body()
    const earlier = running.still
    let resume = (): void => {}
    running.still = new Promise<void>((resolve) => (resume = resolve))
    try {
      await earlier
      await Promise.allSettled(running.writes)
      for (const disk of running.disks.values()) await disk.flush()
      return await body()
    } finally {
      resume()
    }
  }

  /** Opens VM home and every disk, and keeps the VM's lock until it is powered off. */
  async powerOn(files: VirtualMachineFiles): Promise<void> {
    if (this.isOn(files)) throw invalidPowerState(files, 'it is powered on already')
    const lock = await takeVirtualMachine(this.#context, files)
    try {
      await this.run(files, lock)
    } catch (error) {
      await lock.release()
      throw error
    }
    await logLine(files, this.#context.name, 'powered on')
  }

  /** Runs a VM whose lock is held; when it cannot be opened, the lock is the caller's. */
  async run(files: VirtualMachineFiles, lock: VirtualMachineLock): Promise<void> {
    const opened = openVm(this.#context, files, await readVirtualMachine(files))
    this.#running.set(files.directory, {
      files,
      lock,
      work: Promise.resolve(),
      writes: new Set(),
      still: Promise.resolve(),
      ...opened,
    })
  }

  /**
   * Ends the VM here without giving its lock back: no work on its files goes on, what the guest wrote is durable, and every disk and
   * key is closed. Gives the lock. A write that comes later is refused.
   */
  async leave(files: VirtualMachineFiles): Promise<VirtualMachineLock> {
    const running = this.#running.get(files.directory)
    if (running === undefined) throw invalidPowerState(files, 'it is not powered on')
    return this.hold(files, (lock) =>
      this.stunned(files, async () => {
        if (this.#running.get(files.directory) !== running)
          throw invalidPowerState(files, 'it was powered off meanwhile')
        await lock.assertHeld()
        this.#running.delete(files.directory)
        close(running)
        return lock
      }),
    )
  }

  async powerOff(files: VirtualMachineFiles): Promise<void> {
    const running = this.#running.get(files.directory)
    if (running === undefined) throw invalidPowerState(files, 'it is not powered on')
    this.#running.delete(files.directory)
    await running.work
    await this.#end(running)
    close(running)
    await running.lock.release()
    await logLine(files, this.#context.name, 'powered off')
  }

  async #write(running: RunningVm, diskId: string, offset: number, data: Uint8Array): Promise<void> {
    for (let waited; waited !== running.still;) await (waited = running.still)
    if (this.#running.get(running.files.directory) !== running)
      throw invalidPowerState(running.files, 'it runs here no more')
    const disk = running.disks.get(diskId)
    if (disk === undefined)
      throw new VmsealError(
        'VMSEAL_NOT_FOUND',
        `${running.files.label(running.files.vmx)} has no disk ${diskId}`,
      )
    const write = disk.write(offset, data).then(() => disk.flush())
    running.writes.add(write)
    try {
      await write
    } finally {
      running.writes.delete(write)
    }
  }

  /** What the guest wrote is durable before its disks are closed. */
  async #end({ writes, disks }: RunningVm): Promise<void> {
    await Promise.allSettled(writes)
    for (const disk of disks.values()) await disk.flush().catch(() => {})
  }

  /** All VMs off, as when the host loses power: every key is wiped before the first lock is given back. */
  async dispose(): Promise<void> {
    const running = [...this.#running.values()]
    this.#running.clear()
    for (const vm of running) close(vm)
    for (const { lock } of running) await lock.release()
  }
}

function close({ homeDek, disks }: Pick<RunningVm, 'homeDek' | 'disks'>): void {
  homeDek?.dispose()
  for (const disk of disks.values()) disk.close()
}

function openVm(context: HostContext, files: VirtualMachineFiles, vm: VirtualMachine) {
  for (const disk of vm.disks) refuseInConversion(disk, files)
  requireEveryKey(context, files, vm)
  const disks = new Map<string, DiskHandle>()
  const homeDek = openHomeOf(vm, context.keys, files)?.dek
  const opened = { disks, ...(homeDek && { homeDek }) }
  try {
    for (const disk of vm.disks)
      disks.set(disk.diskId, openForGuest(disk, vm.description.vmId, context.keys, files))
    return opened
  } catch (error) {
    close(opened)
    throw error
  }
}

/** VMSEAL_ENCRYPTION_KEY_REQUIRED naming the ids, and the disk if VM home is not what lacks one. */
export function requireEveryKey(context: HostContext, files: VirtualMachineFiles, vm: VirtualMachine): void {
  const missing = missingKeysOf(vm, context.keys)
  if (missing.length === 0) return
  const homeMissing = missingHomeKeys(vm, context.keys).length > 0
  const lacking = (candidate: DiskState) => missingKeysOfDisk(candidate, context.keys).length > 0
  const disk = homeMissing ? undefined : vm.disks.find(lacking)
  if (disk === undefined) throw keysRequired(files, missing)
  const { message, details } = keyRequired(disk, files)
  throw new VmsealError('VMSEAL_ENCRYPTION_KEY_REQUIRED', message, {
    details: { ...details, requiredKeys: missing },
  })
}

export function invalidPowerState(files: VirtualMachineFiles, reason: string): VmsealError {
  const subject = files.label(files.vmx)
  return new VmsealError('VMSEAL_INVALID_POWER_STATE', `${subject}: ${reason}`, { details: { subject } })
}
