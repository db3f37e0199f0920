/** Encryption, decryption and deep recrypt of a VM, all of it or parts, and new disks: one transaction. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import { native, type KeyHandle, type NativeTask } from '../native/load.js'
import type { AttachDisk, CryptoSpec, NewDisk, ReconfigureSpec, Work } from '../rpc/host-api.js'
import { planAttachment } from './attachment.js'
import { checkChange } from './change-rules.js'
import { resumeCopyStep, standingOfCopy, verifyStep } from './conversion-steps.js'
import type { Datastore } from './datastore.js'
import {
  copyBytes,
  decryptStep,
  deepRecryptStep,
  encryptStep,
  keyRequired,
  missingKeysOfDisk,
  newDiskStep,
  openDisk,
  openingKek,
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
import type { VirtualMachineLock } from './lock.js'
import { newKeyOf, requestText } from './interrupted-request.js'
import type { TaskManifest } from './task-manifest.js'
import { FreeNames, type VirtualMachineFiles } from './virtual-machine-files.js'
import {
  cryptoStatesOf,
  distinctKeys,
  keysRequired,
  missingHomeKeys,
  openHomeOf,
  readVirtualMachine,
  type VirtualMachine,
} from './vm-config.js'
import { decryptHomeFile, encryptHomeFile, recryptHomeFile, sealConfig, wrapHomeDek } from './vm-home.js'
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
  const request = requestText(spec)
  let interrupted: TaskManifest | undefined
  const resumes = (manifest: TaskManifest): boolean => {
    if (request === undefined || manifest.request !== request) return false
    interrupted = manifest
    return true
  }
  const change = async (lock: VirtualMachineLock): Promise<void> => {
    const vm = await readVirtualMachine(files)
    checkChange(cryptoStatesOf(vm, files), spec)
    if (isEmpty(spec)) return
    requireKeys(context, files, vm, spec)
    await commitChange(context, datastore, files, lock, vm, spec, work, { request, interrupted })
  }
  await holdVirtualMachine(context, files, change, resumes)
}

interface Request {
  readonly request: string | undefined
  /** The same request, which a crash interrupted: what it copied is there. */
  readonly interrupted: TaskManifest | undefined
}

/** Plans the change of a VM whose lock is held, and makes it. Its progress goes to `work`, or to a meter of more than this. */
export async function commitChange(
  context: HostContext,
  datastore: Datastore,
  files: VirtualMachineFiles,
  lock: VirtualMachineLock,
  vm: VirtualMachine,
  spec: ReconfigureSpec,
  work: Work | WorkMeter,
  { request, interrupted }: Partial<Request> = {},
): Promise<void> {
  const open = openEverything(context, files, vm, spec)
  try {
    if (spec.home?.type === 'decrypt') refuseVtpm(open.secrets, files)
    const names = await files.list()
    const change = new ChangePlan(context, files, vm, open, names, interrupted?.created ?? [])
    const transaction = { ...(await change.plan(spec, datastore)), ...(request !== undefined && { request }) }
    await requireSpace(context, datastore, change.neededBytes)
    const meter = work instanceof WorkMeter ? work : new WorkMeter(work, transaction.steps)
    await commitTransaction(files, lock, transaction, meter)
    await logLine(files, context.name, `${change.summary}; generation ${transaction.generation}`)
    if (meter !== work) meter.finish('committed')
  } finally {
    open.dek?.dispose()
    open.newDek?.dispose()
  }
}

function isEmpty({ home, disks, addDisks, attachDisks, removeDisks }: ReconfigureSpec): boolean {
  return !home && ![disks, addDisks, attachDisks, removeDisks].some((list) => list?.length)
}

/** The state of a virtual TPM holds secrets of the guest. */
export function refuseVtpm(secrets: VmxDocument | undefined, files: VirtualMachineFiles): void {
  if (secrets?.get('vtpm.present')?.toUpperCase() !== 'TRUE') return
  const subject = files.label(files.vmx)
  throw new VmsealError('VMSEAL_VTPM_PRESENT', `${subject} has a virtual TPM: its home stays encrypted`, {
    details: { subject },
  })
}

/** The DEK of VM home, before or after the change, whichever is sealed; absent: plain before and after. */
interface OpenState {
  readonly dek?: KeyHandle
  /** Takes the place of `dek`. */
  readonly newDek?: KeyHandle
  readonly secrets?: VmxDocument
}

