/** Disks as a guest sees them, whether their VM is on or off. */
import { VmsealError } from '../errors.js'
import type { DiskHandle } from '../native/load.js'
import type { Work } from '../rpc/host-api.js'
import { openForGuest, openForReading } from './disk-chain.js'
import { holdVirtualMachine, type HostContext } from './host-context.js'
import type { PoweredOnVms } from './power.js'
import { checkData, checkRange, checkUuid } from './requests.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { readConsistently, readVirtualMachine, type VirtualMachine } from './vm-config.js'
import { WorkMeter } from './work.js'

/** Of one read or write, in bytes. */
const accessLimit = 1024 * 1024

export class DiskAccess {
  readonly #context: HostContext
  readonly #powered: PoweredOnVms

  constructor(context: HostContext, powered: PoweredOnVms) {
    this.#context = context
    this.#powered = powered
  }

  /** SHA-256 in hex. */
  digest(
    files: VirtualMachineFiles,
    diskId: string,
    work: Work,
  ): Promise<{ readonly sha256: string; readonly bytes: number }> {
    return this.#open(files, diskId, async (disk) => {
      const bytes = disk.capacityBytes
      const step = { label: `digest ${diskId}`, bytes, start: () => disk.digest() }
      const meter = new WorkMeter(work, [step])
      const { sha256 } = JSON.parse(await meter.run(step)) as { sha256: string }
      meter.finish(step.label)
      return { sha256, bytes }
    })
  }

  /** Base64. */
  async read(files: VirtualMachineFiles, diskId: string, offset: number, length: number): Promise<string> {
    checkRange(offset, length, accessLimit)
    return this.#open(files, diskId, async (disk) => {
      if (offset + length > disk.capacityBytes)
        throw new VmsealError(
          'VMSEAL_INVALID_ARGUMENT',
          `the disk has ${disk.capacityBytes} bytes; ${length} bytes from ${offset} reach beyond its end`,
        )
      return (await disk.read(offset, length)).toString('base64')
    })
  }

  /** `data`: base64. Durable when it resolves. */
  async write(files: VirtualMachineFiles, diskId: string, offset: number, data: string): Promise<void> {
    const bytes = checkData(data, accessLimit)
    checkRange(offset, bytes.length, accessLimit)
    checkUuid(diskId, 'diskId')
    await (this.#powered.write(files, diskId, offset, bytes) ?? this.#writeOff(files, diskId, offset, bytes))
  }

  /** The open disk of a VM that is on, else one that is opened for the time of `use`. */
  async #open<T>(
    files: VirtualMachineFiles,
    diskId: string,
    use: (disk: DiskHandle) => Promise<T>,
  ): Promise<T> {
    checkUuid(diskId, 'diskId')
    const open = this.#powered.disk(files, diskId)
    if (open !== undefined) return use(open)
    const disk = await readConsistently(files, async () => {
      const vm = await readVirtualMachine(files)
      const found = requireDisk(vm, diskId, files)
      return openForReading(found, vm.description.vmId, this.#context.keys, files)
    })
    try {
      return await use(disk)
    } finally {
      disk.close()
    }
  }

  #writeOff(files: VirtualMachineFiles, diskId: string, offset: number, data: Uint8Array): Promise<void> {
    return holdVirtualMachine(this.#context, files, async () => {
      const vm = await readVirtualMachine(files)
      const disk = requireDisk(vm, diskId, files)
      const handle = openForGuest(disk, vm.description.vmId, this.#context.keys, files)
      try {
        await handle.write(offset, data)
        await handle.flush()
      } finally {
        handle.close()
      }
    })
  }
}

function requireDisk(vm: VirtualMachine, diskId: string, files: VirtualMachineFiles) {
  const disk = vm.disks.find((candidate) => candidate.diskId === diskId)
  if (disk !== undefined) return disk
  throw new VmsealError('VMSEAL_NOT_FOUND', `${files.label(files.vmx)} has no disk ${diskId}`)
}
