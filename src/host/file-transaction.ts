/**
 * All or nothing over the files of a VM. New files get new names; the commit is the replacement of
 * the .vmx, which names them and carries the next generation; old files go afterwards. A manifest on
 * the datastore says what to remove after a crash, on either side of the commit.
 *
 * The caller holds the VM's lock.
 */
import { VmsealError, isVmsealError } from '../errors.js'
import { readSmallFile, removeFile, replaceFile, syncDirectory } from './durable-file.js'
import { describeHome } from './home-description.js'
import type { VirtualMachineLock } from './lock.js'
import { readSnapshotTable } from './snapshot-table-reader.js'
import { filesOfDisksAndSnapshots } from './snapshot-table.js'
import { manifestByteLimit, parseManifest, serialiseManifest, type TaskManifest } from './task-manifest.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { vmxByteLimit, type VmxDocument } from './vmx.js'
import type { WorkMeter, WorkStep } from './work.js'

export interface FileTransaction extends TaskManifest {
  /** Writes small files that the steps need, after the manifest is durable. */
  readonly prepare?: () => Promise<void>
  /** Make the created files, in this order. */
  readonly steps: readonly WorkStep[]
  /** Throws if a created file is not what it should be: the last word before the commit. */
  readonly verify?: () => void
  /** Rejects when what the transaction reads is not held any more: asked right before the commit. */
  readonly assertHeld?: () => Promise<void>
  /** The .vmx of the new generation. */
  readonly vmx: VmxDocument
  /** What follows from the commit, before the manifest goes. When it fails, the next holder of the lock does it. */
  readonly committed?: () => Promise<void>
}

/** Rejects with everything as it was, or resolves with everything done. */
export async function commitTransaction(
  files: VirtualMachineFiles,
  lock: VirtualMachineLock,
  transaction: FileTransaction,
  meter: WorkMeter,
): Promise<void> {
  const text = transaction.vmx.toString()
  if (Buffer.byteLength(text) > vmxByteLimit)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `${files.label(files.vmx)} would exceed ${vmxByteLimit} bytes`,
    )
  try {
    await replaceFile(files.path(files.manifest), serialiseManifest(transaction))
    await transaction.prepare?.()
    for (const step of transaction.steps) await meter.run(step)
    transaction.verify?.()
    await syncDirectory(files.directory)
    await transaction.assertHeld?.()
    await lock.assertHeld()
    meter.throwIfCancelled()
  } catch (error) {
    await orLeaveToRecovery(undo(files, transaction.created))
    throw error
  }
  await replaceVmx(files, text, transaction)
  await orLeaveToRecovery(end(files, transaction))
}

async function end(files: VirtualMachineFiles, transaction: FileTransaction): Promise<void> {
  await transaction.committed?.()
  await finish(files, transaction)
}

type Recovery = 'nothing' | 'undone' | 'finished' | 'kept'

/**
 * Ends a transaction that a crash interrupted: before its commit it is undone, after it, finished.
 * Files that the .vmx names are never removed, whatever the manifest says. One that would be undone is kept when `resumes`
 * says that it will be gone on with.
 */
export async function recover(
  files: VirtualMachineFiles,
  resumes: (manifest: TaskManifest) => boolean = () => false,
): Promise<Recovery> {
  const names = await files.list()
  let outcome: Recovery = 'nothing'
  if (names.includes(files.manifest)) {
    const subject = files.label(files.manifest)
    const path = files.path(files.manifest)
    const bytes = await readSmallFile(path, manifestByteLimit, subject, 'VMSEAL_STORE_INVALID')
    const manifest = parseManifest(bytes.toString(), files)
    const live = await liveFiles(files)
    if (live.generation === manifest.generation) {
      await finish(files, manifest)
      outcome = 'finished'
    } else if (live.generation + 1 === manifest.generation && resumes(manifest)) {
      outcome = 'kept'
    } else {
      await undo(
        files,
        manifest.created.filter((name) => !live.names.has(name)),
      )
      outcome = 'undone'
    }
  }
  await removeTemporaries(files)
  return outcome
}

/** The interrupted transaction of a VM, if there is one and it can be read; for whoever only looks. */
export async function readManifest(files: VirtualMachineFiles): Promise<TaskManifest | undefined> {
  try {
    const subject = files.label(files.manifest)
    const path = files.path(files.manifest)
    const bytes = await readSmallFile(path, manifestByteLimit, subject, 'VMSEAL_STORE_INVALID')
    return parseManifest(bytes.toString(), files)
  } catch (error) {
    if (isVmsealError(error)) return undefined
    throw error
  }
}

/** The commit. When it fails after the rename, the manifest stays, and recovery finds out which side won. */
async function replaceVmx(files: VirtualMachineFiles, text: string, manifest: TaskManifest): Promise<void> {
  try {
    await replaceFile(files.path(files.vmx), text)
  } catch (error) {
    const found = await files.readVmx()
    if (found?.toString() !== text) await orLeaveToRecovery(undo(files, manifest.created))
    throw error
  }
}

/** Cleaning up decides nothing: when it fails, the manifest stays and the next holder of the lock cleans up. */
async function orLeaveToRecovery(cleaning: Promise<void>): Promise<void> {
  try {
    await cleaning
  } catch {
    return
  }
}

async function undo(files: VirtualMachineFiles, created: readonly string[]): Promise<void> {
  await files.remove(created)
  await removeTemporaries(files)
  await removeFile(files.path(files.manifest))
  await syncDirectory(files.directory)
}

/** Removes what the committed generation does not need; what a snapshot still names is no leftover. */
export async function finish(files: VirtualMachineFiles, manifest: TaskManifest): Promise<void> {
  const { names } = await liveFiles(files)
  const leftOver = (list: readonly string[]) => list.filter((name) => !names.has(name))
  for (const name of leftOver(manifest.overwritten ?? [])) await files.overwrite(name)
  await files.remove(leftOver(manifest.superseded))
  await removeTemporaries(files)
  await syncDirectory(files.directory)
  await removeFile(files.path(files.manifest))
  await syncDirectory(files.directory)
}

/** Also those of the lock file: who loses one of these to us finds the VM locked. */
async function removeTemporaries(files: VirtualMachineFiles): Promise<void> {
  await files.remove((await files.list()).filter((name) => files.kindOf(name) === 'temporary'))
}

/** What the .vmx says; generation 0 and no files if there is none. */
async function liveFiles(files: VirtualMachineFiles): Promise<{ generation: number; names: Set<string> }> {
  const document = await files.readVmx()
  if (document === undefined) return { generation: 0, names: new Set() }
  const { generation, disks, homeFiles } = describeHome(document, files)
  const named = filesOfDisksAndSnapshots(disks, readSnapshotTable(document, files), files)
  return { generation, names: new Set([...named, ...homeFiles.map(({ file }) => file)]) }
}
