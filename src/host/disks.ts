/** The virtual disks of a VM: what their descriptors say, opening them, and the steps that make new ones. */
import { resolve } from 'node:path'
import { VmsealError, type CryptoKeyId } from '../errors.js'
import { native, type DiskHandle, type KeyHandle, type NativeTask, type SealSpec } from '../native/load.js'
import type { NewDisk } from '../rpc/host-api.js'
import {
  conversionOf,
  hasBecome,
  readStanding,
  type OpenConversion,
  type SealedDescriptor,
} from './disk-standing.js'
import type { LinkState } from './disk-chain.js'
import { isKeyId, type DiskEntry } from './home-description.js'
import { naming } from './io-error.js'
import type { KeyCache } from './key-cache.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import type { WorkStep } from './work.js'

/** A disk as .vmx and descriptor show it, without keys. */
export interface DiskState extends DiskEntry {
  readonly capacityBytes: number
  /** Names of the files that hold its data. */
  readonly extents: readonly string[]
  /** Everything that may be there of it, by name. */
  readonly files: readonly string[]
  /** The KEKs that wrap the DEK, any of which opens it; empty: the disk is plain. */
  readonly keys: readonly CryptoKeyId[]
  /** The data is in two forms, and `keys` are those that `conversion.sides` name. */
  readonly conversion?: OpenConversion
  /** Data unit; absent: the disk is plain. */
  readonly sectorSize?: number
  /** The files that it is made of, base first and itself last; absent: it is one file. */
  readonly links?: readonly LinkState[]
}

/** What opening a disk takes. */
export type OpenableDisk = Pick<DiskState, 'file' | 'diskId' | 'keys'>

/** A step that makes a disk, and what it takes on the datastore. */
interface DiskStep {
  readonly step: WorkStep
  readonly neededBytes: number
}

/**
 * Reads a descriptor and compares it with the .vmx. Proves nothing about the wrap. Of an in-place conversion that ended before
 * the .vmx could say so, the entry that the .vmx should have.
 */
export async function readDiskState(entry: DiskEntry, files: VirtualMachineFiles): Promise<DiskState> {
  await files.byteLength(entry.file)
  const label = files.label(entry.file)
  const standing = readStanding(files.path(entry.file), label)
  const { capacityBytes, extents, sealed, foreign } = standing.descriptor
  if (foreign !== null)
    throw new VmsealError('VMSEAL_DESCRIPTOR_UNSUPPORTED', `${label} was encrypted by another program`)
  for (const { file } of extents) {
    if (!files.isExtentOf(entry.file, file))
      throw new VmsealError(
        'VMSEAL_DESCRIPTOR_UNSUPPORTED',
        `${label} names the extent ${JSON.stringify(file)}`,
      )
    await files.byteLength(file)
  }
  const conversion = conversionOf(standing, entry, label)
  const settled = conversion ? entry : settle(entry, sealed)
  if (!conversion) compare(settled, sealed, label)
  const keys = (conversion?.sides.flat() ?? sealed?.wraps ?? []).map(({ keyId, providerId }) => ({
    keyId,
    providerId,
  }))
  if (!keys.every(isKeyId))
    throw new VmsealError('VMSEAL_DESCRIPTOR_INVALID', `${label} names no usable key id`)
  const extentNames = extents.map(({ file }) => file)
  return {
    ...settled,
    capacityBytes,
    extents: extentNames,
    files: files.filesOfDisk(entry.file, extentNames),
    keys,
    ...(sealed && { sectorSize: sealed.sectorSize }),
    ...(conversion && { conversion }),
  }
}

/**
 * KEKs that are not here and that opening the disk with all its files, or going on with its conversion, takes, one of each is enough;
 * empty: it is plain, or none is missing.
 */
export function missingKeysOfDisk(disk: DiskState, keys: KeyCache): readonly CryptoKeyId[] {
  const sides = disk.conversion?.sides ?? (disk.links ?? [disk]).map((file) => file.keys)
  return sides.flatMap((side) => (side.some((key) => keys.get(key) !== undefined) ? [] : side))
}

