/** A VM made of an export, once the export was seen to be what was exported: to the last byte, by a seal that only its KEK opens. */
import { createHash } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { VmsealError, isVmsealError, type ErrorCode } from '../errors.js'
import { native, type DiskHandle, type KeyHandle } from '../native/load.js'
import type { ExportDescription, RestoreSpec, Work } from '../rpc/host-api.js'
import { alreadyExists, makeVirtualMachineFolder } from './create.js'
import type { Datastore } from './datastore.js'
import { exportInvalid, readManifestOf, verifySeal, type ExportManifest } from './export-manifest.js'
import { filesOfExport } from './export.js'
import { sumStep } from './file-sum.js'
import { requireSpace, type HostContext } from './host-context.js'
import { planResealedCopy } from './resealed-copy.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { openHomeOf, readVirtualMachine, type VirtualMachine } from './vm-config.js'
import { WorkMeter, type WorkStep } from './work.js'

interface OpenExport {
  readonly folder: string
  readonly manifest: ExportManifest
  readonly files: VirtualMachineFiles
  readonly vm: VirtualMachine
  readonly dek: KeyHandle
}

/** Nothing is verified but the form. */
export async function describeExport(folder: string): Promise<ExportDescription> {
  return descriptionOf((await readManifestOf(folder)).manifest)
}

/** Reads every byte. */
export async function verifyExport(
  context: HostContext,
  folder: string,
  work: Work,
): Promise<ExportDescription> {
  return withExport(context, folder, async (opened) => {
    const { manifest, files } = opened
    const steps = manifest.files.map(({ name }) => comparing(opened, files, name, name))
    const meter = new WorkMeter(work, steps)
    for (const step of steps) await meter.run(step)
    meter.finish('verified')
    return descriptionOf(manifest)
  })
}

/** The disks are compared with their sums once they are copied, before there is a VM. */
export async function restoreVirtualMachine(
  context: HostContext,
  datastore: Datastore,
  target: VirtualMachineFiles,
  spec: RestoreSpec,
  work: Work,
): Promise<void> {
  await withExport(context, spec.from, async (opened) => {
    const { vm, dek, files, manifest } = opened
    const newDek = native.KeyHandle.generate(32)
    const handles: DiskHandle[] = []
    try {
      if (spec.disks.length !== manifest.disks.length)
        throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'spec.disks must name each disk of the export once')
      const plan = await planResealedCopy(context, { files, vm, dek }, target, spec, newDek, handles)
      if (plan.verbatim.length !== vm.disks.length)
        throw exportInvalid(spec.from, 'a disk of it is not as exports have them')
      await compareSmallFiles(opened, new Set(plan.verbatim.map(({ from }) => from)), work)
      await requireSpace(context, datastore, plan.neededBytes)
      if (await target.readVmx()) throw alreadyExists(target)
      const compared = plan.verbatim.map(({ from, to }) => comparing(opened, target, from, to))
      const transaction = { ...plan.transaction, steps: [...plan.transaction.steps, ...compared] }
      const entry = `VM ${spec.name} restored from an export of ${manifest.name}`
      await makeVirtualMachineFolder(context, datastore, target, transaction, work, spec.name, entry)
    } finally {
      for (const handle of handles) handle.close()
      newDek.dispose()
    }
  })
}

/** Opens an export with its KEK: its manifest is authentic then, and says which files there are and how long they are. */
async function withExport<T>(
  context: HostContext,
  folder: string,
  use: (opened: OpenExport) => Promise<T>,
): Promise<T> {
  const { manifest, seal } = await readManifestOf(folder)
  const files = filesOfExport(folder)
  const vm = await judging(folder, () => readVirtualMachine(files))
  const opened = await judging(folder, async () => openHomeOf(vm, context.keys, files))
  if (opened === undefined) throw exportInvalid(folder, 'its VM is not encrypted')
  const { dek } = opened
  try {
    verifySeal(folder, manifest, seal, dek)
    const open = { folder, manifest, files, vm, dek }
    await compareParts(open)
    return await use(open)
  } finally {
    dek.dispose()
  }
}

