/**
 * A VM made of another one. A full clone gets copies of the disks, each under a DEK of its own; a linked clone reads the disks of a
 * snapshot and writes to children of its own. The source is only read, but for the note that a linked clone needs its files.
 */
import { VmsealError } from '../errors.js'
import { native, type DiskHandle, type KeyHandle } from '../native/load.js'
import type { CloneSpec, Work } from '../rpc/host-api.js'
import { ClonePlan, wishOf, type SourceState } from './clone-plan.js'
import { alreadyExists, makeVirtualMachineFolder } from './create.js'
import type { Datastore } from './datastore.js'
import { readLinks } from './disk-chain.js'
import { commitTransaction } from './file-transaction.js'
import { requireSpace, type HostContext } from './host-context.js'
import type { VirtualMachineLock } from './lock.js'
import type { PoweredOnVms } from './power.js'
import { chainOf } from './snapshot-table.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { changedVmx, settingsOf } from './vm-change.js'
import {
  distinctKeys,
  keysRequired,
  openHomeOf,
  readVirtualMachine,
  type VirtualMachine,
} from './vm-config.js'
import { openSnapshotConfig } from './vm-home.js'
import { logLine } from './vm-log.js'
import { VmxDocument } from './vmx.js'
import { WorkMeter } from './work.js'

export function cloneVirtualMachine(
  context: HostContext,
  powered: PoweredOnVms,
  source: VirtualMachineFiles,
  datastore: Datastore,
  target: VirtualMachineFiles,
  spec: CloneSpec,
  work: Work,
): Promise<void> {
  return powered.hold(source, async (lock, running) => {
    const vm = await readVirtualMachine(source)
    if (running !== undefined || powered.isOn(source)) requireSnapshot(spec, source)
    requireKeys(context, vm, spec, source)
    const opened = running ? undefined : openHomeOf(vm, context.keys, source)
    const newDek = spec.homeKey && native.KeyHandle.generate(32)
    const handles: DiskHandle[] = []
    try {
      const state = await stateOf(vm, spec, running ?? opened?.dek, source)
      if (spec.linked) requireLinkable(state, vm, spec, source, target)
      const plan = new ClonePlan(context, state, vm, spec, source, target, newDek, handles)
      await requireSpace(context, datastore, await plan.neededBytes())
      const transaction = plan.transaction(work)
      if (await target.readVmx()) throw alreadyExists(target)
      if (spec.linked) await noteClone(vm, lock, state, spec, running ?? opened?.dek, source)
      await makeVirtualMachineFolder(context, datastore, target, transaction, work, spec.name)
      await logLine(source, context.name, `${spec.linked ? 'linked clone' : 'clone'} ${spec.name} made`)
    } finally {
      for (const handle of handles) handle.close()
      newDek?.dispose()
      opened?.dek.dispose()
    }
  })
}

async function stateOf(
  vm: VirtualMachine,
  spec: CloneSpec,
  dek: KeyHandle | undefined,
  files: VirtualMachineFiles,
): Promise<SourceState> {
  const { description, table } = vm
  const snapshot = table.snapshots.find(({ id }) => id === spec.snapshotId)
  if (spec.snapshotId !== undefined && snapshot === undefined)
    throw new VmsealError('VMSEAL_NOT_FOUND', `${files.label(files.vmx)} has no snapshot ${spec.snapshotId}`)
  const { disks: entries, homeFiles } = snapshot ?? description
  const wished = new Set(spec.disks.map(({ diskId }) => diskId))
  if (wished.size !== entries.length || entries.some(({ diskId }) => !wished.has(diskId)))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'spec.disks must name each disk of the state once')
  const disks = []
  for (const entry of entries) {
    const { states } = await readLinks(chainOf(table, entry, description.vmId), entry.device, files)
    disks.push({ entry, links: states })
  }
  const settings = !snapshot
    ? settingsOf(vm, dek, files)
    : dek
      ? openSnapshotConfig(dek, description, snapshot, files)
      : VmxDocument.parse(snapshot.config, `snapshot ${snapshot.name}`)
  return { disks, nvram: homeFiles.find(({ role }) => role === 'nvram'), settings, dek }
}

function requireSnapshot(spec: CloneSpec, files: VirtualMachineFiles): void {
  if (spec.snapshotId !== undefined) return
  const subject = files.label(files.vmx)
  throw new VmsealError(
    'VMSEAL_INVALID_POWER_STATE',
    `${subject} is powered on: clone one of its snapshots, or power it off`,
    { details: { subject } },
  )
}

function requireKeys(
  context: HostContext,
  vm: VirtualMachine,
  spec: CloneSpec,
  files: VirtualMachineFiles,
): void {
  if (spec.homeKey === undefined && spec.disks.some(({ key }) => key !== undefined))
    throw new VmsealError(
      'VMSEAL_ENCRYPTION_MISMATCH',
      'an encrypted disk cannot belong to a VM whose home is plain',
    )
  const wanted = distinctKeys([spec.homeKey, ...spec.disks.map(({ key }) => key)])
  const missing = wanted.filter((key) => context.keys.get(key) === undefined)
  if (missing.length > 0) throw keysRequired(files, missing)
  if (vm.snapshots === 'unknown' || vm.snapshots > vm.table.snapshots.length)
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `${files.label(files.vmx)} has snapshots of another program`,
    )
}

/** Links of one chain have one KEK, so a linked clone has the keys of its source. */
function requireLinkable(
  state: SourceState,
  vm: VirtualMachine,
  spec: CloneSpec,
  source: VirtualMachineFiles,
  target: VirtualMachineFiles,
): void {
  const refuse = (reason: string): never => {
    throw new VmsealError('VMSEAL_DISK_CHAIN', reason, { details: { subject: source.label(source.vmx) } })
  }
  if (spec.snapshotId === undefined) refuse('a linked clone is made of a snapshot: take one first')
  if (source.datastore !== target.datastore) refuse('a linked clone lies on the datastore of its source')
  const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b)
  if (!same(spec.homeKey, vm.homeKeys[0])) refuse('a linked clone has the key of its source')
  for (const { entry, links } of state.disks) {
    const wish = wishOf(spec, entry)
    if (!same(wish.key, links.at(-1)?.keys[0])) refuse('a linked clone has the keys of its source')
    if (wish.sectorSize !== undefined) refuse('a linked clone has the data unit of its source')
  }
}

/** The source keeps the files that the clone reads, from before the clone exists. */
async function noteClone(
  vm: VirtualMachine,
  lock: VirtualMachineLock,
  state: SourceState,
  spec: CloneSpec,
  dek: KeyHandle | undefined,
  files: VirtualMachineFiles,
): Promise<void> {
  const links = state.disks.map(({ entry }) => entry.file)
  const clones = [...vm.table.clones, { vmId: spec.vmId, name: spec.name, links }]
  await commitTransaction(
    files,
    lock,
    {
      ...changedVmx(vm, dek, files, { table: { ...vm.table, clones } }),
      created: [],
      superseded: [],
      steps: [],
    },
    new WorkMeter({}, []),
  )
}
