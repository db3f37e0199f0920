/** The disks of a change that is planned: copies under other keys, new disks and attached ones. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { KeyHandle } from '../native/load.js'
import type { AttachDisk, NewDisk, ReconfigureSpec } from '../rpc/host-api.js'
import { planAttachment } from './attachment.js'
import { resumeCopyStep, standingOfCopy, verifyStep } from './conversion-steps.js'
import type { Datastore } from './datastore.js'
import {
  copyBytes,
  decryptStep,
  deepRecryptStep,
  encryptStep,
  newDiskStep,
  openDisk,
  openingKek,
  type DiskState,
  type OpenableDisk,
} from './disks.js'
import type { DiskEntry } from './home-description.js'
import type { HostContext } from './host-context.js'
import { newKeyOf } from './interrupted-request.js'
import type { PlannedWork } from './planned-work.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { keysRequired, type VirtualMachine } from './vm-config.js'
import type { WorkStep } from './work.js'

export type DiskChange = NonNullable<ReconfigureSpec['disks']>[number]

/** Each call plans one disk, and returns what the .vmx says of it afterwards. */
export class DiskChanges {
  readonly #context: HostContext
  readonly #files: VirtualMachineFiles
  readonly #vm: VirtualMachine
  readonly #generation: number
  readonly #planned: PlannedWork
  readonly #sealedTargets: OpenableDisk[] = []

  /** `generation`: the one that the change makes. */
  constructor(
    context: HostContext,
    files: VirtualMachineFiles,
    vm: VirtualMachine,
    generation: number,
    planned: PlannedWork,
  ) {
    this.#context = context
    this.#files = files
    this.#vm = vm
    this.#generation = generation
    this.#planned = planned
  }

  async convert(disk: DiskState, change: DiskChange): Promise<DiskEntry> {
    const file = this.#planned.newDisk()
    const { device, diskId } = disk
    this.#planned.superseded.push(...disk.files)
    this.#planned.overwritten.push(...disk.extents)
    this.#planned.neededBytes += await copyBytes(disk, this.#files)
    const { vmId } = this.#vm.description
    const key = newKeyOf(change.crypto)
    if (key === undefined) {
      const kek = openingKek(disk, vmId, this.#context.keys, this.#files)
      await this.#copy(disk, file, [kek], decryptStep(disk, file, kek, vmId, this.#files))
      return { device, diskId, file }
    }
    const { kek, spec } = this.#seal(diskId, key, change.sectorSize ?? disk.sectorSize)
    if (change.crypto.type === 'deepRecrypt') {
      const oldKek = openingKek(disk, vmId, this.#context.keys, this.#files)
      const step = deepRecryptStep(disk, file, oldKek, kek, spec, this.#files)
      await this.#copy(disk, file, [oldKek, kek], step)
    } else await this.#copy(disk, file, [kek], encryptStep(disk, file, kek, spec, this.#files))
    this.#sealedTargets.push({ diskId, file, keys: [key] })
    return { device, diskId, file, sealedGeneration: this.#generation }
  }

  add(disk: NewDisk, device: string): DiskEntry {
    const file = this.#planned.newDisk()
    const { diskId, key } = disk
    const seal = key && this.#seal(diskId, key, disk.sectorSize)
    if (key) this.#sealedTargets.push({ diskId, file, keys: [key] })
    const { step, neededBytes } = newDiskStep(disk, device, this.#files.path(file), seal)
    this.#planned.steps.push(step)
    this.#planned.neededBytes += neededBytes
    return { device, diskId, file, ...(seal && { sealedGeneration: this.#generation }) }
  }

  async attach(
    disk: AttachDisk,
    device: string,
    datastore: Datastore,
    homeIsSealed: boolean,
  ): Promise<DiskEntry> {
    const { entry, copy, keys } = await planAttachment(this.#context, datastore, disk, {
      files: this.#files,
      vmId: this.#vm.description.vmId,
      device,
      generation: this.#generation,
      freeName: () => this.#planned.newDisk(),
    })
    if (keys.length > 0) {
      if (!homeIsSealed)
        throw new VmsealError(
          'VMSEAL_ENCRYPTION_MISMATCH',
          'an encrypted disk cannot belong to a VM whose home is plain',
        )
      this.#sealedTargets.push({ diskId: entry.diskId, file: entry.file, keys })
    }
    if (copy) {
      this.#planned.steps.push(copy.step)
      this.#planned.neededBytes += copy.neededBytes
    }
    return entry
  }

  /** Opens every disk that was sealed, as the host will when the VM is powered on. */
  verify(): void {
    for (const disk of this.#sealedTargets)
      openDisk(disk, this.#vm.description.vmId, this.#context.keys, this.#files).close()
  }

  /** A copy, from where an interrupted one stood, and its verification. */
  async #copy(disk: DiskState, target: string, keks: readonly KeyHandle[], step: WorkStep): Promise<void> {
    const { vmId } = this.#vm.description
    const standing = standingOfCopy(target, this.#planned.made, this.#files)
    if (standing !== 'none') {
      const [, flat = '', secondCopy = '', , record = ''] = this.#files.filesOfDisk(target)
      const own = [target, flat, secondCopy, record].filter((name) => this.#planned.made.delete(name))
      for (const name of own) this.#planned.neededBytes -= await this.#files.allocatedBytes(name)
    }
    if (standing === 'begun') this.#planned.steps.push(resumeCopyStep(disk, target, keks, vmId, this.#files))
    if (standing === 'none') this.#planned.steps.push(step)
    this.#planned.verifications.push(verifyStep(disk, target, keks, vmId, this.#files))
  }

  #seal(diskId: string, key: CryptoKeyId, sectorSize = 512) {
    const kek = this.#context.keys.require(key, keysRequired(this.#files, [key]).message)
    const { vmId } = this.#vm.description
    const generation = this.#generation
    return {
      kek,
      spec: { keyId: key.keyId, providerId: key.providerId, vmId, diskId, generation, sectorSize },
    }
  }
}

export function diskOf(vm: VirtualMachine, diskId: string): DiskState {
  const disk = vm.disks.find((candidate) => candidate.diskId === diskId)
  if (disk === undefined) throw new VmsealError('VMSEAL_NOT_FOUND', `the VM has no disk ${diskId}`)
  return disk
}

export function entryOf({ device, file, diskId, sealedGeneration, becomes }: DiskState): DiskEntry {
  return {
    device,
    file,
    diskId,
    ...(sealedGeneration !== undefined && { sealedGeneration }),
    ...(becomes && { becomes }),
  }
}