/** The VM is the one of the manifest, and its files are those that the manifest lists: not one more, not one less. */
async function compareParts({ folder, manifest, files, vm }: OpenExport): Promise<void> {
  const { vmId, name, homeFiles } = vm.description
  const disks = vm.disks.map(({ diskId, device, capacityBytes }) => ({ diskId, device, capacityBytes }))
  const keys = [...vm.homeKeys, ...vm.disks.flatMap((disk) => disk.keys)]
  const text = vm.document.toString()
  const found = [
    files.vmx,
    ...homeFiles.map(({ file }) => file),
    ...vm.disks.flatMap(({ file }) => files.filesOfDisk(file).slice(0, 3)),
  ]
  const listed = new Map(manifest.files.map((file) => [file.name, file]))
  const there = (await files.list()).filter((file) => ['disk', 'home'].includes(files.kindOf(file) ?? ''))
  const same =
    vmId === manifest.vmId &&
    name === manifest.name &&
    isDeepStrictEqual(disks, manifest.disks) &&
    keys.every((key) => isDeepStrictEqual(key, manifest.key)) &&
    listed.size === manifest.files.length &&
    isDeepStrictEqual([...listed.keys()].toSorted(), found.toSorted()) &&
    there.every((file) => listed.has(file)) &&
    createHash('sha256').update(text).digest('hex') === listed.get(files.vmx)?.sha256
  if (!same) throw exportInvalid(folder, 'its VM is not the one that was exported')
  for (const file of manifest.files)
    if ((await judging(folder, () => files.byteLength(file.name))) !== file.bytes)
      throw exportInvalid(folder, `${file.name} is not as long as it was`)
}

/** Those that are not copied but made anew. */
async function compareSmallFiles(
  opened: OpenExport,
  copied: ReadonlySet<string>,
  { signal }: Work,
): Promise<void> {
  const { manifest, files } = opened
  const small = manifest.files.filter(({ name }) => !copied.has(name))
  const meter = new WorkMeter(signal ? { signal } : {}, [])
  for (const { name } of small) await meter.run(comparing(opened, files, name, name))
}

/** A step that fails unless `file` of `place` holds what the export has under `name`. */
function comparing(
  { folder, manifest }: OpenExport,
  place: VirtualMachineFiles,
  name: string,
  file: string,
): WorkStep {
  const expected = manifest.files.find((entry) => entry.name === name)
  return sumStep(`verify ${file}`, place.path(file), expected?.bytes ?? 0, ({ sha256, bytes }) => {
    if (sha256 !== expected?.sha256 || bytes !== expected.bytes)
      throw exportInvalid(folder, `${name} was altered`)
  })
}

/** What tells of the machine or the caller and not of the export. */
const otherFaults: ReadonlySet<ErrorCode> = new Set([
  'VMSEAL_ENCRYPTION_KEY_REQUIRED',
  'VMSEAL_IO',
  'VMSEAL_PERMISSION_DENIED',
  'VMSEAL_CANCELLED',
  'VMSEAL_SHUTTING_DOWN',
  'VMSEAL_KEY_MEMORY_EXHAUSTED',
])

/** Whatever is wrong with a part of the export is wrong with the export. */
async function judging<T>(folder: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read()
  } catch (error) {
    if (!isVmsealError(error) || otherFaults.has(error.code)) throw error
    throw new VmsealError('VMSEAL_EXPORT_INVALID', exportInvalid(folder, error.message).message, {
      cause: error,
      details: { subject: folder },
    })
  }
}

function descriptionOf({ vmId, name, exportedAt, key, disks }: ExportManifest): ExportDescription {
  return { vmId, name, exportedAt, key, disks }
}
