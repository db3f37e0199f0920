/** What a disk file is, read without a key. */
import { resolve } from 'node:path'
import { VmsealError, isVmsealError, type CryptoKeyId } from '../../errors.js'
import { native, type KeyHandle } from '../../native/load.js'
import type { KeySource } from './key-source.js'

/** What a disk that belongs to no VM is bound to. */
export const noVm = '00000000-0000-0000-0000-000000000000'

/** A data key and the KEKs of which any one opens it. */
export interface DataKeyState {
  readonly generation: number
  readonly keys: readonly CryptoKeyId[]
}

export interface ConversionState {
  readonly id: string
  readonly mode: 'encrypt' | 'decrypt' | 'recrypt'
  readonly phase: 'prepared' | 'converting' | 'finished'
  readonly doneBytes: number
  readonly totalBytes: number
  /** A crash may have left a zone half written, which repair and resume put right. */
  readonly zoneInFlight: boolean
  readonly diskId: string
  /** Null for an encryption. */
  readonly old: DataKeyState | null
  /** Null for a decryption. */
  readonly new: DataKeyState | null
}

export interface DiskState {
  readonly path: string
  readonly format: string
  readonly state: 'plain' | 'encrypted' | 'in conversion' | 'encrypted by another product'
  /** Null: only qemu-img knows. */
  readonly capacityBytes: number | null
  readonly allocatedBytes: number | null
  readonly diskId: string | null
  /** The VM that the wraps are bound to. */
  readonly vmId: string | null
  readonly cipher: string | null
  readonly sectorSize: number | null
  readonly holes: 'dense' | 'zero' | null
  readonly generation: number | null
  readonly keys: readonly CryptoKeyId[]
  readonly conversion: ConversionState | null
}

interface Image {
  readonly format: string
  readonly capacityBytes: number | null
  readonly allocatedBytes: number | null
}

interface Descriptor {
  readonly capacityBytes: number
  readonly uuid: string | null
  readonly sealed: {
    readonly id: string
    readonly cipher: string
    readonly sectorSize: number
    readonly holes: 'dense' | 'zero'
    readonly generation: number
    readonly wraps: readonly { readonly keyId: string; readonly providerId: string; readonly vmId: string }[]
  } | null
  readonly foreign: CryptoKeyId | null
}

const flatFormat = 'flat VMDK'

/** The codes of what is wrong with the file; VMSEAL_JOB_INVALID when its conversion lost its record. */
export function readDisk(file: string): DiskState {
  const path = resolve(file)
  const image = inspect(path)
  if (image.format !== flatFormat)
    return {
      ...nothingKnown,
      path,
      format: image.format,
      state: 'plain',
      capacityBytes: image.capacityBytes,
      allocatedBytes: image.allocatedBytes,
    }
  const conversion = JSON.parse(native.conversionInfo(path) ?? 'null') as ConversionState | null
  const { sealed, foreign, uuid, capacityBytes } = JSON.parse(native.readDescriptor(path)) as Descriptor
  return {
    path,
    format: image.format,
    state: image.isBetweenStates ? 'in conversion' : stateOf(sealed !== null, foreign !== null),
    capacityBytes,
    allocatedBytes: image.allocatedBytes,
    diskId: conversion?.diskId ?? sealed?.id ?? uuid,
    vmId: sealed?.wraps[0]?.vmId ?? null,
    cipher: sealed?.cipher ?? null,
    sectorSize: sealed?.sectorSize ?? null,
    holes: sealed?.holes ?? null,
    generation: sealed?.generation ?? null,
    keys: sealed?.wraps.map(({ keyId, providerId }) => ({ keyId, providerId })) ?? [],
    conversion,
  }
}

/** Refuses a disk that is not encrypted, with what to do instead. */
export function readEncrypted(file: string): DiskState & { readonly diskId: string } {
  const disk = readDisk(file)
  if (disk.state === 'in conversion')
    throw new VmsealError(
      'VMSEAL_DISK_IN_CONVERSION',
      `${disk.path}: an in-place conversion is unfinished. Go on with it: vmseal disk resume ${disk.path}`,
      { details: { subject: disk.path } },
    )
  if (disk.state !== 'encrypted' || disk.diskId === null)
    throw new VmsealError(
      'VMSEAL_DISK_STATE',
      `${disk.path} is ${disk.state}: there is no key to open it with`,
      {
        details: { subject: disk.path },
      },
    )
  return { ...disk, diskId: disk.diskId }
}

/** A KEK that opens the disk: the first one that the KMS still has. */
export async function anyOf(keys: KeySource, disk: Pick<DiskState, 'path' | 'keys'>): Promise<KeyHandle> {
  let failure: unknown
  for (const key of disk.keys) {
    try {
      return await keys.fetch(key)
    } catch (error) {
      failure ??= error
    }
  }
  throw failure ?? new VmsealError('VMSEAL_DESCRIPTOR_INVALID', `${disk.path} names no key`)
}

/** Where the disk says it belongs, or where the caller says so. */
export function bindingOf(
  disk: DiskState & { readonly diskId: string },
  vmId: string | undefined,
): { vmId: string; diskId: string } {
  return { vmId: vmId ?? disk.vmId ?? noVm, diskId: disk.diskId }
}

/** A disk between two states is not looked into, but for its descriptor. */
function inspect(path: string): Image & { readonly isBetweenStates: boolean } {
  try {
    return { ...(JSON.parse(native.inspectImage(path)) as Image), isBetweenStates: false }
  } catch (error) {
    if (!isVmsealError(error, 'VMSEAL_DISK_IN_CONVERSION')) throw error
    return { format: flatFormat, capacityBytes: null, allocatedBytes: null, isBetweenStates: true }
  }
}

function stateOf(sealed: boolean, foreign: boolean): DiskState['state'] {
  if (foreign) return 'encrypted by another product'
  return sealed ? 'encrypted' : 'plain'
}

const nothingKnown = {
  diskId: null,
  vmId: null,
  cipher: null,
  sectorSize: null,
  holes: null,
  generation: null,
  keys: [],
  conversion: null,
} as const
