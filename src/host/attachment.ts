/** Disks that lie on a datastore already: what they are, and how they become disks of a VM. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import { native } from '../native/load.js'
import type { AttachDisk, DiskDescription } from '../rpc/host-api.js'
import type { Datastore } from './datastore.js'
import { copyBytes, openDisk, openingKek, type DiskState } from './disks.js'
import { describeHome, isKeyId, type DiskEntry } from './home-description.js'
import type { HostContext } from './host-context.js'
import { naming } from './io-error.js'
import { checkDatastorePath } from './requests.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { keysRequired } from './vm-config.js'
import type { WorkStep } from './work.js'

/** A disk that becomes one of a VM, where it lies or as a copy. */
export interface Attachment {
  readonly entry: DiskEntry
  /** Absent: it stays where it is. */
  readonly copy?: { readonly step: WorkStep; readonly neededBytes: number }
  /** The KEKs of which one has to open it; empty: it is plain. */
  readonly keys: readonly CryptoKeyId[]
}

export interface AttachmentTarget {
  readonly files: VirtualMachineFiles
  readonly vmId: string
  readonly device: string
  /** Generation of the DEK of a copy. */
  readonly generation: number
  /** A free descriptor name, taken only for a copy. */
  readonly freeName: () => string
}

interface FoundDisk {
  readonly description: DiskDescription
  readonly folder: VirtualMachineFiles
  readonly state: DiskState
}

export async function describeDisk(datastore: Datastore, file: string): Promise<DiskDescription> {
  return (await find(datastore, file)).description
}

/**
 * Plans an attachment. The VM's own disk is opened here, so that what does not open is found before the first write; a copy
 * proves its source itself.
 */
export async function planAttachment(
  context: HostContext,
  datastore: Datastore,
  disk: AttachDisk,
  target: AttachmentTarget,
): Promise<Attachment> {
  const { files, vmId, device, generation } = target
  const found = await find(datastore, disk.file)
  const { description, folder, state } = found
  refuseAttached(description, folder, files)
  await refuseSnapshots(folder)
  requireKey(context, files, state)
  if (staysInPlace(found, target)) {
    requireIdentity(found, disk, files)
    openDisk(state, vmId, context.keys, files).close()
    const { file, sealedGeneration } = state
    const entry = {
      device,
      diskId: disk.diskId,
      file,
      ...(sealedGeneration !== undefined && { sealedGeneration }),
    }
    return { entry, keys: state.keys }
  }
  const file = target.freeName()
  const entry = {
    device,
    diskId: disk.diskId,
    file,
    ...(description.key && { sealedGeneration: generation }),
  }
  const neededBytes = await copyBytes(state, folder)
  const step = copyStep(context, found, entry, target)
  return { entry, copy: { step, neededBytes }, keys: description.key ? [description.key] : [] }
}

async function find(datastore: Datastore, file: string): Promise<FoundDisk> {
  const { folder, name } = checkDatastorePath(file, 'file')
  const files = datastore.filesOf(folder)
  const label = files.label(name)
  const details = { subject: label }
  if (!name.endsWith('.vmdk'))
    throw new VmsealError('VMSEAL_DEVICE_NOT_DISK', `${label} is no VMDK descriptor`, { details })
  await files.requireFolder()
  await files.byteLength(name)
  const text = naming(label, () => native.readDescriptor(files.path(name)))
  const { createType, capacityBytes, uuid, sealed, foreign } = JSON.parse(text) as Descriptor
  if (/rawdevice|rdm|fulldevice|partitioneddevice/i.test(createType))
    throw new VmsealError('VMSEAL_DISK_NOT_FILE', `${label} maps a raw device (${createType})`, { details })
  if (foreign)
    throw new VmsealError('VMSEAL_DESCRIPTOR_UNSUPPORTED', `${label} was encrypted by another program`, {
      details,
    })
  if (sealed && sealed.state !== 'sealed')
    throw new VmsealError('VMSEAL_DISK_IN_CONVERSION', `${label} is in the state ${sealed.state}`, {
      details,
    })
  const extents = extentsOf(text)
  const [wrap, ...others] = sealed?.wraps ?? []
  if (sealed && (!wrap || ![wrap, ...others].every(isKeyId)))
    throw new VmsealError('VMSEAL_DESCRIPTOR_INVALID', `${label} names no usable key id`, { details })
  const diskId = sealed?.id ?? uuid ?? undefined
  const keys = sealed?.wraps.map(({ keyId, providerId }) => ({ keyId, providerId })) ?? []
  const attachedTo = await attachment(files, name)
  return {
    folder: files,
    state: {
      device: '',
      file: name,
      diskId: diskId ?? '',
      capacityBytes,
      files: [name, ...extents],
      extents,
      keys,
      ...(sealed && { sectorSize: sealed.sectorSize, sealedGeneration: sealed.generation }),
    },
    description: {
      datastore: files.datastore,
      file,
      capacityBytes,
      ...(diskId && { diskId }),
      ...(keys[0] && { key: keys[0] }),
      ...(keys.length > 1 && { formerKeys: keys.slice(1) }),
      ...(wrap && sealed && { vmId: wrap.vmId, generation: sealed.generation }),
      ...(attachedTo && { attachedTo }),
    },
  }
}

