/** The datastores that a host is connected to, and the VMs that references name on them. */
import { VmsealError } from '../errors.js'
import type { VmReference } from '../rpc/host-api.js'
import { Datastore } from './datastore.js'
import { checkReference } from './requests.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'

export class Datastores {
  readonly #hostName: string
  readonly #datastores: ReadonlyMap<string, Datastore>

  private constructor(hostName: string, datastores: ReadonlyMap<string, Datastore>) {
    this.#hostName = hostName
    this.#datastores = datastores
  }

  /** `directories`: name to directory. */
  static async open(hostName: string, directories: Readonly<Record<string, string>>): Promise<Datastores> {
    const datastores = new Map<string, Datastore>()
    for (const [name, directory] of Object.entries(directories))
      datastores.set(name, await Datastore.open(name, directory))
    return new Datastores(hostName, datastores)
  }

  get names(): string[] {
    return [...this.#datastores.keys()]
  }

  /** VMSEAL_NOT_FOUND when the host has none of this name. */
  get(name: string): Datastore {
    const datastore = this.#datastores.get(name)
    if (datastore !== undefined) return datastore
    throw new VmsealError(
      'VMSEAL_NOT_FOUND',
      `the host ${this.#hostName} has no datastore ${JSON.stringify(name)}`,
      { details: { subject: name } },
    )
  }

  /** The files of the VM that `vm` names. Nothing is read. */
  files(vm: VmReference): VirtualMachineFiles {
    checkReference(vm)
    return this.get(vm.datastore).files(vm)
  }
}
