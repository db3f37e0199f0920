/**
 * A VM that is off moves to another datastore as it lies: every file byte for byte, so encrypted ones as ciphertext, and no key is
 * needed. The copy becomes the VM by the .vmx in its new place; only then the old place is removed.
 */
import { VmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { Work } from '../rpc/host-api.js'
import { makeVirtualMachineFolder } from './create.js'
import type { Datastore } from './datastore.js'
import { refuseInConversion } from './disks.js'
import { readSmallFile, removeFile, replaceFile } from './durable-file.js'
import { recover, type FileTransaction } from './file-transaction.js'
import { holdVirtualMachine, requireSpace, type HostContext } from './host-context.js'
import { endInterruptedMove, removeIfEmpty, removeMovedSource } from './interrupted-move.js'
import type { VirtualMachineLock } from './lock.js'
import { filesOfDisksAndSnapshots, foreignPlace } from './snapshot-table.js'
import { serialiseManifest } from './task-manifest.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { readVirtualMachine, refuseClones, type VirtualMachine } from './vm-config.js'
import { vmxByteLimit } from './vmx.js'
import type { WorkStep } from './work.js'

/** The VM is powered off: the caller saw to that. Whole in one of the two places at every instant, whatever interrupts it. */
export async function moveToDatastore(
  context: HostContext,
  source: VirtualMachineFiles,
  datastore: Datastore,
  work: Work,
): Promise<VirtualMachineFiles> {
  if (source.datastore === datastore.name)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `${source.label(source.vmx)} lies on datastore ${datastore.name} already`,
    )
  const target = datastore.filesOf(source.base)
  await holdVirtualMachine(context, source, async (lock) => {
    const vm = await readVirtualMachine(source)
    await refuseWhatStays(vm, source)
    const names = await filesToMove(vm, source)
    const steps = await copySteps(names, source, target)
    await requireSpace(context, datastore, await allocated(steps, source))
    const transaction = plan(vm, names, steps, lock, source, target)
    const { name, vmId } = vm.description
    const entry = `VM ${name} moved from ${source.label('')}`
    try {
      await makeVirtualMachineFolder(context, datastore, target, transaction, work, name, entry)
    } catch (error) {
      // A failure may have come after the commit: which of the two places counts, their files say.
      await endInterruptedMove(context, source)
        .then(() => recover(source))
        .catch(() => {})
      if ((await target.readVmx())?.get('vmseal.id') !== vmId) throw error
    }
  })
  return target
}

function plan(
  vm: VirtualMachine,
  names: readonly string[],
  steps: readonly (WorkStep & { readonly file: string })[],
  lock: VirtualMachineLock,
  source: VirtualMachineFiles,
  target: VirtualMachineFiles,
): FileTransaction {
  const { generation } = vm.description
  return {
    generation,
    created: names,
    superseded: [],
    move: { role: 'target', datastore: source.datastore },
    prepare: async () => {
      await removeFile(target.path(target.log))
      // From here on whoever takes the old place looks at the new one first.
      await replaceFile(
        source.path(source.manifest),
        serialiseManifest({
          generation: generation + 1,
          created: [],
          superseded: names,
          move: { role: 'source', datastore: target.datastore },
        }),
      )
      if ((await source.list()).includes(source.vmsd)) {
        const label = source.label(source.vmsd)
        const text = await readSmallFile(source.path(source.vmsd), vmxByteLimit, label, 'VMSEAL_VMX_INVALID')
        await replaceFile(target.path(target.vmsd), text)
      }
    },
    steps,
    assertHeld: () => lock.assertHeld(),
    vmx: vm.document,
    committed: async () => {
      await removeMovedSource(source)
      await lock.release()
      await removeIfEmpty(source)
    },
  }
}

/** Every file that the VM is made of, snapshots and memory included, and that is there. */
async function filesToMove(vm: VirtualMachine, source: VirtualMachineFiles): Promise<string[]> {
  const there = await source.list()
  const named = new Set(filesOfDisksAndSnapshots(vm.disks, vm.table, source, there))
  return there
    .filter((name) => source.roleOf(name) !== undefined || (named.has(name) && !name.endsWith('.lck')))
    .toSorted()
}

async function copySteps(names: readonly string[], source: VirtualMachineFiles, target: VirtualMachineFiles) {
  const steps: (WorkStep & { readonly file: string })[] = []
  const log = (await source.list()).includes(source.log) ? [source.log] : []
  for (const file of [...names, ...log])
    steps.push({
      file,
      label: `move ${file}`,
      bytes: await source.byteLength(file),
      start: () => native.copyFile(source.path(file), target.path(file)),
    })
  return steps
}

async function allocated(
  steps: readonly { readonly file: string }[],
  source: VirtualMachineFiles,
): Promise<number> {
  let bytes = 0
  for (const { file } of steps) bytes += await source.allocatedBytes(file)
  return bytes
}

/** What would not be whole in another place, or would leave others without what they read. */
async function refuseWhatStays(vm: VirtualMachine, files: VirtualMachineFiles): Promise<void> {
  const subject = files.label(files.vmx)
  for (const disk of vm.disks) {
    refuseInConversion(disk, files)
    if (disk.shared)
      throw new VmsealError(
        'VMSEAL_DISK_SHARED',
        `${files.label(disk.file)} is open for several writers (multi-writer): detach it first`,
        { details: { subject: files.label(disk.file) } },
      )
  }
  if (vm.table.links.some(({ file }) => foreignPlace(file) !== undefined))
    throw new VmsealError(
      'VMSEAL_DISK_CHAIN',
      `${subject} is a linked clone, which reads disks of another VM of its datastore: make a full clone instead`,
      { details: { subject } },
    )
  await refuseClones(vm.document, files)
  if (vm.snapshots === 'unknown' || vm.snapshots > vm.table.snapshots.length)
    throw new VmsealError('VMSEAL_INVALID_STATE', `${subject} has snapshots of another program`, {
      details: { subject },
    })
}