interface Descriptor {
  readonly createType: string
  readonly capacityBytes: number
  readonly extents: readonly { readonly file: string | null }[]
  readonly uuid: string | null
  readonly foreign: object | null
  readonly sealed: {
    readonly id: string
    readonly state: string
    readonly generation: number
    readonly sectorSize: number
    readonly wraps: readonly (CryptoKeyId & { readonly vmId: string })[]
  } | null
}

function extentsOf(text: string): string[] {
  return (JSON.parse(text) as Descriptor).extents.flatMap(({ file }) => file ?? [])
}

/** The .vmx of the folder, if it names the disk. */
async function attachment(files: VirtualMachineFiles, name: string): Promise<string | undefined> {
  const document = await files.readVmx()
  const named = document && describeHome(document, files).disks.some(({ file }) => file === name)
  return named ? files.reference.vmx : undefined
}

function refuseAttached(
  { attachedTo }: DiskDescription,
  folder: VirtualMachineFiles,
  files: VirtualMachineFiles,
): void {
  if (attachedTo === undefined) return
  const details = { subject: attachedTo }
  if (folder.directory === files.directory)
    throw new VmsealError('VMSEAL_ALREADY_EXISTS', `the disk is one of ${attachedTo} already`, { details })
  throw new VmsealError('VMSEAL_DISK_SHARED', `the disk belongs to ${attachedTo}`, { details })
}

/** A disk that no .vmx names may be one that a snapshot goes back to. */
async function refuseSnapshots(folder: VirtualMachineFiles): Promise<void> {
  if ((await folder.snapshotCount()) === 0) return
  const subject = folder.label(folder.vmsd)
  throw new VmsealError(
    'VMSEAL_SNAPSHOTS_EXIST',
    `${subject} tells of snapshots, which may need the disk. Remove them first`,
    { details: { subject } },
  )
}

function requireKey(context: HostContext, files: VirtualMachineFiles, { keys }: DiskState): void {
  if (keys.length > 0 && keys.every((key) => context.keys.get(key) === undefined))
    throw keysRequired(files, keys)
}

/** Only what the .vmx of the VM may name: its files have the VM's names, and its wrap, if it has one, is bound to the VM. */
function staysInPlace({ folder, state, description }: FoundDisk, { files, vmId }: AttachmentTarget): boolean {
  if (folder.directory !== files.directory || !files.isDescriptor(state.file)) return false
  const [, ...extents] = state.files
  if (!extents.every((extent) => files.isExtentOf(state.file, extent))) return false
  return state.keys.length === 0 || description.vmId === vmId
}

/** An encrypted disk is bound to its id, and older than what vCenter has seen of it must it not be. */
function requireIdentity(
  { description: { diskId, generation }, state }: FoundDisk,
  disk: AttachDisk,
  files: VirtualMachineFiles,
): void {
  const details = { subject: files.label(state.file) }
  if (state.keys.length > 0 && diskId !== disk.diskId)
    throw new VmsealError('VMSEAL_ENVELOPE_MISMATCH', `${details.subject} is the disk ${diskId}`, { details })
  const known = files.knownGenerations[disk.diskId]
  if (known !== undefined && generation !== undefined && generation < known)
    throw new VmsealError(
      'VMSEAL_ROLLBACK_DETECTED',
      `${details.subject} has a DEK of generation ${generation}, and vCenter has seen ${known}`,
      { details },
    )
}

function copyStep(
  context: HostContext,
  { folder, state, description }: FoundDisk,
  { device, diskId, file }: DiskEntry,
  { files, vmId, generation }: AttachmentTarget,
): WorkStep {
  const source = folder.path(state.file)
  const target = files.path(file)
  const step = { label: `attach ${device}`, bytes: state.capacityBytes }
  const { key } = description
  if (key === undefined) return { ...step, start: () => native.importDisk(source, target, diskId) }
  const owner = description.vmId ?? ''
  const kek = openingKek(state, owner, context.keys, folder)
  const newKek = context.keys.require(key, keysRequired(files, [key]).message)
  const binding = { vmId: owner, diskId: state.diskId }
  const seal = { ...key, vmId, diskId, generation, sectorSize: state.sectorSize ?? 512 }
  return { ...step, start: () => native.recryptDisk(source, target, kek, binding, newKek, seal) }
}
