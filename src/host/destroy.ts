/** Removing a VM: first the .vmx, then what belonged to it. A crash or failure in between is finished by the next call. */
import { rmdir } from 'node:fs/promises'
import { removeFile, replaceFile, syncDirectory } from './durable-file.js'
import { finish } from './file-transaction.js'
import { describeHome } from './home-description.js'
import { takeVirtualMachine, type HostContext } from './host-context.js'
import { errnoOf, ioError } from './io-error.js'
import { readSnapshotTable } from './snapshot-table-reader.js'
import { filesOfDisksAndSnapshots } from './snapshot-table.js'
import { serialiseManifest } from './task-manifest.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { notFound, refuseClones } from './vm-config.js'
import type { VmxDocument } from './vmx.js'

/** Needs no key. The VM is powered off: the caller saw to that. Files of others, and so their folder, stay. */
export async function destroyVirtualMachine(context: HostContext, files: VirtualMachineFiles): Promise<void> {
  const names = await files.list()
  const last = [files.manifest, files.vmsd, files.log]
  if (![files.vmx, ...last].some((name) => names.includes(name))) throw notFound(files)
  const lock = await takeVirtualMachine(context, files)
  try {
    const document = await files.readVmx()
    if (document !== undefined) await refuseClones(document, files)
    if (document !== undefined) await removeNamedFiles(files, document)
    for (const name of [files.vmsd, files.log]) await removeFile(files.path(name))
    await syncDirectory(files.directory)
  } finally {
    await lock.release()
  }
  try {
    await rmdir(files.directory)
  } catch (error) {
    if (errnoOf(error) !== 'ENOTEMPTY' && errnoOf(error) !== 'EEXIST') throw ioError(error, files.label(''))
  }
}

async function removeNamedFiles(files: VirtualMachineFiles, document: VmxDocument): Promise<void> {
  const there = await files.list()
  const homeFiles = there.filter((name) => files.roleOf(name) !== undefined)
  // A descriptor may be unreadable, so extents are known by their names.
  const { disks } = describeHome(document, files)
  const named = filesOfDisksAndSnapshots(disks, readSnapshotTable(document, files), files, there)
  const manifest = {
    generation: 0,
    created: [],
    superseded: [...new Set([...named, ...homeFiles])],
  }
  await replaceFile(files.path(files.manifest), serialiseManifest(manifest))
  await removeFile(files.path(files.vmx))
  await syncDirectory(files.directory)
  await finish(files, manifest)
}
