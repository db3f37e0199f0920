/** Merging files of a VM's disks that nothing needs apart: see consolidation.ts for which. */
import { VmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { Work } from '../rpc/host-api.js'
import { afterConsolidation, movedDisks, nextConsolidation, type Consolidation } from './consolidation.js'
import { openChain, readLinks } from './disk-chain.js'
import { commitHeld, holdOpenVm, type HeldVm } from './held-vm.js'
import type { HostContext } from './host-context.js'
import type { PoweredOnVms } from './power.js'
import { chainOf, type ChainLink, type SnapshotTable } from './snapshot-table.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { changedVmx } from './vm-change.js'
import type { VirtualMachine } from './vm-config.js'
import { logLine } from './vm-log.js'

export class DiskConsolidation {
  readonly #context: HostContext
  readonly #powered: PoweredOnVms

  constructor(context: HostContext, powered: PoweredOnVms) {
    this.#context = context
    this.#powered = powered
  }

  /** Merges file by file, each in a transaction of its own: whatever stops it, every state reads as before. */
  async run(files: VirtualMachineFiles, work: Work): Promise<void> {
    for (let again = true; again;)
      again = await holdOpenVm(this.#context, this.#powered, files, async (held) => {
        const next = nextConsolidation(held.vm.table, held.vm.description.disks)
        if (next === undefined) return false
        if (work.signal?.aborted) throw new VmsealError('VMSEAL_CANCELLED')
        if (next.kind === 'drop') await this.#drop(files, held, next)
        else await this.#merge(files, held, next, work)
        return true
      })
  }

  async #drop(
    files: VirtualMachineFiles,
    held: HeldVm,
    next: Consolidation & { kind: 'drop' },
  ): Promise<void> {
    const table = afterConsolidation(held.vm.table, next)
    await commitHeld(
      files,
      held,
      {},
      {
        ...changedVmx(held.vm, held.dek, files, { table }),
        created: [],
        superseded: next.files.flatMap((file) => files.filesOfDisk(file)),
        steps: [],
      },
    )
  }

  async #merge(
    files: VirtualMachineFiles,
    held: HeldVm,
    next: Consolidation & { kind: 'merge' },
    work: Work,
  ): Promise<void> {
    const { vm, dek } = held
    const { lower, upper } = next
    const table = afterConsolidation(vm.table, next)
    const disks = movedDisks(vm.description.disks, next)
    const { handle, index, own, bytes } = await this.#openMerge(files, vm, upper)
    const changed = changedVmx(vm, dek, files, { disks, table })
    const start = () => handle.merge(index)
    try {
      await commitHeld(files, held, work, {
        ...changed,
        created: [],
        superseded: files.filesOfDisk(upper.file),
        steps: [{ label: `merge ${upper.file} into ${lower.file}`, bytes, start }],
      })
      handle.endMerge(index, true)
    } catch (error) {
      // If it cannot be known whether the commit holds, a guest that is on goes on writing to both files.
      const found = await files.readVmx().catch(() => undefined)
      if (found) handle.endMerge(index, found.get('vmseal.gen') === String(changed.generation))
      throw error
    } finally {
      if (own) handle.close()
    }
    this.#tellParents(files, vm.table, next)
    await logLine(files, this.#context.name, `${upper.file} merged into ${lower.file}`)
  }

  /** The hints in the descriptors are for people and tools: the .vmx is what counts, so a failure here is none. */
  #tellParents(
    files: VirtualMachineFiles,
    { links }: SnapshotTable,
    { lower, upper }: Consolidation & { kind: 'merge' },
  ): void {
    for (const { file } of links.filter(({ parent }) => parent === upper.file))
      try {
        native.setParentHint(files.path(file), lower.file)
      } catch {
        return
      }
  }

  /** The chain that ends with or passes through `upper`: the guest's own when the VM is on. */
  async #openMerge(files: VirtualMachineFiles, vm: VirtualMachine, upper: ChainLink) {
    for (const disk of vm.disks) {
      const links = disk.links ?? []
      const index = links.findIndex(({ file }) => file === upper.file)
      const handle = index < 0 ? undefined : this.#powered.disk(files, disk.diskId)
      if (handle) return { handle, index, own: false, bytes: disk.capacityBytes }
    }
    const { diskId, generation } = upper
    const entry = {
      device: '',
      file: upper.file,
      diskId,
      ...(generation !== undefined && { sealedGeneration: generation }),
    }
    const { states, top } = await readLinks(chainOf(vm.table, entry, upper.vmId), 'a snapshot', files)
    const handle = openChain(states, this.#context.keys, true)
    return { handle, index: states.length - 1, own: true, bytes: top.capacityBytes }
  }
}
