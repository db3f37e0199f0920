/**
 * A VM made of another one. A full clone gets copies of the disks, each under a DEK of its own; a linked clone reads the disks of a
 * snapshot and writes to children of its own. The source is only read, but for the note that a linked clone needs its files.
 */
import { VmsealError } from '../errors.js'
import { native, type DiskHandle, type KeyHandle } from '../native/load.js'
import type { CloneSpec, Work } from '../rpc/host-api.js'
import { alreadyExists, makeVirtualMachineFolder } from './create.js'
import type { Datastore } from './datastore.js'
import { kekOfLink, openChain, readLinks, type LinkState } from './disk-chain.js'
import { openDisk, type OpenableDisk } from './disks.js'
import { commitTransaction, type FileTransaction } from './file-transaction.js'
import { copyDurably } from './guest-state.js'
import { newIdentity, writeDescription, type DiskEntry, type HomeFile } from './home-description.js'
import { requireSpace, type HostContext } from './host-context.js'
import type { VirtualMachineLock } from './lock.js'
import type { PoweredOnVms } from './power.js'
import { chainOf, foreignPlace, writeSnapshotTable, type ChainLink } from './snapshot-table.js'
import { FreeNames, type VirtualMachineFiles } from './virtual-machine-files.js'
import { changedVmx, settingsOf } from './vm-change.js'
import {
  distinctKeys,
  keysRequired,
  openHomeOf,
  readVirtualMachine,
  type VirtualMachine,
} from './vm-config.js'
import {
  decryptHomeFile,
  encryptHomeFile,
  moveHomeFile,
  openSnapshotConfig,
  sealConfig,
  wrapHomeDek,
} from './vm-home.js'
import { logLine } from './vm-log.js'
import { VmxDocument } from './vmx.js'
import { WorkMeter, type WorkStep } from './work.js'

const firstGeneration = 1

/** What is cloned. */
interface SourceState {
  readonly disks: readonly { readonly entry: DiskEntry; readonly links: readonly LinkState[] }[]
  readonly nvram: HomeFile | undefined
  readonly settings: VmxDocument
  readonly dek: KeyHandle | undefined
}

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

class ClonePlan {
  readonly #context: HostContext
  readonly #state: SourceState
  readonly #vm: VirtualMachine
  readonly #spec: CloneSpec
  readonly #source: VirtualMachineFiles
  readonly #target: VirtualMachineFiles
  readonly #newDek: KeyHandle | undefined
  /** What was opened, for the caller to close. */
  readonly #handles: DiskHandle[]

  constructor(
    context: HostContext,
    state: SourceState,
    vm: VirtualMachine,
    spec: CloneSpec,
    source: VirtualMachineFiles,
    target: VirtualMachineFiles,
    newDek: KeyHandle | undefined,
    handles: DiskHandle[],
  ) {
    this.#context = context
    this.#state = state
    this.#vm = vm
    this.#spec = spec
    this.#source = source
    this.#target = target
    this.#newDek = newDek
    this.#handles = handles
  }

