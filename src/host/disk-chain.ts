/** The files that make one disk, and opening them as one. */
import { isVmsealError, type CryptoKeyId } from '../errors.js'
import { native, type DiskHandle, type KeyHandle } from '../native/load.js'
import { keyRequired, openDisk, readDiskState, type DiskState } from './disks.js'
import { naming } from './io-error.js'
import type { KeyCache } from './key-cache.js'
import { foreignPlace, linkOf, type ChainLink } from './snapshot-table.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'

/** A link as its descriptor shows it, without keys. */
export interface LinkState extends ChainLink {
  /** The folder it lies in. */
  readonly files: VirtualMachineFiles
  /** Its descriptor in that folder. */
  readonly name: string
  /** The KEKs that wrap its DEK, any of which opens it; empty: it is plain. */
  readonly keys: readonly CryptoKeyId[]
  readonly sectorSize?: number
}

/** Reads the descriptors of a chain and compares them with the .vmx. */
export async function readLinks(
  links: readonly ChainLink[],
  device: string,
  files: VirtualMachineFiles,
): Promise<{ states: LinkState[]; top: DiskState }> {
  const states: LinkState[] = []
  let top: DiskState | undefined
  for (const link of links) {
    const foreign = foreignPlace(link.file)
    const owner = foreign ? files.neighbour(foreign.folder) : files
    const name = foreign?.name ?? link.file
    const { diskId, generation } = link
    top = await readDiskState(
      { device, file: name, diskId, ...(generation !== undefined && { sealedGeneration: generation }) },
      owner,
    )
    const { keys, sectorSize } = top
    states.push({ ...link, files: owner, name, keys, ...(sectorSize !== undefined && { sectorSize }) })
  }
  return { states, top: top as DiskState }
}

/** The files of a disk, of which there is one at least. */
export function linksOf(disk: DiskState, vmId: string, files: VirtualMachineFiles): readonly LinkState[] {
  if (disk.links !== undefined) return disk.links
  const { file, keys, sectorSize } = disk
  return [{ ...linkOf(disk, vmId), files, name: file, keys, ...(sectorSize !== undefined && { sectorSize }) }]
}

/** Opens a disk of a VM that is off, for reading. */
export function openForReading(
  disk: DiskState,
  vmId: string,
  keys: KeyCache,
  files: VirtualMachineFiles,
): DiskHandle {
  return disk.links === undefined ? openDisk(disk, vmId, keys, files) : openChain(disk.links, keys, false)
}

/** Opens a disk for its guest: writable, unless it is of a kind that vmseal only reads (several extents). */
export function openForGuest(
  disk: DiskState,
  vmId: string,
  keys: KeyCache,
  files: VirtualMachineFiles,
): DiskHandle {
  const links = linksOf(disk, vmId, files)
  try {
    return openChain(links, keys, true)
  } catch (error) {
    if (!isVmsealError(error, 'VMSEAL_DESCRIPTOR_UNSUPPORTED')) throw error
    return openChain(links, keys, false)
  }
}

/** Opens a chain, base first, as a guest sees it. Everything that is bound to each wrap is verified. */
export function openChain(links: readonly LinkState[], keys: KeyCache, writable: boolean): DiskHandle {
  const used: KeyHandle[] = []
  const opened = links.map((link) => nativeLink(link, keys, used))
  const top = links.at(-1)
  return naming(top ? top.files.label(top.name) : 'the disk', () =>
    native.DiskHandle.openChain(opened, used, writable),
  )
}

/** Puts a child that was just made on top of an open chain. */
export function pushChild(handle: DiskHandle, link: LinkState, keys: KeyCache): void {
  const used: KeyHandle[] = []
  const opened = nativeLink(link, keys, used)
  naming(link.files.label(link.name), () => handle.pushChild(opened, used))
}

/** A KEK that opens the link, which was tried; undefined: the link is plain. */
export function kekOfLink(link: LinkState, keys: KeyCache): KeyHandle | undefined {
  if (link.keys.length === 0) return undefined
  const { files, name, vmId, diskId } = link
  let failure: unknown
  for (const kek of link.keys.map((key) => keys.get(key)).filter((found) => found !== undefined))
    try {
      naming(files.label(name), () => native.checkLink(files.path(name), kek, { vmId, diskId }))
      return kek
    } catch (error) {
      failure ??= error
    }
  throw failure ?? keyRequired({ file: name, diskId, keys: link.keys }, files)
}

function nativeLink(link: LinkState, keys: KeyCache, used: KeyHandle[]) {
  const descriptor = link.files.path(link.name)
  const kek = kekOfLink(link, keys)
  if (kek === undefined) return { descriptor }
  const { vmId, diskId } = link
  return { descriptor, kek: used.push(kek) - 1, binding: { vmId, diskId } }
}
