/** The VMs of a vCenter. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { VmRecord } from '../store/store.js'
import { Cluster, type Clusters } from './clusters.js'
import { recordRefusal } from './crypto-operation.js'
import { notFound } from './names.js'
import type { Services } from './services.js'
import type { TaskContext } from './task.js'
import type { KeyName } from './task-keys.js'
import { VirtualMachine } from './virtual-machine.js'
import { searchVirtualMachines, type VirtualMachineQuery, type VirtualMachineSummary } from './vm-search.js'
import { VmCreation, type DiskPlan } from './vm-creation.js'
import { VmRestoration, type RestorePlan } from './vm-restoration.js'

interface PlacementSpec {
  readonly name: string
  readonly cluster: Cluster | string
  readonly datastore: string
  /** Policy of VM home, and of every disk that names none; default `Datastore Default`, which is plain. */
  readonly policy?: string
  /** The host that does the work; default: any of the cluster that has the datastore. */
  readonly host?: string
  /** A new key for VM home and each disk instead of one for all. */
  readonly perDiskKeys?: boolean
  /** An existing key for VM home instead of a new one. */
  readonly homeKeyId?: KeyName
  readonly signal?: AbortSignal
}

interface DiskOptions {
  readonly policy?: string
  /** An existing key instead of a new one. */
  readonly keyId?: KeyName
  /** Data unit when encrypted, default 512. */
  readonly sectorSize?: 512 | 4096
}

export interface CreateVirtualMachineSpec extends PlacementSpec {
  readonly disks: readonly (DiskOptions & { readonly capacityBytes: number })[]
  /** Further .vmx settings, for instance `memsize`. */
  readonly settings?: Readonly<Record<string, string>>
}

export interface ImportVirtualMachineSpec extends PlacementSpec {
  /** Images on the host, or their paths. They are copied and never changed. */
  readonly disks: readonly (string | (DiskOptions & { readonly source: string }))[]
  readonly settings?: Readonly<Record<string, string>>
}

export interface RegisterVirtualMachineSpec {
  readonly cluster: Cluster | string
  readonly datastore: string
  /** Folder and file on the datastore, for instance `db01/db01.vmx`. */
  readonly vmx: string
  readonly host?: string
}

export interface RestoreVirtualMachineSpec extends Omit<RestorePlan, 'clusterId'> {
  readonly cluster: Cluster | string
  readonly signal?: AbortSignal
}

export class VirtualMachines {
  readonly #services: Services
  readonly #clusters: Clusters

  /** @internal */
  constructor(services: Services, clusters: Clusters) {
    this.#services = services
    this.#clusters = clusters
  }

  /** Makes a VM with empty disks; those with an encryption policy are encrypted from the first byte. */
  create(spec: CreateVirtualMachineSpec): Promise<VirtualMachine> {
    return this.#make('VirtualMachines.create', spec, spec.disks, spec.settings)
  }

  /** Makes a VM from disk images. With an encryption policy no plaintext of them reaches the datastore. */
  import(spec: ImportVirtualMachineSpec): Promise<VirtualMachine> {
    const disks = spec.disks.map((disk) => (typeof disk === 'string' ? { source: disk } : disk))
    return this.#make('VirtualMachines.import', spec, disks, spec.settings)
  }

  /** Takes over a VM that lies on a datastore, with its keys by the ids in its files. Without them it is locked. */
  register(spec: RegisterVirtualMachineSpec): Promise<VirtualMachine> {
    return this.#start('VirtualMachines.register', spec.vmx, undefined, async (context) => {
      const { datastore, vmx, host } = spec
      const subject = { operation: 'register', vm: vmx, host: host ?? '', keys: [] } as const
      return recordRefusal(this.#services.events, subject, async () => {
        const clusterId = await this.#clusterId(spec.cluster)
        return new VmCreation(this.#services).register({ clusterId, datastore, vmx, host }, context)
      })
    })
  }

  /**
   * Makes a VM of an export, which is only read: once all of it was compared with its sealed manifest, and before a key is made. It is
   * encrypted under a new key, a named one, or that of the export, which a registered provider must have.
   *
   * Rejects with VMSEAL_EXPORT_INVALID (not whole, or altered), VMSEAL_NOT_FOUND, VMSEAL_ALREADY_EXISTS (the name, or with
   * `identity: 'same'` the VM), VMSEAL_POLICY_NOT_ENCRYPTION, VMSEAL_NO_SPACE, and why the key of the export cannot be had.
   */
  restore(spec: RestoreVirtualMachineSpec): Promise<VirtualMachine> {
    return this.#start('VirtualMachines.restore', spec.name, spec.signal, async (context) => {
      const { cluster, signal: _, ...plan } = spec
      const subject = { operation: 'restore', vm: spec.name, host: spec.host ?? '', keys: [] } as const
      return recordRefusal(this.#services.events, subject, async () => {
        const clusterId = await this.#clusterId(cluster)
        return new VmRestoration(this.#services).restore({ ...plan, clusterId }, context)
      })
    })
  }

  /** By name. */
  async list(): Promise<VirtualMachine[]> {
    const records = await this.#services.store.virtualMachines.listNames()
    return records.map((record) => new VirtualMachine(record, this.#services))
  }

  /**
   * VMs as vCenter remembers them, by name; no host is asked. Page by page with `limit` and the last name as `after`. VMSEAL_NOT_FOUND
   * for a cluster or host that there is not, VMSEAL_POLICY_UNKNOWN.
   */
  async search(query: VirtualMachineQuery = {}): Promise<VirtualMachineSummary[]> {
    return searchVirtualMachines(this.#services, query)
  }

  async get(name: string): Promise<VirtualMachine> {
    const record = await this.#services.store.virtualMachines.findByName(name)
    if (!record) throw notFound('virtual machine', name)
    return new VirtualMachine(record, this.#services)
  }

  #make(
    task: string,
    spec: PlacementSpec,
    disks: readonly DiskPlan[],
    settings: Readonly<Record<string, string>> | undefined,
  ): Promise<VirtualMachine> {
    const { name, datastore, policy, host, perDiskKeys, homeKeyId } = spec
    return this.#start(task, name, spec.signal, async (context) => {
      const subject = {
        operation: 'create',
        vm: name,
        host: host ?? '',
        keys: keysNamed(homeKeyId, disks),
      } as const
      return recordRefusal(this.#services.events, subject, async () => {
        const clusterId = await this.#clusterId(spec.cluster)
        const plan = { name, clusterId, datastore, disks, policy, settings, host, perDiskKeys, homeKeyId }
        return new VmCreation(this.#services).create(plan, context)
      })
    })
  }

  async #start(
    name: string,
    entity: string,
    signal: AbortSignal | undefined,
    run: (context: TaskContext) => Promise<VmRecord>,
  ): Promise<VirtualMachine> {
    if (typeof entity !== 'string') throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'a VM needs a name')
    const task = this.#services.tasks.start({ name, entity, lane: `new ${entity}`, signal, run })
    return new VirtualMachine(await task.done, this.#services)
  }

  async #clusterId(cluster: Cluster | string): Promise<string> {
    return cluster instanceof Cluster ? cluster.id : (await this.#clusters.get(cluster)).id
  }
}

/** The existing keys that a VM is to be made with; a bare id is of the default provider, which is not said here. */
function keysNamed(homeKeyId: KeyName | undefined, disks: readonly DiskPlan[]): CryptoKeyId[] {
  const names = [homeKeyId, ...disks.map(({ keyId }) => keyId)].filter((name) => name !== undefined)
  return names.map((name) => (typeof name === 'string' ? { keyId: name, providerId: '' } : name))
}