export function requireKeys(
  context: HostContext,
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  spec: ReconfigureSpec,
): void {
  const lacks = (key: CryptoKeyId | undefined) => (key && context.keys.get(key) === undefined ? [key] : [])
  const missing = [...missingHomeKeys(vm, context.keys), ...lacks(newKeyOf(spec.home))]
  for (const { diskId, crypto } of spec.disks ?? []) {
    const disk = diskOf(vm, diskId)
    const keys = missingKeysOfDisk(disk, context.keys)
    if (keys.length > 0 && missing.length === 0 && spec.disks?.length === 1) throw keyRequired(disk, files)
    missing.push(...keys, ...lacks(newKeyOf(crypto)))
  }
  for (const { key } of spec.addDisks ?? []) missing.push(...lacks(key))
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
  const opened = openHomeOf(vm, context.keys, files)
  if (opened === undefined) return spec.home?.type === 'encrypt' ? { dek: native.KeyHandle.generate(32) } : {}
  if (spec.home?.type !== 'deepRecrypt') return opened
  try {
    return { ...opened, newDek: native.KeyHandle.generate(32) }
  } catch (error) {
    opened.dek.dispose()
    throw error
  }
}

export function diskOf(vm: VirtualMachine, diskId: string): DiskState {
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
  /** Of them those that are overwritten first. */
  readonly #overwritten: string[] = []
  readonly #steps: WorkStep[] = []
  /** Of the copies, when all of them are made. */
  readonly #verifications: WorkStep[] = []
  readonly #sealedTargets: OpenableDisk[] = []
  /** What an interrupted request of the same made and this one goes on with, or begins anew. */
  readonly #made: Set<string>

  /** `existing`: the names in the folder; `made`: those of them that are this change's own already. */
  constructor(
    context: HostContext,
    files: VirtualMachineFiles,
    vm: VirtualMachine,
    open: OpenState,
    existing: readonly string[],
    made: readonly string[],
  ) {
    this.#context = context
    this.#files = files
    this.#vm = vm
    this.#open = open
    const own = new Set(made)
    this.#made = new Set(existing.filter((name) => own.has(name)))
    this.#names = new FreeNames(
      files,
      existing.filter((name) => !own.has(name)),
    )
    this.#generation = vm.description.generation + 1
    if (this.#generation > generationLimit)
      throw new VmsealError('VMSEAL_VMX_INVALID', `vmseal.gen of ${files.label(files.vmx)} has no successor`)
  }

  /** One line for the log. */
  get summary(): string {
    return this.#steps.length > 0 ? this.#steps.map(({ label }) => label).join(', ') : 'VM home changed'
  }

  async plan(spec: ReconfigureSpec, datastore: Datastore): Promise<FileTransaction> {
    const { description } = this.#vm
    const disks = await this.#convertDisks(spec)
    for (const disk of spec.addDisks ?? []) disks.push(this.#addDisk(disk, nextDevice(disks)))
    for (const disk of spec.attachDisks ?? [])
      disks.push(await this.#attachDisk(disk, nextDevice(disks), datastore, spec.home))
    const homeFiles = spec.home ? await this.#convertHomeFiles(spec.home.type) : description.homeFiles
    const { document, wrap } = this.#composeHome(spec.home)
    const { vmId, name } = description
    const generation = this.#generation
    writeDescription(document, { vmId, name, generation, disks, homeFiles, ...(wrap && { wrap }) })
    return {
      generation,
      created: this.#created,
      superseded: this.#superseded,
      ...(spec.discardSource === 'overwrite' && { overwritten: await this.#overwritable() }),
      steps: [...this.#steps, ...this.#verifications],
      prepare: () => this.#files.remove(this.#made),
      vmx: document,
      verify: () => {
        for (const disk of this.#sealedTargets) openDisk(disk, vmId, this.#context.keys, this.#files).close()
      },
    }
  }

  async #convertDisks(spec: ReconfigureSpec): Promise<DiskEntry[]> {
    const entries: DiskEntry[] = []
    for (const disk of this.#vm.disks) {
      if (spec.removeDisks?.includes(disk.diskId)) continue
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
    this.#overwritten.push(...disk.extents)
    this.neededBytes += await copyBytes(disk, this.#files)
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

  /** A copy, from where an interrupted one stood, and its verification. */
  async #copy(disk: DiskState, target: string, keks: readonly KeyHandle[], step: WorkStep): Promise<void> {
    const { vmId } = this.#vm.description
    const standing = standingOfCopy(target, this.#made, this.#files)
    if (standing !== 'none') {
      const [, flat = '', secondCopy = '', , record = ''] = this.#files.filesOfDisk(target)
      const own = [target, flat, secondCopy, record].filter((name) => this.#made.delete(name))
      for (const name of own) this.neededBytes -= await this.#files.allocatedBytes(name)
    }
    if (standing === 'begun') this.#steps.push(resumeCopyStep(disk, target, keks, vmId, this.#files))
    if (standing === 'none') this.#steps.push(step)
    this.#verifications.push(verifyStep(disk, target, keks, vmId, this.#files))
  }

  /** Refused: a file whose other name would see its content go. */
  async #overwritable(): Promise<readonly string[]> {
    for (const name of this.#overwritten)
      if ((await this.#files.linkCount(name)) > 1) {
        const subject = this.#files.label(name)
        throw new VmsealError(
          'VMSEAL_EXTENT_INVALID',
          `${subject} has more than one name (hard links): overwriting it would change the others too`,
          { details: { subject } },
        )
      }
    return this.#overwritten
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

  async #attachDisk(
    disk: AttachDisk,
    device: string,
    datastore: Datastore,
    home: ReconfigureSpec['home'],
  ): Promise<DiskEntry> {
    const { entry, copy, keys } = await planAttachment(this.#context, datastore, disk, {
      files: this.#files,
      vmId: this.#vm.description.vmId,
      device,
      generation: this.#generation,
      freeName: () => this.#newDiskFiles(),
    })
    if (keys.length > 0) {
      if (this.#open.dek === undefined || home?.type === 'decrypt')
        throw new VmsealError(
          'VMSEAL_ENCRYPTION_MISMATCH',
          'an encrypted disk cannot belong to a VM whose home is plain',
        )
      this.#sealedTargets.push({ diskId: entry.diskId, file: entry.file, keys })
    }
    if (copy) {
      this.#steps.push(copy.step)
      this.neededBytes += copy.neededBytes
    }
    return entry
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

  async #convertHomeFiles(type: CryptoSpec['type']): Promise<HomeFile[]> {
    const { dek, newDek } = this.#open
    if (dek === undefined) throw new VmsealError('VMSEAL_INTERNAL', 'VM home has no DEK')
    const { vmId, homeFiles } = this.#vm.description
    const converted: HomeFile[] = []
    for (const { role, file } of type === 'encrypt' ? await this.#plainHomeFiles() : homeFiles) {
      const target = this.#names.home(role)
      const bytes = await this.#files.byteLength(file)
      const paths = [this.#files.path(file), this.#files.path(target)] as const
      const start = (): NativeTask => {
        if (newDek) return recryptHomeFile(dek, newDek, vmId, role, ...paths)
        return (type === 'encrypt' ? encryptHomeFile : decryptHomeFile)(dek, vmId, role, ...paths)
      }
      this.#steps.push({ label: `${newDek ? 'recrypt' : type} ${role}`, bytes, start })
      this.#created.push(target)
      this.#superseded.push(file)
      this.#overwritten.push(file)
      // The stream's tags and header: 16 bytes a MiB and 40.
      this.neededBytes += Math.ceil(bytes * 1.0001) + 4096
      converted.push({ role, file: target })
    }
    return converted
  }

  /**
   * The home files that the .vmx names, and those that only their names give away (.vswp, .vmss, ...), but for those that an
   * interrupted request of the same made: they are ciphertext, and made anew.
   */
  async #plainHomeFiles(): Promise<HomeFile[]> {
    const named = this.#vm.description.homeFiles
    const found: HomeFile[] = [...named]
    for (const file of (await this.#files.list()).toSorted()) {
      const role = this.#files.roleOf(file)
      if (role === undefined || this.#made.has(file) || named.some((other) => other.file === file)) continue
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
    const { newDek, secrets } = this.#open
    const dek = newDek ?? this.#open.dek
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
    const key = newKeyOf(change)
    if (key === undefined) throw new VmsealError('VMSEAL_INTERNAL', 'VM home has a DEK but no wrap')
    const kek = this.#context.keys.require(key, keysRequired(this.#files, [key]).message)
    const jwe = wrapHomeDek(kek, dek, vmId, key, generation)
    return { document: identity, wrap: { jwes: [jwe], generation, config } }
  }

  #newDiskFiles(): string {
    const file = this.#names.disk()
    this.#created.push(...this.#files.filesOfDisk(file))
    return file
  }
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
