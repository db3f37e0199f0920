/**
 * Conversion of a VM's disks where they lie. Each part changes by itself and leaves a VM that may be: VM home is encrypted before
 * its disks and decrypted after them, and a disk whose conversion was interrupted says so until it is resumed. The same request
 * again, after that, does what is left.
 */
import { VmsealError, isVmsealError } from '../errors.js'
import type { ReconfigureSpec } from '../rpc/host-api.js'
import { requireKeys } from './change-keys.js'
import { checkChange } from './change-rules.js'
import { commitChange } from './commit-change.js'
import { inPlaceStep, resumeStep, type InPlaceChange } from './conversion-steps.js'
import type { Datastore } from './datastore.js'
import { diskOf, entryOf, type DiskChange } from './disk-changes.js'
import type { Becoming } from './disk-standing.js'
import { missingKeysOfDisk, openDisk, openingKek, requireWholeSectors, type DiskState } from './disks.js'
import { replaceFile } from './durable-file.js'
import { refuseVtpm } from './home-change.js'
import { writeDescription } from './home-description.js'
import { holdVirtualMachine, requireSpace, type HostContext } from './host-context.js'
import type { VirtualMachineLock } from './lock.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import {
  cryptoStatesOf,
  distinctKeys,
  keysRequired,
  openHomeOf,
  readVirtualMachine,
  type VirtualMachine,
} from './vm-config.js'
import { logLine } from './vm-log.js'
import { WorkMeter, type PacedWork, type WorkStep } from './work.js'

/** The most that one of a journal's two areas holds. */
const zoneBytes = 16 * 1024 * 1024
/** What a journal has besides its areas. */
const journalOverhead = 256 * 1024

/** Every check comes before the first change. The VM is powered off: the caller saw to that. */
export async function convertInPlace(
  context: HostContext,
  datastore: Datastore,
  files: VirtualMachineFiles,
  spec: ReconfigureSpec,
  work: PacedWork,
): Promise<void> {
  await holdVirtualMachine(context, files, async (lock) => {
    const vm = await readVirtualMachine(files)
    checkChange(cryptoStatesOf(vm, files), spec)
    requireKeys(context, files, vm, spec)
    const changes = spec.disks ?? []
    const disks = changes.map(({ diskId }) => diskOf(vm, diskId))
    for (const [index, disk] of disks.entries())
      checkDisk(context, files, vm, disk, changes[index]?.sectorSize)
    const home = openHomeOf(vm, context.keys, files)
    home?.dek.dispose()
    if (spec.home?.type === 'decrypt') refuseVtpm(home?.secrets, files)
    const homeBytes = await bytesOfHome(vm, files)
    const journal = Math.max(0, ...disks.map(({ capacityBytes }) => journalBytes(capacityBytes)))
    await requireSpace(context, datastore, Math.max(journal, spec.home ? homeBytes : 0))

    const meter = new WorkMeter(work, [
      ...disks.map(({ capacityBytes }) => ({ bytes: capacityBytes })),
      { bytes: spec.home ? homeBytes : 0 },
    ])
    // The generation rises in any case, for DEKs to come.
    const decryptsHome = spec.home?.type === 'decrypt'
    const first = spec.home && !decryptsHome ? { home: spec.home } : {}
    await commitChange(context, datastore, files, lock, vm, first, meter)
    for (const change of changes) await convertDisk(context, files, lock, change, meter)
    if (decryptsHome && spec.home) {
      const last = { home: spec.home }
      await commitChange(context, datastore, files, lock, await readVirtualMachine(files), last, meter)
    }
    meter.finish('committed')
  })
}

/** Goes on with every conversion of the VM. Needs the keys of its disks and not that of VM home. */
export async function resumeConversions(
  context: HostContext,
  files: VirtualMachineFiles,
  work: PacedWork,
): Promise<void> {
  await holdVirtualMachine(context, files, async (lock) => {
    const vm = await readVirtualMachine(files)
    const disks = vm.disks.filter(({ conversion }) => conversion !== undefined)
    if (disks.length === 0)
      throw new VmsealError('VMSEAL_INVALID_STATE', `no disk of ${files.label(files.vmx)} is in conversion`, {
        details: { subject: files.label(files.vmx) },
      })
    const missing = distinctKeys(disks.flatMap((disk) => missingKeysOfDisk(disk, context.keys)))
    if (missing.length > 0) throw keysRequired(files, missing)
    const steps = disks.map((disk) => resumeStep(disk, vm.description.vmId, context.keys, files))
    const meter = new WorkMeter(work, steps)
    for (const [index, step] of steps.entries())
      await runInPlace(context, files, lock, disks[index] as DiskState, step, meter)
    meter.finish('committed')
  })
}

