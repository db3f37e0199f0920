/** A VM as its files show it, without keys. */
import { isDeepStrictEqual } from 'node:util'
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { DiskConfig, SnapshotConfig, VmConfig } from '../rpc/host-api.js'
import type { CryptoStates } from './change-rules.js'
import { readLinks } from './disk-chain.js'
import { missingKeysOfDisk, readDiskState, type DiskState } from './disks.js'
import { describeHome, type DiskEntry, type HomeDescription } from './home-description.js'
import type { KeyCache } from './key-cache.js'
import { migrateEncryptionOf } from './migrate-encryption-setting.js'
import { readSnapshotTable } from './snapshot-table-reader.js'
import {
  chainOf,
  linkOf,
  shapeOf,
  type CloneRecord,
  type SnapshotRecord,
  type SnapshotTable,
} from './snapshot-table.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { keysOfWrap, openHome, type OpenHome } from './vm-home.js'
import type { VmxDocument } from './vmx.js'

export interface VirtualMachine {
  readonly document: VmxDocument
  readonly description: HomeDescription
  readonly disks: readonly DiskState[]
  /** The KEKs of VM home, any of which opens it; empty: VM home is plain. */
  readonly homeKeys: readonly CryptoKeyId[]
  /** Ours, and what a .vmsd of somebody else counts; `unknown`: it cannot be read. */
  readonly snapshots: number | 'unknown'
  readonly table: SnapshotTable
  /** The KEKs of files that snapshots keep and no disk of the present state is made of. */
  readonly keptKeys: readonly CryptoKeyId[]
}

/** Rejects with VMSEAL_NOT_FOUND if there is no .vmx. */
export async function readVirtualMachine(files: VirtualMachineFiles): Promise<VirtualMachine> {
  const document = await files.readVmx()
  if (document === undefined) throw notFound(files)
  const description = describeHome(document, files)
  const table = await withLiveClones(readSnapshotTable(document, files), files)
  const disks: DiskState[] = []
  for (const entry of description.disks) disks.push(await readDisk(entry, table, description.vmId, files))
  requireNotRolledBack(description, disks, files)
  const homeKeys = description.wrap ? keysOfWrap(description.wrap, files) : []
  const counted = await files.snapshotCount()
  const snapshots = counted === 'unknown' ? counted : counted + table.snapshots.length
  const keptKeys = await keysOfKeptLinks(table, disks, files)
  return { document, description, disks, homeKeys, snapshots, table, keptKeys }
}

async function readDisk(
  entry: DiskEntry,
  table: SnapshotTable,
  vmId: string,
  files: VirtualMachineFiles,
): Promise<DiskState> {
  const chain = chainOf(table, entry, vmId)
  if (chain.length === 1) return readDiskState(entry, files)
  const top = chain.at(-1)
  if (top?.generation !== entry.sealedGeneration || top?.diskId !== entry.diskId)
    throw new VmsealError(
      'VMSEAL_VMX_INVALID',
      `${files.label(files.vmx)} describes ${entry.file} twice and differently`,
    )
  const { states, top: state } = await readLinks(chain, entry.device, files)
  return { ...state, ...entry, links: states }
}

/** A clone that was removed, or never came to be, holds nothing any more. */
async function withLiveClones(table: SnapshotTable, files: VirtualMachineFiles): Promise<SnapshotTable> {
  if (table.clones.length === 0) return table
  const clones: CloneRecord[] = []
  for (const clone of table.clones)
    if ((await files.neighbour(clone.name).readVmx())?.get('vmseal.id') === clone.vmId) clones.push(clone)
  return { ...table, clones }
}

/** VMSEAL_DISK_CHAIN while linked clones read files of the VM. */
export async function refuseClones(document: VmxDocument, files: VirtualMachineFiles): Promise<void> {
  const { clones } = await withLiveClones(readSnapshotTable(document, files), files)
  if (clones.length === 0) return
  const subject = files.label(files.vmx)
  const names = clones.map(({ name }) => name).join(', ')
  throw new VmsealError('VMSEAL_DISK_CHAIN', `linked clones read the disks of ${subject}: ${names}`, {
    details: { subject },
  })
}

