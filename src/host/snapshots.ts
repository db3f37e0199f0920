/** Snapshots of a VM: taking, going back, removing. */
import { VmsealError } from '../errors.js'
import { native, type DiskHandle } from '../native/load.js'
import type { SnapshotSpec, Work } from '../rpc/host-api.js'
import { afterConsolidation, nextConsolidation } from './consolidation.js'
import type { Datastore } from './datastore.js'
import { kekOfLink, linksOf, openChain, pushChild, readLinks, type LinkState } from './disk-chain.js'
import { replaceFile } from './durable-file.js'
import type { DiskConsolidation } from './disk-consolidation.js'
import type { FileTransaction } from './file-transaction.js'
import { memoryStep } from './guest-state.js'
import { commitHeld, holdOpenVm, type HeldVm } from './held-vm.js'
import type { DiskEntry } from './home-description.js'
import { requireSpace, type HostContext } from './host-context.js'
import type { PoweredOnVms } from './power.js'
import {
  chainOf,
  linkOf,
  snapshotLimit,
  type ChainLink,
  type SnapshotRecord,
  type SnapshotTable,
} from './snapshot-table.js'
import { FreeNames, type VirtualMachineFiles } from './virtual-machine-files.js'
import { changedVmx, nextGeneration, settingsOf } from './vm-change.js'
import { keysRequired, openHomeOf, readVirtualMachine, type VirtualMachine } from './vm-config.js'
import { openSnapshotConfig, sealConfig } from './vm-home.js'
import { logLine } from './vm-log.js'
import { VmxDocument } from './vmx.js'
import type { WorkStep } from './work.js'

/** A child that is about to be made. */
interface NewChild {
  readonly entry: DiskEntry
  readonly link: ChainLink
  readonly step: WorkStep
  readonly below: readonly LinkState[]
  /** As it will be once it is made. */
  readonly state: LinkState
}

export class Snapshots {
  readonly #context: HostContext
  readonly #powered: PoweredOnVms
  readonly #consolidation: DiskConsolidation

  constructor(context: HostContext, powered: PoweredOnVms, consolidation: DiskConsolidation) {
    this.#context = context
    this.#powered = powered
    this.#consolidation = consolidation
  }

