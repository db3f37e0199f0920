/**
 * The record of a transaction on a VM's files, `<name>.vmseal-task`: which files it makes, which it
 * makes superfluous, and the generation that the .vmx has once it is committed. It is data from the
 * datastore: a name that cannot be a disk or home file of this VM makes the whole record invalid.
 */
import { VmsealError } from '../errors.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'

/** The other place of a VM that moves between datastores. */
export interface MoveRecord {
  /** Of the place that the manifest lies in. */
  readonly role: 'source' | 'target'
  /** Where the other place is, under the same name. */
  readonly datastore: string
}

export interface TaskManifest {
  /** vmseal.gen of the .vmx after the commit; 0: the VM is destroyed, there is no .vmx. */
  readonly generation: number
  readonly created: readonly string[]
  readonly superseded: readonly string[]
  /** Of the superseded files those that are overwritten with zeros before they go. */
  readonly overwritten?: readonly string[]
  /** What was asked for, as JSON: the same request after a crash goes on with the files that were made. */
  readonly request?: string
  /** It is one half of a move to or from another datastore. */
  readonly move?: MoveRecord
}

export const manifestByteLimit = 256 * 1024
const nameLimit = 2000
const generationLimit = 0xffffffff

export function serialiseManifest(manifest: TaskManifest): string {
  const { generation, created, superseded, overwritten, request, move } = manifest
  const value = { version: 1, generation, created, superseded, overwritten, request, move }
  return `${JSON.stringify(value, undefined, 1)}\n`
}

export function parseManifest(text: string, files: VirtualMachineFiles): TaskManifest {
  const value = parseJson(text, files)
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalid(files, 'it is no object')
  const { version, generation, created, superseded, overwritten, request, move } = value as Record<
    string,
    unknown
  >
  if (version !== 1) throw invalid(files, 'its version is unknown')
  if (!Number.isInteger(generation) || (generation as number) < 0 || (generation as number) > generationLimit)
    throw invalid(files, 'its generation is no 32-bit number')
  return {
    generation: generation as number,
    created: checkNames(created, files),
    superseded: checkNames(superseded, files),
    ...(overwritten !== undefined && { overwritten: checkNames(overwritten, files) }),
    ...(typeof request === 'string' && { request }),
    ...(move !== undefined && { move: checkMove(move, files) }),
  }
}

function parseJson(text: string, files: VirtualMachineFiles): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw invalid(files, 'it is no JSON')
  }
}

function checkNames(names: unknown, files: VirtualMachineFiles): string[] {
  if (!Array.isArray(names) || names.length > nameLimit) throw invalid(files, 'it lacks a list of files')
  return names.map((name: unknown) => {
    const kind = typeof name === 'string' ? files.kindOf(name) : undefined
    if (kind === 'disk' || kind === 'home') return name as string
    throw invalid(
      files,
      `it names ${JSON.stringify(name)?.slice(0, 100)}, which is no disk or home file of the VM`,
    )
  })
}

function checkMove(move: unknown, files: VirtualMachineFiles): MoveRecord {
  const { role, datastore } = (move ?? {}) as Partial<Record<keyof MoveRecord, unknown>>
  if ((role !== 'source' && role !== 'target') || typeof datastore !== 'string' || datastore.length > 63)
    throw invalid(files, 'it names no other place')
  return { role, datastore }
}

function invalid(files: VirtualMachineFiles, reason: string): VmsealError {
  const subject = files.label(files.manifest)
  return new VmsealError(
    'VMSEAL_STORE_INVALID',
    `${subject} cannot be used: ${reason}. No file was touched; remove it only after comparing the folder with the .vmx`,
    { details: { subject } },
  )
}
