/** The VMs that a host has powered on: their lock, VM home DEK and open disks. */
import { VmsealError } from '../errors.js'
import type { DiskHandle, KeyHandle } from '../native/load.js'
import { keyRequired, missingKeysOfDisk, openDisk, refuseInConversion, type DiskState } from './disks.js'
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

  /** Opens VM home and every disk, and keeps the VM's lock until it is powered off. */
  async powerOn(files: VirtualMachineFiles): Promise<void> {
    if (this.isOn(files)) throw invalidPowerState(files, 'it is powered on already')
    const lock = await takeVirtualMachine(this.#context, files)
    try {
      const opened = openVm(this.#context, files, await readVirtualMachine(files))
      this.#running.set(files.directory, { files, lock, work: Promise.resolve(), ...opened })
    } catch (error) {
      await lock.release()
      throw error
    }
    await logLine(files, this.#context.name, 'powered on')
  }

  async powerOff(files: VirtualMachineFiles): Promise<void> {
    const running = this.#running.get(files.directory)
    if (running === undefined) throw invalidPowerState(files, 'it is not powered on')
    this.#running.delete(files.directory)
    await running.work
    close(running)
    await running.lock.release()
    await logLine(files, this.#context.name, 'powered off')
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
      disks.set(disk.diskId, openDisk(disk, vm.description.vmId, context.keys, files))
    return opened
  } catch (error) {
    close(opened)
    throw error
  }
}

function requireEveryKey(context: HostContext, files: VirtualMachineFiles, vm: VirtualMachine): void {
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

function invalidPowerState(files: VirtualMachineFiles, reason: string): VmsealError {
  const subject = files.label(files.vmx)
  return new VmsealError('VMSEAL_INVALID_POWER_STATE', `${subject}: ${reason}`, { details: { subject } })
}
