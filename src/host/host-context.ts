/** What the operations of a host work with, and how they hold a VM. */
import type { Datastore } from './datastore.js'
import type { Datastores } from './datastores.js'
import { VmsealError } from '../errors.js'
import { tidyJob } from './disk-standing.js'
import { recover } from './file-transaction.js'
import { endInterruptedMove } from './interrupted-move.js'
import type { KeyCache } from './key-cache.js'
import { VirtualMachineLock, type LockOwner } from './lock.js'
import type { TaskManifest } from './task-manifest.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { logLine } from './vm-log.js'

export interface HostContext {
  readonly name: string
  readonly owner: LockOwner
  readonly keys: KeyCache
  readonly freeBytes: (datastore: Datastore) => Promise<number>
  /** Those of the host. */
  readonly datastores: Pick<Datastores, 'get'>
}

/** Takes the VM's lock and ends what a crash left unfinished, but for what `resumes`. The caller releases the lock. */
export async function takeVirtualMachine(
  context: HostContext,
  files: VirtualMachineFiles,
  resumes?: (manifest: TaskManifest) => boolean,
): Promise<VirtualMachineLock> {
  await files.requireFolder()
  const lock = await VirtualMachineLock.acquire(files, context.owner)
  try {
    await endInterruptedMove(context, files)
    const recovery = await recover(files, resumes)
    await tidyJobs(files)
    if (recovery !== 'nothing') await logLine(files, context.name, `interrupted transaction ${recovery}`)
    return lock
  } catch (error) {
    await lock.release()
    throw error
  }
}

/** What is left beside disks by in-place conversions that ended, or never began, before a crash: journals and void locks. */
async function tidyJobs(files: VirtualMachineFiles): Promise<void> {
  for (const name of await files.list()) {
    const descriptor = /^(.*\.vmdk)\.(?:vmseal-job|lck)$/.exec(name)?.[1]
    if (descriptor !== undefined && files.isDescriptor(descriptor)) await tidyJob(files.path(descriptor))
  }
}

/** Runs `body` while the VM's lock is held. */
export async function holdVirtualMachine<T>(
  context: HostContext,
  files: VirtualMachineFiles,
  body: (lock: VirtualMachineLock) => Promise<T>,
  resumes?: (manifest: TaskManifest) => boolean,
): Promise<T> {
  const lock = await takeVirtualMachine(context, files, resumes)
  try {
    return await body(lock)
  } finally {
    await lock.release()
  }
}

/** Rejects with VMSEAL_NO_SPACE unless new files of `neededBytes` fit beside the old ones. */
export async function requireSpace(
  context: HostContext,
  datastore: Datastore,
  neededBytes: number,
): Promise<void> {
  // Small files, and what a file system needs for its own tables.
  const reserve = 1024 * 1024
  const freeBytes = await context.freeBytes(datastore)
  if (freeBytes >= neededBytes + reserve) return
  throw new VmsealError(
    'VMSEAL_NO_SPACE',
    `datastore ${datastore.name} has ${freeBytes} bytes free and ${neededBytes + reserve} are needed; nothing was changed`,
    { details: { subject: datastore.name } },
  )
}