async function keysOfKeptLinks(
  table: SnapshotTable,
  disks: readonly DiskState[],
  files: VirtualMachineFiles,
): Promise<CryptoKeyId[]> {
  const read = new Set(disks.flatMap(({ file, links = [] }) => [file, ...links.map((link) => link.file)]))
  const kept = [...table.links, ...table.snapshots.flatMap((s) => s.disks.map((disk) => linkOf(disk, '')))]
  const keys: CryptoKeyId[] = []
  for (const link of kept.filter(({ file }) => !read.has(file))) {
    read.add(link.file)
    const { states } = await readLinks([link], 'a snapshot', files)
    keys.push(...states.flatMap((state) => state.keys))
  }
  return distinctKeys(keys)
}

/**
 * Reading takes no lock. When it fails because a transaction was committed meanwhile, which removes
 * the files that the old .vmx named, it begins again.
 */
export async function readConsistently<T>(files: VirtualMachineFiles, read: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    const before = (await files.readVmx())?.toString()
    try {
      return await read()
    } catch (error) {
      if (attempt === 5 || (await files.readVmx())?.toString() === before) throw error
    }
  }
}

/**
 * Opens VM home with whichever of its KEKs is here: VMSEAL_ENCRYPTION_KEY_REQUIRED if none is. Undefined: VM home is plain. The
 * caller disposes of the DEK.
 */
export function openHomeOf(
  vm: VirtualMachine,
  keys: KeyCache,
  files: VirtualMachineFiles,
): OpenHome | undefined {
  const { wrap } = vm.description
  if (wrap === undefined) return undefined
  let failure: unknown
  for (const [index, jwe] of wrap.jwes.entries()) {
    const key = vm.homeKeys[index]
    const kek = key && keys.get(key)
    if (kek === undefined) continue
    try {
      return openHome(vm.description, wrap, jwe, kek, files)
    } catch (error) {
      failure ??= error
    }
  }
  throw failure ?? keysRequired(files, vm.homeKeys)
}

/** Which parts are encrypted, for the rules of a change. */
export function cryptoStatesOf(vm: VirtualMachine, files: VirtualMachineFiles): CryptoStates {
  return {
    homeSealed: vm.homeKeys.length > 0,
    snapshots: vm.snapshots,
    shape: shapeOf(vm.table, vm.description),
    disks: vm.disks.map(({ diskId, file, keys, links, shared, conversion }) => ({
      diskId,
      sealed: keys.length > 0,
      label: files.label(file),
      ...(shared && { shared }),
      inConversion: conversion !== undefined,
      chained:
        links !== undefined || vm.table.snapshots.some((s) => s.disks.some((d) => d.diskId === diskId)),
    })),
  }
}

export function toConfig(
  vm: VirtualMachine,
  files: VirtualMachineFiles,
  keys: KeyCache,
  powerState: VmConfig['powerState'],
): VmConfig {
  const { vmId, name, wrap } = vm.description
  const [homeKey, ...homeFormerKeys] = vm.homeKeys
  const disks = vm.disks.map((disk) => diskConfigOf(disk, files))
  const present = [homeKey, ...disks.map(({ key }) => key)]
  const keptKeys = vm.keptKeys.filter((key) => !present.some((other) => isDeepStrictEqual(other, key)))
  const chain = shapeOf(vm.table, vm.description)
  return {
    ...files.reference,
    vmId,
    name,
    ...(homeKey && { homeKey }),
    ...(wrap && { homeGeneration: wrap.generation }),
    ...(homeFormerKeys.length > 0 && { homeFormerKeys }),
    disks,
    // A VM that is on is open, whatever became of its KEK in the cache meanwhile.
    cryptoState: powerState === 'poweredOff' && missingHomeKeys(vm, keys).length > 0 ? 'locked' : 'unlocked',
    missingKeys: missingKeysOf(vm, keys),
    powerState,
    ...(typeof vm.snapshots === 'number' && vm.snapshots > 0 && { snapshots: vm.snapshots }),
    ...(keptKeys.length > 0 && { keptKeys }),
    migrateEncryption: migrateEncryptionOf(vm),
    ...(chain !== 'none' && { chain }),
    ...(vm.table.snapshots.length > 0 && { snapshotTree: vm.table.snapshots.map(snapshotConfigOf) }),
    ...(vm.table.current !== undefined && { currentSnapshot: vm.table.current }),
  }
}

