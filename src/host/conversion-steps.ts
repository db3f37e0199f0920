/** Steps of conversions besides the copy itself: going on with one, reading it back, and conversion where a disk lies. */
import { isVmsealError, type CryptoKeyId } from '../errors.js'
import { native, type KeyHandle, type NativeTask, type SealSpec } from '../native/load.js'
import type { DiskState } from './disks.js'
import type { KeyCache } from './key-cache.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import type { WorkStep } from './work.js'

/** What is there of a copy to `target`, of whose names `made` are there. */
export function standingOfCopy(
  target: string,
  made: ReadonlySet<string>,
  files: VirtualMachineFiles,
): 'none' | 'begun' | 'whole' {
  const [descriptor = '', flat = ''] = files.filesOfDisk(target)
  if (!made.has(flat)) return 'none'
  try {
    if (native.copyInfo(files.path(descriptor)) !== null) return 'begun'
    return made.has(descriptor) ? 'whole' : 'none'
  } catch (error) {
    // A damaged record: the copy begins anew.
    if (isVmsealError(error)) return 'none'
    throw error
  }
}

export function resumeCopyStep(
  disk: DiskState,
  target: string,
  keks: readonly KeyHandle[],
  vmId: string,
  files: VirtualMachineFiles,
): WorkStep {
  const binding = { vmId, diskId: disk.diskId }
  return {
    label: `go on with the copy of ${disk.device}`,
    bytes: disk.capacityBytes,
    start: () => native.resumeCopy(files.path(target), [...keks], binding),
  }
}

/** Reads the copy back and compares it with its source: without that nothing is committed, and the source stays. */
export function verifyStep(
  disk: DiskState,
  target: string,
  keks: readonly KeyHandle[],
  vmId: string,
  files: VirtualMachineFiles,
): WorkStep {
  const binding = { vmId, diskId: disk.diskId }
  return {
    label: `verify ${disk.device}`,
    bytes: disk.capacityBytes,
    start: () => native.verifyCopy(files.path(disk.file), files.path(target), [...keks], binding),
  }
}

/** The same changes where the disk lies. They leave it in conversion when they do not come to their end. */
export function inPlaceStep(
  disk: DiskState,
  change: InPlaceChange,
  vmId: string,
  files: VirtualMachineFiles,
): WorkStep {
  const path = files.path(disk.file)
  const binding = { vmId, diskId: disk.diskId }
  const start = (): NativeTask => {
    switch (change.mode) {
      case 'encrypt':
        return native.encryptDiskInPlace(path, change.kek, change.spec)
      case 'decrypt':
        return native.decryptDiskInPlace(path, change.kek, binding)
      case 'recrypt':
        return native.recryptDiskInPlace(path, change.kek, binding, change.newKek, change.newKey)
    }
  }
  return { label: `${change.mode} ${disk.device} in place`, bytes: disk.capacityBytes, start }
}

export type InPlaceChange =
  | { readonly mode: 'encrypt'; readonly kek: KeyHandle; readonly spec: SealSpec }
  | { readonly mode: 'decrypt'; readonly kek: KeyHandle }
  | {
      readonly mode: 'recrypt'
      readonly kek: KeyHandle
      readonly newKek: KeyHandle
      readonly newKey: CryptoKeyId
    }

/** Goes on with the conversion that the disk is in. Every key of it is here: the caller saw to that. */
export function resumeStep(
  disk: DiskState,
  vmId: string,
  keys: KeyCache,
  files: VirtualMachineFiles,
): WorkStep {
  const keks = disk.keys.map((key) => keys.get(key)).filter((kek) => kek !== undefined)
  const binding = { vmId, diskId: disk.diskId }
  return {
    label: `resume ${disk.conversion?.mode ?? 'conversion'} of ${disk.device}`,
    bytes: disk.capacityBytes,
    start: () => native.resumeConversion(files.path(disk.file), keks, binding),
  }
}