/** What would be refused once the work is under way. */
function checkDisk(
  context: HostContext,
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  disk: DiskState,
  sectorSize: number | undefined,
): void {
  const label = files.label(disk.file)
  openDisk(disk, vm.description.vmId, context.keys, files).close()
  requireWholeSectors(disk.capacityBytes, sectorSize ?? 512, label)
  if (disk.extents.length !== 1)
    throw new VmsealError(
      'VMSEAL_DESCRIPTOR_UNSUPPORTED',
      `${label} has ${disk.extents.length} extents: a disk with more than one is converted to a copy`,
      { details: { subject: label } },
    )
}

async function convertDisk(
  context: HostContext,
  files: VirtualMachineFiles,
  lock: VirtualMachineLock,
  change: DiskChange,
  meter: WorkMeter,
): Promise<void> {
  meter.throwIfCancelled()
  const vm = await readVirtualMachine(files)
  const disk = diskOf(vm, change.diskId)
  const { becomes, way } = planDisk(context, files, vm, disk, change)
  await lock.assertHeld()
  await writeDisks(files, vm, new Map([[disk.diskId, becomes]]))
  await runInPlace(context, files, lock, disk, inPlaceStep(disk, way, vm.description.vmId, files), meter)
}

function planDisk(
  context: HostContext,
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  disk: DiskState,
  { crypto, sectorSize }: DiskChange,
): { becomes: Becoming; way: InPlaceChange } {
  const { vmId, generation } = vm.description
  const { diskId } = disk
  if (crypto.type === 'encrypt') {
    const kek = context.keys.require(crypto.key, keysRequired(files, [crypto.key]).message)
    const { keyId, providerId } = crypto.key
    const spec = { keyId, providerId, vmId, diskId, generation, sectorSize: sectorSize ?? 512 }
    return { becomes: { mode: 'encrypt', generation }, way: { mode: 'encrypt', kek, spec } }
  }
  const kek = openingKek(disk, vmId, context.keys, files)
  if (crypto.type === 'decrypt') return { becomes: { mode: 'decrypt' }, way: { mode: 'decrypt', kek } }
  const { newKey } = crypto
  const newKek = context.keys.require(newKey, keysRequired(files, [newKey]).message)
  return {
    becomes: { mode: 'recrypt', generation: (disk.sealedGeneration ?? 0) + 1 },
    way: { mode: 'recrypt', kek, newKek, newKey: { keyId: newKey.keyId, providerId: newKey.providerId } },
  }
}

/** Runs a step on a disk whose coming state the .vmx tells, and brings the .vmx up to what came of it. */
async function runInPlace(
  context: HostContext,
  files: VirtualMachineFiles,
  lock: VirtualMachineLock,
  disk: DiskState,
  step: WorkStep,
  meter: WorkMeter,
): Promise<void> {
  try {
    await meter.run(step)
  } catch (error) {
    if (!isVmsealError(error)) throw error
    throw await explained(error, files, lock, disk)
  }
  await lock.assertHeld()
  await writeDisks(files, await readVirtualMachine(files))
  await logLine(files, context.name, step.label)
}

/** The error with what it left: a disk in conversion, or one that was not touched. */
async function explained(
  error: VmsealError,
  files: VirtualMachineFiles,
  lock: VirtualMachineLock,
  { diskId, file }: DiskState,
): Promise<VmsealError> {
  try {
    const vm = await readVirtualMachine(files)
    const { conversion } = diskOf(vm, diskId)
    if (conversion === undefined) {
      await lock.assertHeld()
      await writeDisks(files, vm)
      return error
    }
    const { mode, doneBytes, totalBytes } = conversion
    return new VmsealError(
      error.code,
      `${error.message}. Nothing is lost: ${files.label(file)} is in conversion (${mode}, ${doneBytes} of ${totalBytes} bytes). Resume the conversion of the VM`,
      { cause: error, details: { subject: files.label(file), ...error.details } },
    )
  } catch (cause) {
    // What the files tell is told by whoever reads them next; the first error is the one that matters.
    if (isVmsealError(cause)) return error
    throw cause
  }
}

/** Replaces the lines of the disks, and nothing that is sealed: the generation of the .vmx stays. */
async function writeDisks(
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  becoming: ReadonlyMap<string, Becoming> = new Map(),
): Promise<void> {
  const document = vm.document.copy()
  const disks = vm.disks.map((disk) => {
    const becomes = becoming.get(disk.diskId)
    return { ...entryOf(disk), ...(becomes && { becomes }) }
  })
  writeDescription(document, { ...vm.description, disks })
  await replaceFile(files.path(files.vmx), document.toString())
}

async function bytesOfHome({ description }: VirtualMachine, files: VirtualMachineFiles): Promise<number> {
  let bytes = 0
  for (const { file } of description.homeFiles) bytes += await files.byteLength(file)
  return bytes
}

function journalBytes(capacityBytes: number): number {
  return 2 * Math.min(zoneBytes, capacityBytes) + journalOverhead
}