/** The KEKs of the parts that cannot be opened here, each once, VM home first. */
export function missingKeysOf(vm: VirtualMachine, keys: KeyCache): CryptoKeyId[] {
  return distinctKeys([
    ...missingHomeKeys(vm, keys),
    ...vm.disks.flatMap((disk) => missingKeysOfDisk(disk, keys)),
  ])
}

/** Empty: VM home is plain, or the host has a KEK for it. */
export function missingHomeKeys(vm: VirtualMachine, keys: KeyCache): readonly CryptoKeyId[] {
  return vm.homeKeys.some((key) => keys.get(key) !== undefined) ? [] : vm.homeKeys
}

function snapshotConfigOf(snapshot: SnapshotRecord): SnapshotConfig {
  const { id, name, description, createdAt, parent, memory, disks } = snapshot
  return {
    id,
    name,
    description,
    createdAt,
    ...(parent !== undefined && { parent }),
    memory,
    disks: disks.map(({ diskId, device }) => ({ diskId, device })),
  }
}

/** That of the oldest file of the disk in this VM, which only a deep recrypt changes. */
function generationOf(disk: DiskState, files: VirtualMachineFiles): number | undefined {
  const own = disk.links?.find((link) => link.files.directory === files.directory)
  return own ? own.generation : disk.sealedGeneration
}

function diskConfigOf(disk: DiskState, files: VirtualMachineFiles): DiskConfig {
  const { diskId, device, file, capacityBytes, keys, links = [], shared, conversion } = disk
  const generation = generationOf(disk, files)
  const [key] = keys
  const others = [...keys, ...links.flatMap((link) => link.keys)]
  const formerKeys = distinctKeys(others).filter((other) => !isDeepStrictEqual(other, key))
  const linkKeys = links.flatMap((link) => (link.keys.length > 0 ? [link.keys] : []))
  return {
    diskId,
    device,
    file,
    capacityBytes,
    ...(key && { key }),
    ...(generation !== undefined && { generation }),
    ...(formerKeys.length > 0 && { formerKeys }),
    ...(formerKeys.length > 0 && linkKeys.length > 0 && { linkKeys }),
    ...(shared && { shared }),
    ...(conversion && {
      conversion: {
        mode: conversion.mode,
        doneBytes: conversion.doneBytes,
        totalBytes: conversion.totalBytes,
      },
    }),
  }
}

/** A plain part passes: vCenter may not have heard of its decryption. */
function requireNotRolledBack(
  description: HomeDescription,
  disks: readonly DiskState[],
  files: VirtualMachineFiles,
): void {
  const found = [
    { part: 'home', label: files.label(files.vmx), generation: description.wrap?.generation },
    ...disks.map((disk) => ({
      part: disk.diskId,
      label: files.label(disk.file),
      generation: generationOf(disk, files),
    })),
  ]
  for (const { part, label, generation } of found) {
    const known = files.knownGenerations[part]
    if (known === undefined || generation === undefined || generation >= known) continue
    throw new VmsealError(
      'VMSEAL_ROLLBACK_DETECTED',
      `${label} has a DEK of generation ${generation}, and vCenter has seen ${known}: the files are from before a deep recrypt`,
      { details: { subject: label } },
    )
  }
}

export function distinctKeys(keys: readonly (CryptoKeyId | undefined)[]): CryptoKeyId[] {
  const distinct = new Map<string, CryptoKeyId>()
  for (const key of keys)
    if (key !== undefined) distinct.set(JSON.stringify([key.providerId, key.keyId]), key)
  return [...distinct.values()]
}

export function notFound(files: VirtualMachineFiles): VmsealError {
  const subject = files.label(files.vmx)
  return new VmsealError('VMSEAL_NOT_FOUND', `there is no VM ${subject}`, { details: { subject } })
}

/** The error of a VM whose KEKs are not on this host. */
export function keysRequired(files: VirtualMachineFiles, requiredKeys: readonly CryptoKeyId[]): VmsealError {
  const subject = files.label(files.vmx)
  const names = requiredKeys.map(({ keyId, providerId }) => `${keyId} of ${providerId}`).join(', ')
  return new VmsealError(
    'VMSEAL_ENCRYPTION_KEY_REQUIRED',
    `${subject} needs keys that are not on this host: ${names}`,
    {
      details: { requiredKeys, subject },
    },
  )
}
