/** Encryption and decryption of a VM, all of it or parts, and new disks: one transaction. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import { native, type KeyHandle } from '../native/load.js'
import type { NewDisk, ReconfigureSpec, Work } from '../rpc/host-api.js'
import { checkChange } from './change-rules.js'
import type { Datastore } from './datastore.js'
import {
  copyBytes,
  decryptStep,
  encryptStep,
  keyRequired,
  missingKeyOf,
  newDiskStep,
  openDisk,
  type DiskState,
  type OpenableDisk,
} from './disks.js'
import { commitTransaction, type FileTransaction } from './file-transaction.js'
import {
  generationLimit,
  isIdentityKey,
  nextDevice,
  writeDescription,
  type DiskEntry,
  type HomeFile,
} from './home-description.js'
import { holdVirtualMachine, requireSpace, type HostContext } from './host-context.js'
import { FreeNames, type VirtualMachineFiles } from './virtual-machine-files.js'
import { distinctKeys, keysRequired, readVirtualMachine, type VirtualMachine } from './vm-config.js'
import {
  decryptHomeFile,
  encryptHomeFile,
  openHome,
  sealConfig,
  wrapHomeDek,
  type OpenHome,
} from './vm-home.js'
import { logLine } from './vm-log.js'
import { VmxDocument } from './vmx.js'
import { WorkMeter, type WorkStep } from './work.js'

/** Validates everything, then changes everything or nothing. The VM is powered off: the caller saw to that. */
export async function reconfigure(
  context: HostContext,
  datastore: Datastore,
  files: VirtualMachineFiles,
  spec: ReconfigureSpec,
  work: Work,
): Promise<void> {
  await holdVirtualMachine(context, files, async (lock) => {
    const vm = await readVirtualMachine(files)
    checkChange(statesOf(vm, files), spec)
    if (!spec.home && !spec.disks?.length && !spec.addDisks?.length) return
    requireKeys(context, files, vm, spec)
    const open = openEverything(context, files, vm, spec)
    try {
      const change = new ChangePlan(context, files, vm, open, new FreeNames(files, await files.list()))
      const transaction = await change.plan(spec)
      await requireSpace(context, datastore, change.neededBytes)
      const meter = new WorkMeter(work, transaction.steps)
      await commitTransaction(files, lock, transaction, meter)
      await logLine(files, context.name, `${change.summary}; generation ${transaction.generation}`)
      meter.finish('committed')
    } finally {
      open.dek?.dispose()
    }
  })
}

/** The DEK of VM home, before or after the change, whichever is sealed; absent: plain before and after. */
interface OpenState {
  readonly dek?: KeyHandle
  readonly secrets?: VmxDocument
}

function statesOf(vm: VirtualMachine, files: VirtualMachineFiles) {
  return {
    homeSealed: vm.homeKey !== undefined,
    disks: vm.disks.map(({ diskId, file, keys }) => ({
      diskId,
      sealed: keys.length > 0,
      label: files.label(file),
    })),
  }
}

function requireKeys(
  context: HostContext,
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  spec: ReconfigureSpec,
): void {
  const lacks = (key: CryptoKeyId | undefined) =>
    key && context.keys.get(key) === undefined ? key : undefined
  const missing = [lacks(vm.homeKey), lacks(spec.home?.type === 'encrypt' ? spec.home.key : undefined)]
  for (const { diskId, crypto } of spec.disks ?? []) {
    if (crypto.type === 'encrypt') missing.push(lacks(crypto.key))
    else {
      const disk = diskOf(vm, diskId)
      const key = missingKeyOf(disk, context.keys)
      if (key && missing.every((other) => other === undefined) && spec.disks?.length === 1)
        throw keyRequired(disk, key, files)
      missing.push(key)
    }
  }
  for (const { key } of spec.addDisks ?? []) missing.push(lacks(key))
  const required = distinctKeys(missing)
  if (required.length > 0) throw keysRequired(files, required)
}

