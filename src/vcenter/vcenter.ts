/** vCenter: the inventory, the key providers, and what moves keys by id between KMS and hosts. */
import { EventEmitter } from 'node:events'
import { chmod, mkdir } from 'node:fs/promises'
import path from 'node:path'
import { VmsealError } from '../errors.js'
import { DirectoryLock } from '../store/directory-lock.js'
import { openSqliteStore } from '../store/sqlite-store.js'
import type { Store } from '../store/store.js'
import { Alarms } from './alarms.js'
import { Access, system } from './authorization/access.js'
import { Authorization } from './authorization/authorization.js'
import { Guard } from './authorization/guard.js'
import { rootEntity } from './authorization/inventory-objects.js'
import { vcenterRules } from './authorization/operations.js'
import { Clusters } from './clusters.js'
import { EventLog, type VCenterEvent } from './events.js'
import { HostConnections, type HostConnection } from './host-connections.js'
import { HostEncryption } from './host-encryption.js'
import { synchroniseHost } from './host-sync.js'
import { Hosts } from './hosts.js'
import { InterruptedConversions } from './interrupted-conversions.js'
import { KeyDistribution } from './key-distribution.js'
import { KeyProviders } from './key-providers.js'
import { KeyRotation } from './key-rotation.js'
import { KeyRestoration } from './key-restoration.js'
import { KeySealing } from './key-sealing.js'
import { ProviderRekey, type RekeyOptions, type RekeyResult } from './provider-rekey.js'
import { rebuildInventory, type RebuildOptions, type RebuildReport } from './rebuild.js'
import { requireName } from './names.js'
import type { Services } from './services.js'
import { tellListeners } from './listeners.js'
import { StoragePolicies } from './storage-policies.js'
import type { Task } from './task.js'
import { Tasks } from './tasks.js'
import { VirtualMachines } from './virtual-machines.js'
import { VmIntents } from './vm-intents.js'
import { VmInventory } from './vm-inventory.js'
import { HostAuthority } from './host-authority.js'
import { NetworkHosts } from './network-hosts.js'

export interface VCenterOptions {
  /** Holds the inventory and the credentials for key providers (mode 0700). Made when it is missing. */
  readonly directory: string
}

export interface VCenterEvents {
  event: [event: VCenterEvent]
  /** A task was started, also by a call that only returns its result. */
  task: [task: Task]
}

/** What a user sees of a vCenter: each operation first asks whether he may. */
export interface VCenterSession extends Pick<
  VCenter,
  | 'alarms'
  | 'authorization'
  | 'clusters'
  | 'events'
  | 'hosts'
  | 'keyProviders'
  | 'keyRotation'
  | 'rekey'
  | 'storagePolicies'
  | 'tasks'
  | 'virtualMachines'
> {
  readonly user: string
}

const clock = (): Date => new Date()

export class VCenter extends EventEmitter<VCenterEvents> {
  readonly keyProviders: KeyProviders
  /** New keys on a schedule. */
  readonly keyRotation: KeyRotation
  readonly clusters: Clusters
  readonly hosts: Hosts
  readonly storagePolicies: StoragePolicies
  readonly virtualMachines: VirtualMachines
  readonly #networkHosts: NetworkHosts
  readonly tasks: Tasks
  /** The event log. */
  readonly events: EventLog
  /** What needs attention now. */
  readonly alarms: Alarms
  readonly authorization: Authorization
  readonly #access: Access
  readonly #store: Store
  readonly #rekey: ProviderRekey
  readonly #services: Services
  readonly #restoration: KeyRestoration
  readonly #lock: DirectoryLock
  #closed: Promise<void> | undefined