/** VMSEAL_DISK_IN_CONVERSION while the data is in two forms. */
export function refuseInConversion({ conversion, file }: DiskState, files: VirtualMachineFiles): void {
  if (conversion === undefined) return
  const { mode, doneBytes, totalBytes } = conversion
  const subject = files.label(file)
  throw new VmsealError(
    'VMSEAL_DISK_IN_CONVERSION',
    `${subject} is being ${mode}ed in place, ${doneBytes} of ${totalBytes} bytes are done: resume the conversion of the VM first`,
    { details: { subject } },
  )
}

/** Opens a disk as a guest sees it. Everything that is bound to its wrap is verified. */
export function openDisk(
  disk: OpenableDisk,
  vmId: string,
  keys: KeyCache,
  files: VirtualMachineFiles,
): DiskHandle {
  if (disk.keys.length > 0) return openSealed(disk, vmId, keys, files).handle
  return naming(files.label(disk.file), () => native.DiskHandle.openPlain(files.path(disk.file)))
}

/** The KEK that opens an encrypted disk, which was tried. */
export function openingKek(
  disk: OpenableDisk,
  vmId: string,
  keys: KeyCache,
  files: VirtualMachineFiles,
): KeyHandle {
  const { handle, kek } = openSealed(disk, vmId, keys, files)
  handle.close()
  return kek
}

function openSealed(
  disk: OpenableDisk,
  vmId: string,
  keys: KeyCache,
  files: VirtualMachineFiles,
): { handle: DiskHandle; kek: KeyHandle } {
  const keks = disk.keys.map((key) => keys.get(key)).filter((kek) => kek !== undefined)
  if (keks.length === 0) throw keyRequired(disk, files)
  let failure: unknown
  for (const kek of keks)
    try {
      const handle = naming(files.label(disk.file), () =>
        native.DiskHandle.openSealed(files.path(disk.file), kek, { vmId, diskId: disk.diskId }),
      )
      return { handle, kek }
    } catch (error) {
      failure ??= error
    }
  throw failure
}

/** The error of a disk whose KEK is not on this host, in vSphere's words. */
export function keyRequired(disk: OpenableDisk, files: VirtualMachineFiles): VmsealError {
  const subject = files.label(disk.file)
  return new VmsealError(
    'VMSEAL_ENCRYPTION_KEY_REQUIRED',
    `The disk ${subject} is encrypted and a required key was not found`,
    { details: { requiredKeys: disk.keys, subject } },
  )
}

/** Bytes that a copy of the disk takes. */
export async function copyBytes(disk: DiskState, files: VirtualMachineFiles): Promise<number> {
  let bytes = 0
  for (const file of disk.extents) bytes += await files.allocatedBytes(file)
  return bytes
}

export function encryptStep(
  disk: DiskState,
  target: string,
  kek: KeyHandle,
  spec: SealSpec,
  files: VirtualMachineFiles,
): WorkStep {
  requireWholeSectors(disk.capacityBytes, spec.sectorSize, files.label(disk.file))
  return {
    label: `encrypt ${disk.device}`,
    bytes: disk.capacityBytes,
    start: () => native.encryptDisk(files.path(disk.file), files.path(target), kek, spec),
  }
}

export function decryptStep(
  disk: DiskState,
  target: string,
  kek: KeyHandle,
  vmId: string,
  files: VirtualMachineFiles,
): WorkStep {
  const binding = { vmId, diskId: disk.diskId }
  return {
    label: `decrypt ${disk.device}`,
    bytes: disk.capacityBytes,
    start: () => native.decryptDisk(files.path(disk.file), files.path(target), kek, binding),
  }
}

export function deepRecryptStep(
  disk: DiskState,
  target: string,
  kek: KeyHandle,
  newKek: KeyHandle,
  spec: SealSpec,
  files: VirtualMachineFiles,
): WorkStep {
  requireWholeSectors(disk.capacityBytes, spec.sectorSize, files.label(disk.file))
  const binding = { vmId: spec.vmId, diskId: disk.diskId }
  return {
    label: `recrypt ${disk.device}`,
    bytes: disk.capacityBytes,
    start: () => native.recryptDisk(files.path(disk.file), files.path(target), kek, binding, newKek, spec),
  }
}