/** Opens VM home, and every disk of the change once: what cannot be opened is found before the first write. */
function openEverything(
  context: HostContext,
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  spec: ReconfigureSpec,
): OpenState {
  for (const { diskId } of spec.disks ?? [])
    openDisk(diskOf(vm, diskId), vm.description.vmId, context.keys, files).close()
  const { wrap } = vm.description
  if (wrap === undefined || vm.homeKey === undefined)
    return spec.home?.type === 'encrypt' ? { dek: native.KeyHandle.generate(32) } : {}
  const kek = context.keys.require(vm.homeKey, keysRequired(files, [vm.homeKey]).message)
  const opened: OpenHome = openHome(vm.description, wrap, kek, files)
  return opened
}

function diskOf(vm: VirtualMachine, diskId: string): DiskState {
  const disk = vm.disks.find((candidate) => candidate.diskId === diskId)
  if (disk === undefined) throw new VmsealError('VMSEAL_NOT_FOUND', `the VM has no disk ${diskId}`)
  return disk
}

/** Collects the files, steps and .vmx lines of a change. */
class ChangePlan {
  /** Room that the new files take. */
  neededBytes = 0
  readonly #context: HostContext
  readonly #files: VirtualMachineFiles
  readonly #vm: VirtualMachine
  readonly #open: OpenState
  readonly #names: FreeNames
  readonly #generation: number
  readonly #created: string[] = []
  readonly #superseded: string[] = []
  readonly #steps: WorkStep[] = []
  readonly #sealedTargets: OpenableDisk[] = []

