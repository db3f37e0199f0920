/** A change of a VM as one transaction: what is created, done, verified and superseded, and the .vmx that commits it. */
import { VmsealError } from '../errors.js'
import type { ReconfigureSpec } from '../rpc/host-api.js'
import type { Datastore } from './datastore.js'
import { DiskChanges, entryOf } from './disk-changes.js'
import type { FileTransaction } from './file-transaction.js'
import { HomeChange, type OpenHome } from './home-change.js'
import { nextDevice, writeDescription, type DiskEntry } from './home-description.js'
import type { HostContext } from './host-context.js'
import { PlannedWork } from './planned-work.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { nextGeneration } from './vm-change.js'
import type { VirtualMachine } from './vm-config.js'

export class ChangePlan {
  readonly #files: VirtualMachineFiles
  readonly #vm: VirtualMachine
  readonly #open: OpenHome
  readonly #generation: number
  readonly #planned: PlannedWork
  readonly #disks: DiskChanges
  readonly #home: HomeChange

  /** `existing`: the names in the folder; `made`: those of them that are this change's own already. */
  constructor(
    context: HostContext,
    files: VirtualMachineFiles,
    vm: VirtualMachine,
    open: OpenHome,
    existing: readonly string[],
    made: readonly string[],
  ) {
    this.#files = files
    this.#vm = vm
    this.#open = open
    this.#planned = new PlannedWork(files, existing, made)
    this.#generation = nextGeneration(vm, files)
    this.#disks = new DiskChanges(context, files, vm, this.#generation, this.#planned)
    this.#home = new HomeChange(context, files, vm, open, this.#generation, this.#planned)
  }

  /** Room that the new files take: known once the plan is made. */
  get neededBytes(): number {
    return this.#planned.neededBytes
  }

  /** One line for the log. */
  get summary(): string {
    return this.#planned.summary
  }

  async plan(spec: ReconfigureSpec, datastore: Datastore): Promise<FileTransaction> {
    const { vmId, name, homeFiles: present } = this.#vm.description
    const disks = await this.#planDisks(spec, datastore)
    const homeFiles = spec.home ? await this.#home.convertFiles(spec.home.type) : present
    const { document, wrap } = this.#home.compose(spec.home)
    const generation = this.#generation
    writeDescription(document, { vmId, name, generation, disks, homeFiles, ...(wrap && { wrap }) })
    const { created, superseded, steps, verifications, made } = this.#planned
    return {
      generation,
      created,
      superseded,
      ...(spec.discardSource === 'overwrite' && { overwritten: await this.#overwritable() }),
      steps: [...steps, ...verifications],
      prepare: () => this.#files.remove(made),
      vmx: document,
      verify: () => this.#disks.verify(),
    }
  }

  async #planDisks(spec: ReconfigureSpec, datastore: Datastore): Promise<DiskEntry[]> {
    const entries: DiskEntry[] = []
    for (const disk of this.#vm.disks) {
      if (spec.removeDisks?.includes(disk.diskId)) continue
      const change = spec.disks?.find(({ diskId }) => diskId === disk.diskId)
      entries.push(change === undefined ? entryOf(disk) : await this.#disks.convert(disk, change))
    }
    for (const disk of spec.addDisks ?? []) entries.push(this.#disks.add(disk, nextDevice(entries)))
    const homeIsSealed = this.#open.dek !== undefined && spec.home?.type !== 'decrypt'
    for (const disk of spec.attachDisks ?? [])
      entries.push(await this.#disks.attach(disk, nextDevice(entries), datastore, homeIsSealed))
    return entries
  }

  /** Refused: a file whose other name would see its content go. */
  async #overwritable(): Promise<readonly string[]> {
    for (const name of this.#planned.overwritten)
      if ((await this.#files.linkCount(name)) > 1) {
        const subject = this.#files.label(name)
        throw new VmsealError(
          'VMSEAL_EXTENT_INVALID',
          `${subject} has more than one name (hard links): overwriting it would change the others too`,
          { details: { subject } },
        )
      }
    return this.#planned.overwritten
  }
}
