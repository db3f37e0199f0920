/**
 * A copy of a VM under other KEKs, made without its plaintext leaving memory: an encrypted disk of one file goes along byte for byte and
 * only its DEK is wrapped anew; what a disk has in several files, or in clear text, is written anew under a DEK of its own.
 */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import { native, type DiskHandle, type KeyHandle } from '../native/load.js'
import { kekOfLink, linksOf, openChain, type LinkState } from './disk-chain.js'
import { openDisk, refuseInConversion, type DiskState } from './disks.js'
import type { FileTransaction } from './file-transaction.js'
import { newIdentity, writeDescription, type DiskEntry, type HomeFile } from './home-description.js'
import type { HostContext } from './host-context.js'
import { FreeNames, type VirtualMachineFiles } from './virtual-machine-files.js'
import { settingsOf } from './vm-change.js'
import { distinctKeys, keysRequired, type VirtualMachine } from './vm-config.js'
import { encryptHomeFile, moveHomeFile, sealConfig, wrapHomeDek } from './vm-home.js'
import type { WorkStep } from './work.js'

/** Whose the copy is, and its keys. */
export interface ResealSpec {
  readonly vmId: string
  readonly name: string
  readonly homeKey: CryptoKeyId
  /** Each disk of the source once. */
  readonly disks: readonly {
    readonly diskId: string
    readonly newDiskId: string
    readonly key: CryptoKeyId
  }[]
}

/** What is copied. `dek` is that of VM home when it is encrypted. */
export interface ResealSource {
  readonly files: VirtualMachineFiles
  readonly vm: VirtualMachine
  readonly dek: KeyHandle | undefined
}

/** A step and the file of the target that it makes. */
interface FileStep extends WorkStep {
  /** The extent of the source that this is a copy of, byte for byte. */
  readonly copyOf?: string
  readonly file: string
}

export interface ResealPlan {
  readonly transaction: Pick<
    FileTransaction,
    'generation' | 'created' | 'superseded' | 'steps' | 'verify' | 'vmx'
  >
  /** The extents that are copied as they lie, by name in the source, and the copies. */
  readonly verbatim: readonly { readonly from: string; readonly to: string }[]
  /** Every file that is there when the steps have ended, and how long it is; 0: not known yet, and short. */
  readonly files: readonly { readonly name: string; readonly bytes: number }[]
  readonly neededBytes: number
}

const firstGeneration = 1
const smallestSector = 512

/** Every refusal comes before anything is made. Handles that the steps need are put into `handles`, for the caller to close. */
export async function planResealedCopy(
  context: HostContext,
  source: ResealSource,
  target: VirtualMachineFiles,
  spec: ResealSpec,
  newDek: KeyHandle,
  handles: DiskHandle[],
): Promise<ResealPlan> {
  const { files, vm } = source
  const keys = distinctKeys([spec.homeKey, ...spec.disks.map(({ key }) => key)])
  const missing = keys.filter((key) => context.keys.get(key) === undefined)
  if (missing.length > 0) throw keysRequired(target, missing)
  if (vm.snapshots === 'unknown' || vm.snapshots > vm.table.snapshots.length)
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `${files.label(files.vmx)} has snapshots of another program`,
    )
  for (const disk of vm.disks) refuseInConversion(disk, files)
  const names = new FreeNames(target, [])
  const steps: FileStep[] = []
  const disks: DiskEntry[] = []
  let neededBytes = 0
  for (const disk of vm.disks) {
    const links = linksOf(disk, vm.description.vmId, files)
    for (const link of links)
      neededBytes += await link.files.allocatedBytes(link.files.filesOfDisk(link.name)[1] ?? link.name)
    const file = names.disk()
    const entry = entryOf(disk, file, spec)
    disks.push(entry)
    steps.push(...(await diskSteps(context, source, disk, links, target, entry, spec, handles)))
  }
  const homeFiles: HomeFile[] = []
  for (const { role, file: from } of vm.description.homeFiles) {
    const file = names.home(role)
    homeFiles.push({ role, file })
    neededBytes += await files.allocatedBytes(from)
    steps.push(await homeStep(source, from, role, target, file, spec, newDek))
  }
  return {
    transaction: {
      generation: firstGeneration,
      created: [
        ...disks.flatMap(({ file }) => target.filesOfDisk(file)),
        ...homeFiles.map(({ file }) => file),
      ],
      superseded: [],
      steps,
      verify: () => {
        for (const { file, diskId } of disks) {
          const { key } = spec.disks.find(({ newDiskId }) => newDiskId === diskId) ?? {}
          openDisk({ file, diskId, keys: key ? [key] : [] }, spec.vmId, context.keys, target).close()
        }
      },
      vmx: vmxOf(context, source, target, spec, newDek, disks, homeFiles),
    },
    verbatim: steps.flatMap(({ copyOf, file }) => (copyOf === undefined ? [] : [{ from: copyOf, to: file }])),
    files: [
      ...disks.flatMap(({ file }, index) => {
        const [descriptor = '', extent = '', copy = ''] = target.filesOfDisk(file)
        const bytes = vm.disks[index]?.capacityBytes ?? 0
        return [
          { name: descriptor, bytes: 0 },
          { name: extent, bytes },
          { name: copy, bytes: 0 },
        ]
      }),
      ...homeFiles.map(({ file }) => ({ name: file, bytes: 0 })),
    ],
    neededBytes,
  }
}

