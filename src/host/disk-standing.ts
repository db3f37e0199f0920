/**
 * Where a disk stands between its states. Before the first byte of an in-place conversion changes, the .vmx says what the
 * disk becomes (`vmsealConversion`); then the descriptor says that it is on the way; at the end the descriptor says the new
 * state and the .vmx follows. A crash anywhere leaves one of these, and each tells what the disk is.
 */
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import { native } from '../native/load.js'
import type { DiskConversion } from '../rpc/host-api.js'
import { naming } from './io-error.js'

/** What an in-place conversion makes of a disk. */
export interface Becoming {
  readonly mode: DiskConversion['mode']
  /** Generation of the DEK that the disk gets; absent: it becomes plain. */
  readonly generation?: number
}

/** A disk whose data is in two forms. */
export interface OpenConversion extends DiskConversion {
  /** The KEKs of each DEK that going on takes, any one of each. */
  readonly sides: readonly (readonly CryptoKeyId[])[]
}

/** A descriptor and the job beside it, as they were at one moment. */
interface Standing {
  readonly descriptor: Descriptor
  /** The descriptor says that the data is in two forms. */
  readonly inTransition: boolean
  readonly job: Job | null
}

interface Descriptor {
  readonly createType: string
  readonly capacityBytes: number
  readonly extents: readonly { readonly file: string }[]
  readonly sealed: SealedDescriptor | null
  readonly foreign: object | null
}

export interface SealedDescriptor {
  readonly id: string
  readonly state: string
  readonly generation: number
  readonly sectorSize: number
  readonly wraps: readonly CryptoKeyId[]
}

interface JobSide {
  readonly generation: number
  readonly keys: readonly CryptoKeyId[]
}

interface Job extends DiskConversion {
  readonly phase: 'prepared' | 'converting' | 'finished'
  readonly diskId: string
  readonly old: JobSide | null
  readonly new: JobSide | null
}

const attemptLimit = 5

/** Reads both files without a lock: when one changed in between, both are read again. */
export function readStanding(path: string, label: string): Standing {
  return naming(label, () => {
    for (let attempt = 1; ; attempt += 1) {
      const text = native.readDescriptor(path)
      const descriptor = JSON.parse(text) as Descriptor
      const inTransition =
        descriptor.createType === 'vmsealTransition' || (descriptor.sealed?.state ?? 'sealed') !== 'sealed'
      try {
        const job = JSON.parse(native.conversionInfo(path) ?? 'null') as Job | null
        const settled = job === null ? !inTransition : native.readDescriptor(path) === text
        if (settled || attempt === attemptLimit) return { descriptor, inTransition, job }
      } catch (error) {
        if (attempt === attemptLimit || native.readDescriptor(path) === text) throw error
      }
    }
  })
}

/** The conversion that a disk is in; undefined: its data is in one form. */
export function conversionOf(
  { inTransition, job }: Standing,
  disk: { readonly diskId: string; readonly becomes?: Becoming },
  label: string,
): OpenConversion | undefined {
  const details = { subject: label }
  if (!inTransition) {
    if (job?.phase === 'converting')
      throw new VmsealError(
        'VMSEAL_JOB_INVALID',
        `${label} was replaced while a conversion was under way: its data is in two forms. Restore the descriptor with the state of the job`,
        { details },
      )
    return undefined
  }
  const generation = job?.new?.generation
  if (job === null || job.mode !== disk.becomes?.mode || generation !== disk.becomes.generation)
    throw new VmsealError(
      'VMSEAL_DISK_IN_CONVERSION',
      `${label} is in an in-place conversion that its VM did not begin: end it with vmseal disk resume`,
      { details },
    )
  if (job.diskId !== disk.diskId)
    throw new VmsealError('VMSEAL_ENVELOPE_MISMATCH', `${label} is in the conversion of another disk`, {
      details,
    })
  const { mode, doneBytes, totalBytes } = job
  const sides = [job.new, job.old].flatMap((side) => (side === null ? [] : [side.keys]))
  return { mode, doneBytes, totalBytes, sides }
}

/** Whether a disk that is in one form has become what it was to become. */
export function hasBecome({ mode, generation }: Becoming, sealed: SealedDescriptor | null): boolean {
  return mode === 'decrypt' ? sealed === null : sealed?.generation === generation
}

/** Removes the record of a conversion that ended, or never began, before a crash. What is not so stays, and is refused. */
export async function tidyJob(path: string): Promise<void> {
  const nowhere = '00000000-0000-0000-0000-000000000000'
  try {
    // Without a key nothing is converted: a disk that stands between its states refuses.
    await native.resumeConversion(path, [], { vmId: nowhere, diskId: nowhere }).done()
  } catch (error) {
    if (!isVmsealError(error)) throw error
  }
}

/** The value of `vmsealConversion`: `encrypt 5`, `recrypt 6`, `decrypt`. */
export function serialiseBecoming({ mode, generation }: Becoming): string {
  return generation === undefined ? mode : `${mode} ${generation}`
}

/** Undefined: the text is none. */
export function parseBecoming(text: string): Becoming | undefined {
  if (text === 'decrypt') return { mode: 'decrypt' }
  const match = /^(encrypt|recrypt) ([1-9]\d{0,9})$/.exec(text)
  return match ? { mode: match[1] as 'encrypt' | 'recrypt', generation: Number(match[2]) } : undefined
}
