/** A VM as its files show it, without keys. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { DiskConfig, VmConfig } from '../rpc/host-api.js'
import type { CryptoStates } from './change-rules.js'
import { missingKeysOfDisk, readDiskState, type DiskState } from './disks.js'
import { describeHome, type HomeDescription } from './home-description.js'
import type { KeyCache } from './key-cache.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { keysOfWrap, openHome, type OpenHome } from './vm-home.js'
import type { VmxDocument } from './vmx.js'

export interface VirtualMachine {
  readonly document: VmxDocument
  readonly description: HomeDescription
  readonly disks: readonly DiskState[]
  /** The KEKs of VM home, any of which opens it; empty: VM home is plain. */
  readonly homeKeys: readonly CryptoKeyId[]
  /** What the .vmsd counts; `unknown`: it cannot be read. */
  readonly snapshots: number | 'unknown'
}

/** Rejects with VMSEAL_NOT_FOUND if there is no .vmx. */
export async function readVirtualMachine(files: VirtualMachineFiles): Promise<VirtualMachine> {
  const document = await files.readVmx()
  if (document === undefined) throw notFound(files)
  const description = describeHome(document, files)
  const disks: DiskState[] = []
  for (const entry of description.disks) disks.push(await readDiskState(entry, files))
  requireNotRolledBack(description, disks, files)
  const homeKeys = description.wrap ? keysOfWrap(description.wrap, files) : []
  return { document, description, disks, homeKeys, snapshots: await files.snapshotCount() }
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
    disks: vm.disks.map(({ diskId, file, keys, conversion }) => ({
      diskId,
      sealed: keys.length > 0,
      label: files.label(file),
      inConversion: conversion !== undefined,
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
  return {
    ...files.reference,
    vmId,
    name,
    ...(homeKey && { homeKey }),
    ...(wrap && { homeGeneration: wrap.generation }),
    ...(homeFormerKeys.length > 0 && { homeFormerKeys }),
    disks: vm.disks.map(diskConfigOf),
    // A VM that is on is open, whatever became of its KEK in the cache meanwhile.
    cryptoState: powerState === 'poweredOff' && missingHomeKeys(vm, keys).length > 0 ? 'locked' : 'unlocked',
    missingKeys: missingKeysOf(vm, keys),
    powerState,
    ...(typeof vm.snapshots === 'number' && vm.snapshots > 0 && { snapshots: vm.snapshots }),
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

function diskConfigOf({
  diskId,
  device,
  file,
  capacityBytes,
  sealedGeneration,
  keys,
  conversion,
}: DiskState): DiskConfig {
  const [key, ...formerKeys] = keys
  return {
    diskId,
    device,
    file,
    capacityBytes,
    ...(key && { key }),
    ...(sealedGeneration !== undefined && { generation: sealedGeneration }),
    ...(formerKeys.length > 0 && { formerKeys }),
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
    ...disks.map(({ diskId, file, sealedGeneration }) => ({
      part: diskId,
      label: files.label(file),
      generation: sealedGeneration,
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