  /** Room for the copies: at most what the files of the source take. */
  async neededBytes(): Promise<number> {
    let bytes = 0
    if (this.#spec.linked) return bytes
    for (const { links } of this.#state.disks)
      for (const { files, name } of links)
        bytes += await files.allocatedBytes(files.filesOfDisk(name)[1] ?? name)
    return bytes
  }

  transaction(work: Work): FileTransaction {
    const { linked, vmId } = this.#spec
    const names = new FreeNames(this.#target, [])
    const created: string[] = []
    const steps: WorkStep[] = []
    const disks: DiskEntry[] = []
    const links: ChainLink[] = []
    const sealed: OpenableDisk[] = []
    for (const { entry, links: below } of this.#state.disks) {
      const { newDiskId, key, sectorSize } = wishOf(this.#spec, entry)
      const base = names.disk()
      const file = linked ? names.child(base) : base
      const parent = below.at(-1) as LinkState
      const kek = key && this.#context.keys.require(key, keysRequired(this.#target, [key]).message)
      const seal = key && {
        keyId: key.keyId,
        providerId: key.providerId,
        vmId,
        diskId: newDiskId,
        generation: firstGeneration,
        sectorSize: sectorSize ?? parent.sectorSize ?? 512,
      }
      created.push(...this.#target.filesOfDisk(file))
      const generation = seal && { sealedGeneration: firstGeneration }
      disks.push({ device: entry.device, diskId: newDiskId, file, ...generation })
      const path = this.#target.path(file)
      if (linked) {
        for (const link of below) kekOfLink(link, this.#context.keys)
        const hint = foreignName(parent)
        links.push(...below.map((link) => foreignLink(link, below)))
        links.push({
          file,
          vmId,
          diskId: newDiskId,
          parent: hint,
          ...(seal && { generation: firstGeneration }),
        })
        steps.push({
          label: `child of ${entry.device}`,
          bytes: 0,
          start: () =>
            native.createChildDisk(
              path,
              parent.files.path(parent.name),
              hint,
              newDiskId,
              kek ?? null,
              seal ?? null,
            ),
        })
      } else {
        const handle = openChain(below, this.#context.keys, false)
        this.#handles.push(handle)
        if (seal && handle.capacityBytes % seal.sectorSize !== 0)
          throw new VmsealError(
            'VMSEAL_SECTOR_ALIGNMENT',
            `${this.#source.label(entry.file)} is no whole number of ${seal.sectorSize}-byte sectors`,
          )
        if (key) sealed.push({ diskId: newDiskId, file, keys: [key] })
        steps.push({
          label: `copy ${entry.device}`,
          bytes: handle.capacityBytes,
          start: () => handle.flatten(path, newDiskId, kek ?? null, seal ?? null),
        })
      }
    }
    const nvram = this.#nvram(names, created, steps, work)
    return {
      generation: firstGeneration,
      created,
      superseded: [],
      prepare: async () => {
        await nvram?.prepare?.()
      },
      steps,
      verify: () => {
        for (const disk of sealed) openDisk(disk, vmId, this.#context.keys, this.#target).close()
      },
      vmx: this.#vmx(disks, links, nvram?.file),
    }
  }

  /** Memory and suspended state stay with the source: a clone is off. */
  #nvram(names: FreeNames, created: string[], steps: WorkStep[], work: Work) {
    const { nvram, dek } = this.#state
    if (nvram === undefined) return undefined
    const { role } = nvram
    const file = names.home(role)
    created.push(file)
    const paths = [this.#source.path(nvram.file), this.#target.path(file)] as const
    const newDek = this.#newDek
    const oldId = this.#vm.description.vmId
    const { vmId } = this.#spec
    const step = (start: WorkStep['start']): void =>
      void steps.push({ label: `copy ${role}`, bytes: 0, start })
    if (dek && newDek) step(() => moveHomeFile(dek, newDek, oldId, vmId, role, ...paths))
    else if (dek) step(() => decryptHomeFile(dek, oldId, role, ...paths))
    else if (newDek) step(() => encryptHomeFile(newDek, vmId, role, ...paths))
    else return { file: { role, file }, prepare: () => copyDurably(...paths, work) }
    return { file: { role, file } }
  }

  #vmx(disks: readonly DiskEntry[], links: readonly ChainLink[], nvram: HomeFile | undefined): VmxDocument {
    const { vmId, name, homeKey } = this.#spec
    const document = newIdentity(name, vmId)
    const homeFiles = nvram ? [nvram] : []
    const description = { vmId, name, generation: firstGeneration, disks, homeFiles }
    const dek = this.#newDek
    if (dek && homeKey) {
      const kek = this.#context.keys.require(homeKey, keysRequired(this.#target, [homeKey]).message)
      const jwes = [wrapHomeDek(kek, dek, vmId, homeKey, firstGeneration)]
      const config = sealConfig(dek, this.#state.settings, vmId, firstGeneration)
      writeDescription(document, { ...description, wrap: { jwes, generation: firstGeneration, config } })
    } else writeDescription(document, description)
    const distinct = [...new Map(links.map((link) => [link.file, link])).values()]
    writeSnapshotTable(document, { links: distinct, snapshots: [], clones: [] })
    if (dek === undefined) document.append(this.#state.settings, this.#target.label(this.#target.vmx))
    return document
  }
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

function wishOf(spec: CloneSpec, { diskId }: DiskEntry): CloneSpec['disks'][number] {
  const wish = spec.disks.find((disk) => disk.diskId === diskId)
  if (wish === undefined) throw new VmsealError('VMSEAL_INTERNAL', `no wish for disk ${diskId}`)
  return wish
}

/** A link of the source as the clone names it. */
function foreignName({ files, name }: LinkState): string {
  return `../${files.base}/${name}`
}

function foreignLink(link: LinkState, chain: readonly LinkState[]): ChainLink {
  const { vmId, diskId, generation, parent } = link
  const below = chain.find(({ file }) => file === parent)
  return {
    file: foreignPlace(link.file) ? link.file : foreignName(link),
    vmId,
    diskId,
    ...(generation !== undefined && { generation }),
    ...(below && { parent: foreignName(below) }),
  }
}