  constructor(
    context: HostContext,
    files: VirtualMachineFiles,
    vm: VirtualMachine,
    open: OpenState,
    names: FreeNames,
  ) {
    this.#context = context
    this.#files = files
    this.#vm = vm
    this.#open = open
    this.#names = names
    this.#generation = vm.description.generation + 1
    if (this.#generation > generationLimit)
      throw new VmsealError('VMSEAL_VMX_INVALID', `vmseal.gen of ${files.label(files.vmx)} has no successor`)
  }

  /** One line for the log. */
  get summary(): string {
    return this.#steps.length > 0 ? this.#steps.map(({ label }) => label).join(', ') : 'VM home changed'
  }

  async plan(spec: ReconfigureSpec): Promise<FileTransaction> {
    const { description } = this.#vm
    const disks = await this.#convertDisks(spec)
    for (const disk of spec.addDisks ?? []) disks.push(this.#addDisk(disk, nextDevice(disks)))
    const homeFiles = spec.home ? await this.#convertHomeFiles(spec.home.type) : description.homeFiles
    const { document, wrap } = this.#composeHome(spec.home)
    const { vmId, name } = description
    const generation = this.#generation
    writeDescription(document, { vmId, name, generation, disks, homeFiles, ...(wrap && { wrap }) })
    return {
      generation,
      created: this.#created,
      superseded: this.#superseded,
      steps: this.#steps,
      vmx: document,
      verify: () => {
        for (const disk of this.#sealedTargets) openDisk(disk, vmId, this.#context.keys, this.#files).close()
      },
    }
  }

  async #convertDisks(spec: ReconfigureSpec): Promise<DiskEntry[]> {
    const entries: DiskEntry[] = []
    for (const disk of this.#vm.disks) {
      const change = spec.disks?.find(({ diskId }) => diskId === disk.diskId)
      entries.push(change === undefined ? entryOf(disk) : await this.#convertDisk(disk, change))
    }
    return entries
  }

  async #convertDisk(
    disk: DiskState,
    change: NonNullable<ReconfigureSpec['disks']>[number],
  ): Promise<DiskEntry> {
    const file = this.#newDiskFiles()
    const { device, diskId } = disk
    this.#superseded.push(...disk.files)
    this.neededBytes += await copyBytes(disk, this.#files)
    if (change.crypto.type === 'decrypt') {
      this.#steps.push(decryptStep(disk, file, this.#vm.description.vmId, this.#context.keys, this.#files))
      return { device, diskId, file }
    }
    const { kek, spec } = this.#seal(diskId, change.crypto.key, change.sectorSize)
    this.#steps.push(encryptStep(disk, file, kek, spec, this.#files))
    this.#sealedTargets.push({ diskId, file, keys: [change.crypto.key] })
    return { device, diskId, file, sealedGeneration: this.#generation }
  }

  #addDisk(disk: NewDisk, device: string): DiskEntry {
    const file = this.#newDiskFiles()
    const { diskId, key } = disk
    const seal = key && this.#seal(diskId, key, disk.sectorSize)
    if (key) this.#sealedTargets.push({ diskId, file, keys: [key] })
    const { step, neededBytes } = newDiskStep(disk, device, this.#files.path(file), seal)
    this.#steps.push(step)
    this.neededBytes += neededBytes
    return { device, diskId, file, ...(seal && { sealedGeneration: this.#generation }) }
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

  async #convertHomeFiles(type: 'encrypt' | 'decrypt'): Promise<HomeFile[]> {
    const { dek } = this.#open
    if (dek === undefined) throw new VmsealError('VMSEAL_INTERNAL', 'VM home has no DEK')
    const { vmId, homeFiles } = this.#vm.description
    const converted: HomeFile[] = []
    for (const { role, file } of type === 'encrypt' ? await this.#plainHomeFiles() : homeFiles) {
      const target = this.#names.home(role)
      const bytes = await this.#files.byteLength(file)
      const convert = type === 'encrypt' ? encryptHomeFile : decryptHomeFile
      this.#steps.push({
        label: `${type} ${role}`,
        bytes,
        start: () => convert(dek, vmId, role, this.#files.path(file), this.#files.path(target)),
      })
      this.#created.push(target)
      this.#superseded.push(file)
      // The stream's tags and header: 16 bytes a MiB and 40.
      this.neededBytes += Math.ceil(bytes * 1.0001) + 4096
      converted.push({ role, file: target })
    }
    return converted
  }

  /** The home files that the .vmx names, and those that only their names give away (.vswp, .vmss, ...). */
  async #plainHomeFiles(): Promise<HomeFile[]> {
    const named = this.#vm.description.homeFiles
    const found: HomeFile[] = [...named]
    for (const file of (await this.#files.list()).toSorted()) {
      const role = this.#files.roleOf(file)
      if (role === undefined || named.some((other) => other.file === file)) continue
      if (found.some((other) => other.role === role))
        throw new VmsealError(
          'VMSEAL_INVALID_STATE',
          `${this.#files.label(file)} is not the ${role} that the .vmx names: remove one of them`,
        )
      found.push({ role, file })
    }
    return found
  }

  #composeHome(change: ReconfigureSpec['home']) {
    const { document, description } = this.#vm
    const { dek, secrets } = this.#open
    if (dek === undefined) return { document: document.copy() }
    if (change?.type === 'decrypt') {
      const plain = document.copy()
      if (secrets) plain.append(secrets, this.#files.label(this.#files.vmx))
      return { document: plain }
    }
    const { vmId } = description
    const generation = this.#generation
    const [identity, plainLines] = secrets ? [document.copy(), secrets] : document.split(isIdentityKey)
    const config = sealConfig(dek, plainLines, vmId, generation)
    if (change === undefined && description.wrap)
      return { document: identity, wrap: { ...description.wrap, config } }
    if (change === undefined) throw new VmsealError('VMSEAL_INTERNAL', 'VM home has a DEK but no wrap')
    const kek = this.#context.keys.require(change.key, keysRequired(this.#files, [change.key]).message)
    const jwe = wrapHomeDek(kek, dek, vmId, change.key, generation)
    return { document: identity, wrap: { jwe, generation, config } }
  }

  #newDiskFiles(): string {
    const file = this.#names.disk()
    this.#created.push(...this.#files.filesOfDisk(file))
    return file
  }
}

function entryOf({ device, file, diskId, sealedGeneration }: DiskState): DiskEntry {
  return { device, file, diskId, ...(sealedGeneration !== undefined && { sealedGeneration }) }
}
