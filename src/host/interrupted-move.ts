/**
 * A move between datastores that a crash interrupted. Both places have a manifest that names the other one. Until the .vmx stands in
 * the new place the old one is the VM; from then on the new one is, and nothing is done with it before the old one is gone: so
 * the VM is never used in two places.
 */
import { rmdir } from 'node:fs/promises'
import { VmsealError, isVmsealError } from '../errors.js'
import type { Datastore } from './datastore.js'
import { removeFile, replaceFile, syncDirectory } from './durable-file.js'
import { finish, readManifest, recover } from './file-transaction.js'
import { errnoOf, ioError } from './io-error.js'
import { VirtualMachineLock, type LockOwner } from './lock.js'
import { serialiseManifest, type MoveRecord } from './task-manifest.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'

interface MoveContext {
  readonly name: string
  readonly owner: LockOwner
  readonly datastores: { get(name: string): Datastore }
}

/**
 * Ends what was interrupted as far as the place `files` is concerned, whose lock is held; its own manifest is left to `recover`.
 * VMSEAL_INVALID_STATE on a host that lacks the other datastore.
 */
export async function endInterruptedMove(context: MoveContext, files: VirtualMachineFiles): Promise<void> {
  const move = (await readManifest(files))?.move
  if (move === undefined) return
  const document = await files.readVmx()
  // A new place that did not come to be, or an old one that is gone: both are known by their own manifest.
  if (document === undefined) return
  const other = otherPlace(context, move, files)
  if (move.role === 'target') await removeOldPlace(context, other, files)
  else if ((await other.readVmx())?.get('vmseal.id') === document.get('vmseal.id'))
    await removeMovedSource(files)
  else await undoNewPlace(context, other, files)
}

/**
 * Removes the VM from the place that it moved away from. The manifest says which files go: after a crash in here it is called again,
 * or `recover` ends it. Files of others, and disks that were detached, stay.
 */
export async function removeMovedSource(files: VirtualMachineFiles): Promise<void> {
  const manifest = await readManifest(files)
  if (manifest?.move?.role !== 'source') return
  const { superseded, move } = manifest
  const removal = { generation: 0, created: [], superseded, move }
  await replaceFile(files.path(files.manifest), serialiseManifest(removal))
  await removeFile(files.path(files.vmx))
  await syncDirectory(files.directory)
  for (const name of [files.vmsd, files.log]) await removeFile(files.path(name))
  await finish(files, removal)
}

/** Nothing of the VM is left in its folder; what is left of others stays. */
export async function removeIfEmpty(files: VirtualMachineFiles): Promise<void> {
  try {
    await rmdir(files.directory)
  } catch (error) {
    if (!['ENOTEMPTY', 'EEXIST', 'ENOENT'].includes(errnoOf(error) ?? ''))
      throw ioError(error, files.label(''))
  }
}

async function removeOldPlace(
  { owner }: MoveContext,
  old: VirtualMachineFiles,
  files: VirtualMachineFiles,
): Promise<void> {
  if (await isPartOf(old, 'source', files)) {
    const lock = await VirtualMachineLock.acquire(old, owner)
    try {
      // Whoever was faster ended it.
      if (await isPartOf(old, 'source', files)) await removeMovedSource(old)
    } finally {
      await lock.release()
    }
  } else if ((await old.readVmx()) === undefined && (await old.list()).length > 0)
    // The lock of who moved it may be all that is left. Somebody who makes another VM there now keeps his.
    await VirtualMachineLock.acquire(old, owner).then((lock) => lock.release(), tolerateHeld)
  await removeIfEmpty(old)
}

function tolerateHeld(error: unknown): void {
  if (!isVmsealError(error, 'VMSEAL_FILE_LOCKED')) throw error
}

/** Its owner does that too, when somebody asks for the name: so what fails here fails nothing. */
async function undoNewPlace(
  { owner }: MoveContext,
  place: VirtualMachineFiles,
  files: VirtualMachineFiles,
): Promise<void> {
  try {
    if (!(await isPartOf(place, 'target', files))) return
    const lock = await VirtualMachineLock.acquire(place, owner)
    try {
      if (!(await isPartOf(place, 'target', files)) || (await place.readVmx()) !== undefined) return
      await recover(place)
      for (const name of [place.vmsd, place.log]) await removeFile(place.path(name))
    } finally {
      await lock.release()
    }
    await removeIfEmpty(place)
  } catch (error) {
    if (!isVmsealError(error)) throw error
  }
}

async function isPartOf(
  place: VirtualMachineFiles,
  role: MoveRecord['role'],
  files: VirtualMachineFiles,
): Promise<boolean> {
  const move = (await readManifest(place))?.move
  return move?.role === role && move.datastore === files.datastore
}

function otherPlace(
  { name, datastores }: MoveContext,
  { role, datastore }: MoveRecord,
  files: VirtualMachineFiles,
): VirtualMachineFiles {
  try {
    return datastores.get(datastore).filesOf(files.base)
  } catch (cause) {
    if (!isVmsealError(cause, 'VMSEAL_NOT_FOUND')) throw cause
    const subject = files.label(files.vmx)
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `a move of ${subject} ${role === 'source' ? 'to' : 'from'} datastore ${datastore} was interrupted, which host ${name} does not have: use the VM on a host that has both`,
      { cause, details: { subject } },
    )
  }
}
