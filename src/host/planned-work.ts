/** What a change of a VM writes, collected while it is planned: names, steps, and the room that the new files take. */
import { FreeNames, type VirtualMachineFiles } from './virtual-machine-files.js'
import type { WorkStep } from './work.js'

export class PlannedWork {
  /** Room that the new files take. */
  neededBytes = 0
  readonly names: FreeNames
  readonly created: string[] = []
  readonly superseded: string[] = []
  /** Of them those that are overwritten first, when that is asked for. */
  readonly overwritten: string[] = []
  readonly steps: WorkStep[] = []
  /** Of the copies, when all of them are made. */
  readonly verifications: WorkStep[] = []
  /** What an interrupted request of the same made and this one goes on with, or begins anew. */
  readonly made: Set<string>
  readonly #files: VirtualMachineFiles

  /** `existing`: the names in the folder; `made`: those of them that are this change's own already. */
  constructor(files: VirtualMachineFiles, existing: readonly string[], made: readonly string[]) {
    this.#files = files
    const own = new Set(made)
    this.made = new Set(existing.filter((name) => own.has(name)))
    this.names = new FreeNames(
      files,
      existing.filter((name) => !own.has(name)),
    )
  }

  /** One line for the log. */
  get summary(): string {
    return this.steps.length > 0 ? this.steps.map(({ label }) => label).join(', ') : 'VM home changed'
  }

  /** The descriptor of a disk to come; its files are created by the change. */
  newDisk(): string {
    const file = this.names.disk()
    this.created.push(...this.#files.filesOfDisk(file))
    return file
  }
}