async function diskSteps(
  context: HostContext,
  { files, vm }: ResealSource,
  disk: DiskState,
  links: readonly LinkState[],
  target: VirtualMachineFiles,
  { file, diskId, device }: DiskEntry,
  { vmId, disks }: ResealSpec,
  handles: DiskHandle[],
): Promise<FileStep[]> {
  const { key } = disks.find(({ newDiskId }) => newDiskId === diskId) as ResealSpec['disks'][number]
  const newKek = context.keys.require(key, keysRequired(target, [key]).message)
  const path = target.path(file)
  const seal = {
    ...key,
    vmId,
    diskId,
    generation: firstGeneration,
    sectorSize: disk.sectorSize ?? smallestSector,
  }
  const extent = target.filesOfDisk(file)[1] ?? file
  const [link] = links
  const [from] = disk.extents
  const asItLies = links.length === 1 && link !== undefined && link.keys.length > 0 && from !== undefined
  // A longer file has more in it than the disk: the header of a LUKS volume, which opens with other keys.
  if (asItLies && (await files.byteLength(from)) === disk.capacityBytes) {
    const kek = kekOfLink(link, context.keys)
    if (kek === undefined) throw new VmsealError('VMSEAL_INTERNAL', `no key opens ${files.label(link.name)}`)
    const binding = { vmId: vm.description.vmId, diskId: disk.diskId }
    return [
      {
        file: extent,
        copyOf: from,
        label: `copy ${device}`,
        bytes: disk.capacityBytes,
        start: () => native.copyFile(files.path(from), target.path(extent)),
      },
      {
        file,
        label: `wrap ${device}`,
        bytes: 0,
        start: () => native.resealCopy(files.path(link.name), path, kek, binding, newKek, seal),
      },
    ]
  }
  const handle = openChain(links, context.keys, false)
  handles.push(handle)
  if (handle.capacityBytes % seal.sectorSize !== 0)
    throw new VmsealError(
      'VMSEAL_SECTOR_ALIGNMENT',
      `${files.label(disk.file)} is no whole number of ${seal.sectorSize}-byte sectors`,
    )
  const start = () => handle.flatten(path, diskId, newKek, seal)
  return [{ file, label: `encrypt ${device}`, bytes: disk.capacityBytes, start }]
}

async function homeStep(
  { files, vm, dek }: ResealSource,
  from: string,
  role: string,
  target: VirtualMachineFiles,
  file: string,
  { vmId }: ResealSpec,
  newDek: KeyHandle,
): Promise<FileStep> {
  const paths = [files.path(from), target.path(file)] as const
  const start = () =>
    dek
      ? moveHomeFile(dek, newDek, vm.description.vmId, vmId, role, ...paths)
      : encryptHomeFile(newDek, vmId, role, ...paths)
  return { file, label: `encrypt ${role}`, bytes: await files.byteLength(from), start }
}

function vmxOf(
  context: HostContext,
  { files, vm, dek }: ResealSource,
  target: VirtualMachineFiles,
  { vmId, name, homeKey }: ResealSpec,
  newDek: KeyHandle,
  disks: readonly DiskEntry[],
  homeFiles: readonly HomeFile[],
): FileTransaction['vmx'] {
  const kek = context.keys.require(homeKey, keysRequired(target, [homeKey]).message)
  const document = newIdentity(name, vmId)
  const wrap = {
    jwes: [wrapHomeDek(kek, newDek, vmId, homeKey, firstGeneration)],
    generation: firstGeneration,
    config: sealConfig(newDek, settingsOf(vm, dek, files), vmId, firstGeneration),
  }
  writeDescription(document, { vmId, name, generation: firstGeneration, disks, homeFiles, wrap })
  return document
}

function entryOf({ device, diskId }: DiskState, file: string, { disks }: ResealSpec): DiskEntry {
  const wish = disks.find((disk) => disk.diskId === diskId)
  if (wish === undefined)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'spec.disks must name each disk of the VM once')
  return { device, diskId: wish.newDiskId, file, sealedGeneration: firstGeneration }
}