  create(datastore: Datastore, files: VirtualMachineFiles, spec: SnapshotSpec, work: Work): Promise<void> {
    return holdOpenVm(this.#context, this.#powered, files, async (held) => {
      const { vm, dek } = held
      this.#checkNew(vm, spec, files)
      await requireSpace(this.#context, datastore, 0)
      const names = new FreeNames(files, await files.list())
      const generation = nextGeneration(vm, files)
      const children = vm.disks.map((disk) => {
        const links = linksOf(disk, vm.description.vmId, files)
        return this.#child(files, vm, disk, links, names, generation)
      })
      const memory =
        spec.memory === undefined
          ? undefined
          : await memoryStep(files, vm, dek, spec.snapshotId, spec.memory, names, work)
      const settings = settingsOf(vm, dek, files)
      const snapshot: SnapshotRecord = {
        id: spec.snapshotId,
        name: spec.name,
        description: spec.description ?? '',
        createdAt: new Date().toISOString(),
        ...(vm.table.current !== undefined && { parent: vm.table.current }),
        memory: memory !== undefined,
        generation,
        disks: vm.description.disks,
        homeFiles: [...vm.description.homeFiles, ...(memory ? [memory.file] : [])],
        config: dek ? sealConfig(dek, settings, vm.description.vmId, generation) : settings.toString(),
      }
      const table: SnapshotTable = {
        ...vm.table,
        links: [...withBases(vm), ...children.map(({ link }) => link)],
        snapshots: [...vm.table.snapshots, snapshot],
        current: snapshot.id,
      }
      const steps = [...(memory?.steps ?? []), ...children.map(({ step }) => step)]
      const created = children.flatMap(({ entry }) => files.filesOfDisk(entry.file))
      const disks = children.map(({ entry }) => entry)
      await this.#powered.stunned(files, () =>
        this.#commitInGuest(files, held, work, children, {
          ...changedVmx(vm, dek, files, { disks, table, settings }),
          created: [...created, ...(memory ? [memory.file.file] : [])],
          superseded: [],
          ...(memory?.prepare && { prepare: memory.prepare }),
          steps,
        }),
      )
      await this.#recordTree(files, table, generation)
      await logLine(files, this.#context.name, `snapshot ${spec.name} taken; generation ${generation}`)
    })
  }

  /** A VM that is on is powered off, once it is clear that it can go back. */
  async revert(files: VirtualMachineFiles, snapshotId: string, work: Work): Promise<void> {
    if (this.#powered.isOn(files)) {
      const vm = await readVirtualMachine(files)
      openHomeOf(vm, this.#context.keys, files)?.dek.dispose()
      for (const disk of snapshotOf(vm, snapshotId, files).disks) {
        const links = chainOf(vm.table, disk, vm.description.vmId)
        const { states } = await readLinks(links, disk.device, files)
        for (const link of states) kekOfLink(link, this.#context.keys)
      }
      await this.#powered.powerOff(files)
    }
    return holdOpenVm(this.#context, this.#powered, files, async (held) => {
      const { vm, dek } = held
      const snapshot = snapshotOf(vm, snapshotId, files)
      const names = new FreeNames(files, await files.list())
      const generation = nextGeneration(vm, files)
      const children: NewChild[] = []
      for (const disk of snapshot.disks) {
        const links = chainOf(vm.table, disk, vm.description.vmId)
        const { states } = await readLinks(links, disk.device, files)
        children.push(this.#child(files, vm, disk, states, names, generation))
      }
      const settings = dek
        ? openSnapshotConfig(dek, vm.description, snapshot, files)
        : VmxDocument.parse(snapshot.config, `snapshot ${snapshot.name}`)
      const disks = children.map(({ entry }) => entry)
      const grown = {
        ...vm.table,
        links: [...withBases(vm), ...children.map(({ link }) => link)],
        current: snapshotId,
      }
      // The children that were written to until now: nothing reads them any more.
      const dropped = nextConsolidation(grown, disks)
      const table = dropped?.kind === 'drop' ? afterConsolidation(grown, dropped) : grown
      const droppedFiles = dropped?.kind === 'drop' ? dropped.files : []
      const keptFiles = new Set(snapshot.homeFiles.map(({ file }) => file))
      await this.#commitInGuest(files, held, work, children, {
        ...changedVmx(vm, dek, files, { disks, homeFiles: snapshot.homeFiles, table, settings }),
        created: children.flatMap(({ entry }) => files.filesOfDisk(entry.file)),
        superseded: [
          ...droppedFiles.flatMap((file) => files.filesOfDisk(file)),
          ...vm.description.homeFiles.map(({ file }) => file).filter((file) => !keptFiles.has(file)),
        ],
        steps: children.map(({ step }) => step),
      })
      await this.#recordTree(files, table, generation)
      await logLine(files, this.#context.name, `reverted to ${snapshot.name}; generation ${generation}`)
    })
  }

  async remove(files: VirtualMachineFiles, snapshotId: string, children: boolean, work: Work): Promise<void> {
    await holdOpenVm(this.#context, this.#powered, files, async (held) => {
      const { vm, dek } = held
      const snapshot = snapshotOf(vm, snapshotId, files)
      const gone = new Set([snapshotId])
      if (children)
        for (const { id, parent } of vm.table.snapshots)
          if (parent !== undefined && gone.has(parent)) gone.add(id)
      const left = vm.table.snapshots.filter(({ id }) => !gone.has(id))
      const adopt = (id: string | undefined): { parent?: string } => {
        const parent = id !== undefined && gone.has(id) ? snapshot.parent : id
        return parent === undefined ? {} : { parent }
      }
      const { current: was, snapshots: _, ...rest } = vm.table
      const { parent: current } = adopt(was)
      const table: SnapshotTable = {
        ...rest,
        snapshots: left.map(({ parent, ...record }) => ({ ...record, ...adopt(parent) })),
        ...(current !== undefined && { current }),
      }
      const { generation, vmx } = changedVmx(vm, dek, files, { table })
      const superseded = vm.table.snapshots
        .filter(({ id }) => gone.has(id))
        .flatMap(({ homeFiles }) => homeFiles.map(({ file }) => file))
      await commitHeld(files, held, {}, { generation, vmx, created: [], superseded, steps: [] })
      await this.#recordTree(files, table, generation)
      await logLine(files, this.#context.name, `snapshot ${snapshot.name} removed; generation ${generation}`)
    })
    await this.#consolidation.run(files, work)
  }

  #checkNew(vm: VirtualMachine, spec: SnapshotSpec, files: VirtualMachineFiles): void {
    const subject = files.label(files.vmx)
    const refuse = (code: 'VMSEAL_INVALID_STATE' | 'VMSEAL_ALREADY_EXISTS', reason: string): never => {
      throw new VmsealError(code, `${subject}: ${reason}`, { details: { subject } })
    }
    if (vm.snapshots === 'unknown' || vm.snapshots > vm.table.snapshots.length)
      refuse('VMSEAL_INVALID_STATE', 'another program took snapshots of it; remove those first')
    if (vm.table.snapshots.length >= snapshotLimit)
      refuse('VMSEAL_INVALID_STATE', `it has ${snapshotLimit} snapshots; remove some first`)
    if (vm.table.snapshots.some(({ id }) => id === spec.snapshotId))
      refuse('VMSEAL_ALREADY_EXISTS', `it has a snapshot ${spec.snapshotId}`)
    if (spec.memory !== undefined && !this.#powered.isOn(files))
      throw new VmsealError('VMSEAL_INVALID_POWER_STATE', `${subject} is off, so it has no memory`, {
        details: { subject },
      })
  }

  /** Plans a child of `below`. The host must have the first KEK of that, which becomes the child's. */
  #child(
    files: VirtualMachineFiles,
    vm: VirtualMachine,
    { device, diskId }: DiskEntry,
    below: readonly LinkState[],
    names: FreeNames,
    generation: number,
  ): NewChild {
    const parent = below.at(-1) as LinkState
    for (const link of below) kekOfLink(link, this.#context.keys)
    const file = names.child(parent.name)
    const { vmId } = vm.description
    const [key] = parent.keys
    const kek = key && this.#context.keys.require(key, keysRequired(files, [key]).message)
    const seal = key && { generation, sectorSize: parent.sectorSize ?? 512 }
    const spec = key && seal && { ...key, ...seal, vmId, diskId }
    const paths = [files.path(file), parent.files.path(parent.name)] as const
    const link = { file, vmId, diskId, ...(key && { generation }), parent: parent.file }
    return {
      entry: { device, diskId, file, ...(key && { sealedGeneration: generation }) },
      link,
      below,
      state: {
        ...link,
        files,
        name: file,
        keys: key ? [key] : [],
        ...(seal && { sectorSize: seal.sectorSize }),
      },
      step: {
        label: `child of ${device}`,
        bytes: 0,
        start: () => native.createChildDisk(...paths, parent.file, diskId, kek ?? null, spec ?? null),
      },
    }
  }

  /** Has the open disks of a VM that is on write to their children from the commit on; when it fails, as before. */
  async #commitInGuest(
    files: VirtualMachineFiles,
    held: HeldVm,
    work: Work,
    children: readonly NewChild[],
    transaction: FileTransaction,
  ): Promise<void> {
    const { keys } = this.#context
    const pushed: DiskHandle[] = []
    const verify = (): void => {
      for (const { entry, below, state } of children) {
        const handle = this.#powered.disk(files, entry.diskId)
        if (handle === undefined) openChain([...below, state], keys, false).close()
        else {
          pushChild(handle, state, keys)
          pushed.push(handle)
        }
      }
    }
    try {
      await commitHeld(files, held, work, { ...transaction, verify })
    } catch (error) {
      // If it cannot be known whether the commit holds, the guest's bytes go where either side finds them.
      const found = await files.readVmx().catch(() => undefined)
      if (found?.get('vmseal.gen') !== String(transaction.generation))
        for (const handle of pushed) handle.popChild()
      throw error
    }
  }

  /** The .vmsd tells other tools of the tree; the .vmx is what counts, so a failure here is none. */
  async #recordTree(files: VirtualMachineFiles, table: SnapshotTable, generation: number): Promise<void> {
    const document = VmxDocument.empty()
    document.set('.encoding', 'UTF-8')
    document.set('vmseal.gen', String(generation))
    document.set('snapshot.numSnapshots', String(table.snapshots.length))
    for (const [index, { id, name, parent }] of table.snapshots.entries()) {
      document.set(`snapshot${index}.uid`, String(index + 1))
      document.set(`snapshot${index}.displayName`, name)
      document.set(`snapshot${index}.vmsealId`, id)
      const above = table.snapshots.findIndex((other) => other.id === parent)
      if (above >= 0) document.set(`snapshot${index}.parent`, String(above + 1))
      if (id === table.current) document.set('snapshot.current', String(index + 1))
    }
    await replaceFile(files.path(files.vmsd), document.toString()).catch(() => {})
  }
}

/** Every file of the present disks as a link, also of those that were one file until now. */
function withBases(vm: VirtualMachine): ChainLink[] {
  const known = new Set(vm.table.links.map(({ file }) => file))
  const bases = vm.description.disks.filter(({ file }) => !known.has(file))
  return [...vm.table.links, ...bases.map((disk) => linkOf(disk, vm.description.vmId))]
}

function snapshotOf(vm: VirtualMachine, id: string, files: VirtualMachineFiles): SnapshotRecord {
  const found = vm.table.snapshots.find((snapshot) => snapshot.id === id)
  if (found) return found
  throw new VmsealError('VMSEAL_NOT_FOUND', `${files.label(files.vmx)} has no snapshot ${id}`, {
    details: { subject: id },
  })
}