/** Checks the source of a new disk and plans its making: empty or copied, plain or encrypted from the first byte. */
export function newDiskStep(
  disk: NewDisk,
  device: string,
  target: string,
  seal: { readonly kek: KeyHandle; readonly spec: SealSpec } | undefined,
): DiskStep {
  if (disk.source === undefined) {
    const capacityBytes = disk.capacityBytes ?? 0
    if (seal) requireWholeSectors(capacityBytes, seal.spec.sectorSize, `the new disk ${device}`)
    const start = () =>
      seal
        ? native.createSealedDisk(target, capacityBytes, seal.kek, seal.spec)
        : native.createPlainDisk(target, capacityBytes, disk.diskId)
    return { step: { label: `create ${device}`, bytes: capacityBytes, start }, neededBytes: 0 }
  }
  const source = resolve(disk.source)
  const image = inspectSource(source, seal !== undefined)
  const bytes = image.capacityBytes ?? image.allocatedBytes
  if (seal) requireWholeSectors(bytes, seal.spec.sectorSize, source)
  const start = (): NativeTask =>
    seal
      ? native.encryptDisk(source, target, seal.kek, seal.spec)
      : native.importDisk(source, target, disk.diskId)
  const label = `${seal ? 'encrypt' : 'import'} ${device}`
  return { step: { label, bytes, start }, neededBytes: image.allocatedBytes }
}

interface Image {
  /** Null: only qemu-img knows. */
  readonly capacityBytes: number | null
  readonly allocatedBytes: number
  readonly needsQemuImg: boolean
  readonly sealed: boolean
}

/** The entry of a disk in one form, whether the .vmx says so already or not. */
function settle(entry: DiskEntry, sealed: SealedDescriptor | null): DiskEntry {
  const { becomes, sealedGeneration, ...rest } = entry
  const generation = becomes && hasBecome(becomes, sealed) ? becomes.generation : sealedGeneration
  return { ...rest, ...(generation !== undefined && { sealedGeneration: generation }) }
}

function compare(entry: DiskEntry, sealed: SealedDescriptor | null, label: string): void {
  const details = { subject: label }
  if (sealed === null) {
    if (entry.sealedGeneration === undefined) return
    throw new VmsealError(
      'VMSEAL_DESCRIPTOR_INVALID',
      `${label} is encrypted but its wrapped DEK is missing`,
      { details },
    )
  }
  if (sealed.wraps.length === 0)
    throw new VmsealError('VMSEAL_DESCRIPTOR_INVALID', `${label} has no wrapped DEK`, { details })
  if (sealed.id !== entry.diskId || sealed.generation !== entry.sealedGeneration)
    throw new VmsealError(
      'VMSEAL_ENVELOPE_MISMATCH',
      `${label} is of another disk or generation than the .vmx says for ${entry.device}`,
      { details },
    )
}

function inspectSource(source: string, encrypt: boolean): Image {
  const image = JSON.parse(naming(source, () => native.inspectImage(source))) as Image
  const details = { subject: source }
  if (image.sealed)
    throw new VmsealError(
      'VMSEAL_DISK_STATE',
      `${source} is an encrypted disk: attaching one is not supported. Decrypt it where it is, then import it`,
      { details },
    )
  if (image.needsQemuImg && encrypt)
    throw new VmsealError(
      'VMSEAL_IMAGE_INVALID',
      `${source} is read through qemu-img, which would leave plaintext behind: import it plain, then encrypt it`,
      { details },
    )
  return image
}

export function requireWholeSectors(capacityBytes: number, sectorSize: number, subject: string): void {
  if (capacityBytes % sectorSize === 0) return
  throw new VmsealError(
    'VMSEAL_SECTOR_ALIGNMENT',
    `${subject} has ${capacityBytes} bytes, not a multiple of the sector size ${sectorSize}`,
    { details: { subject } },
  )
}