  /**
   * Opens the vCenter of a directory, or makes one. VMSEAL_FILE_LOCKED while another one has it open,
   * VMSEAL_STORE_INVALID if its database is damaged or newer. Hosts of
   * this process have to be connected again; those on the network are reached by themselves.
   */
  static async open(options: VCenterOptions): Promise<VCenter> {
    if (typeof options?.directory !== 'string' || options.directory === '')
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        'directory must be the path of the directory of this vCenter',
      )
    const directory = path.resolve(options.directory)
    await mkdir(directory, { recursive: true, mode: 0o700 })
    await chmod(directory, 0o700)
    const lock = DirectoryLock.acquire(directory)
    try {
      const vcenter = new VCenter(directory, openSqliteStore(path.join(directory, 'vcenter.db')), lock)
      await vcenter.tasks.failInterrupted()
      await vcenter.alarms.catchUp()
      await vcenter.#networkHosts.start()
      return vcenter
    } catch (error) {
      lock.release()
      throw error
    }
  }

  private constructor(directory: string, store: Store, lock: DirectoryLock) {
    super()
    const events = new EventLog(
      store.events,
      clock,
      (event) => tellListeners(() => this.emit('event', event)),
      (event) => this.alarms.consider(event),
    )
    this.alarms = new Alarms(store.alarms, events, clock)
    this.#store = store
    this.#lock = lock
    this.events = events
    this.#access = new Access(store, (refusal) =>
      events.append('vmseal.authorization.Refused', { ...refusal }),
    )
    this.authorization = new Authorization({ store, access: this.#access, clock })
    const connections = new HostConnections()
    const expect = (host: HostConnection): void => restoration.expect(host)
    const conversions = new InterruptedConversions(() => services)
    const inventory = new VmInventory({
      store,
      connections,
      events,
      clock,
      onRestarted: expect,
      onRead: (record, config, host) => conversions.note(record, config, host),
      onFoundKeys: (keys, clusterId) => restoration.mayLack(keys, connections.ofCluster(clusterId)),
    })
    this.keyProviders = new KeyProviders({
      store,
      events,
      clock,
      connections,
      inventory,
      directory: path.join(directory, 'credentials'),
      onReturn: () => restoration.hurry(),
    })
    this.storagePolicies = new StoragePolicies(store, this.#access)
    this.tasks = new Tasks(
      store.tasks,
      clock,
      (task) => tellListeners(() => this.emit('task', task)),
      () => this.#access.require('Global.CancelTask', rootEntity, 'Tasks.cancel'),
    )
    const sealing = new KeySealing(this.keyProviders, clock)
    const hostEncryption = new HostEncryption({
      store,
      events,
      keyProviders: this.keyProviders,
      sealing,
      authorize: (host) => this.#access.requireOnHost('Cryptographer.RegisterHost', host),
    })
    const restoration = new KeyRestoration((host) => synchroniseHost(services, host))
    const services: Services = {
      networkHosts: new NetworkHosts(
        () => services,
        new HostAuthority(path.join(directory, 'host-authority'), store.hostAuthority),
      ),
      store,
      clock,
      events,
      access: this.#access,
      tasks: this.tasks,
      keyProviders: this.keyProviders,
      storagePolicies: this.storagePolicies,
      connections,
      distribution: new KeyDistribution({
        providers: this.keyProviders,
        events,
        sealing,
        encryption: hostEncryption,
        onLacking: expect,
        onUnavailable: (key, hosts) => restoration.mayLack([key], hosts),
      }),
      hostEncryption,
      restoration,
      intents: new VmIntents({
        store,
        inventory,
        clock,
        connections,
        isWorking: (hostId) => services.networkHosts.isWorking(hostId),
      }),
      inventory,
      conversions,
    }
    this.#rekey = new ProviderRekey(services)
    this.keyRotation = new KeyRotation({
      table: store.keyRotations,
      clock,
      requireProvider: (id) => this.keyProviders.get(id),
      rekey: (options) => this.rekey(options).done,
    })
    this.#restoration = restoration
    this.#services = services
    this.hosts = new Hosts(services)
    this.clusters = new Clusters(services, this.hosts)
    this.virtualMachines = new VirtualMachines(services, this.clusters)
    this.#networkHosts = services.networkHosts
  }

  /**
   * Gives everything that is under the keys of one provider new keys, of the same provider or of another (shallow recrypt; VMs may
   * be on). It goes on where it stood when it is called again after a crash, a cancel or failures of single VMs, which are in
   * the result. When the provider changes the host keys go along.
   *
   * Rejects with VMSEAL_KEY_PROVIDER_UNREACHABLE (the new provider is not registered), VMSEAL_INVALID_STATE (a rekey to another
   * provider has not ended), VMSEAL_INVALID_ARGUMENT.
   */
  rekey(options: RekeyOptions): Task<RekeyResult> {
    const { provider, signal } = options
    return this.tasks.start({
      name: 'VCenter.rekey',
      entity: `provider ${provider}`,
      lane: `rekey ${provider}`,
      signal,
      run: (context) => this.#rekey.run(options, context),
    })
  }

  /**
   * Registers every VM on the datastores of a cluster that is not in the inventory, from its files alone: for a vCenter
   * whose database is lost. The report tells of each VM; one that fails does not hold up the others.
   */
  async rebuild(options: RebuildOptions): Promise<RebuildReport> {
    const { id } = await this.clusters.get(options.cluster)
    return rebuildInventory(this.#services, this.virtualMachines, id, options)
  }

  /**
   * The same vCenter for one user: every operation asks for its privileges first, and VMSEAL_NO_PERMISSION names the one
   * that is lacking. Whoever holds this VCenter itself acts as the built-in `administrator`. The caller has to know who
   * the user is: there are no passwords here.
   */
  as(user: string): VCenterSession {
    if (user === system)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${system} is vCenter itself: nobody acts as it`)
    const guard = new Guard(this.#store, this.#access, requireName('user name', user))
    return {
      user,
      alarms: guard.guard(this.alarms),
      authorization: guard.guard(this.authorization),
      clusters: guard.guard(this.clusters),
      events: guard.guard(this.events),
      hosts: guard.guard(this.hosts),
      keyProviders: guard.guard(this.keyProviders),
      keyRotation: guard.guard(this.keyRotation),
      rekey: (options) =>
        guard.task('VCenter.rekey', vcenterRules.rekey, [options], () => this.rekey(options)),
      storagePolicies: guard.guard(this.storagePolicies),
      tasks: guard.guard(this.tasks),
      virtualMachines: guard.guard(this.virtualMachines),
    }
  }

  /** Cancels running tasks, waits for their end, and closes. Hosts go on. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    try {
      await this.tasks.stop()
      await this.keyRotation.close()
      await this.#restoration.close()
      this.events.close()
      await this.keyProviders.close()
      await this.alarms.settle()
    } finally {
      await this.#networkHosts.close()
      await this.#store.close()
      this.#lock.release()
    }
  }
}
