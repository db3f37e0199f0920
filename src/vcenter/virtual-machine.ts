/** One VM, as a caller works with it. */
import { isVmsealError } from '../errors.js'
import type { HostApi, SnapshotConfig } from '../rpc/host-api.js'
import type { DiskRecord, VmRecord } from '../store/store.js'
import { recordOperation, recordRefusal } from './crypto-operation.js'
import { complianceOf, type VmCompliance } from './compliance.js'
import type { DesiredState } from './desired-state.js'
import type { AttachDiskSpec } from './disk-attachment.js'
import type { CryptoOperationName } from './events.js'
import type { HostConnection } from './host-connections.js'
import type { Services } from './services.js'
import { StateApplication, type AppliedState, type ApplyStateOptions } from './state-application.js'
import type { Task, TaskContext } from './task.js'
import type { KeyName } from './task-keys.js'
import type { VirtualMachineInfo } from './vm-inventory.js'
import { VmCloning, type CloneOptions } from './vm-cloning.js'
import { VmConversion } from './vm-conversion.js'
import { VmMigration, type MigrateOptions } from './vm-migration.js'
import { findDisk, keysOf, referenceOf } from './vm-record.js'
import { VmRecrypt, type RecryptOptions } from './vm-recrypt.js'
import { VmSnapshots, type CreateSnapshotOptions, type RemoveSnapshotOptions } from './vm-snapshots.js'
import { VmUnlocking } from './vm-unlocking.js'
import { VmReconfiguration, type ApplyPolicyOptions, type PolicyWish } from './vm-reconfiguration.js'

export interface AddDiskSpec {
  /** An image on the host that is copied; or give `capacityBytes` for an empty disk. */
  readonly source?: string
  readonly capacityBytes?: number
  /** Default: the policy of VM home. */
  readonly policy?: string
  /** An existing key instead of a new one. */
  readonly keyId?: KeyName
  /** Data unit when encrypted, default 512. */
  readonly sectorSize?: 512 | 4096
}

export interface HostOption {
  /** Name of the host of the VM's cluster; default: the one the VM is registered on. */
  readonly host?: string
}

export class VirtualMachine {
  readonly id: string
  readonly name: string
  /** Of the cluster it was in when this object was made. */
  readonly clusterId: string
  readonly #services: Services

  /** @internal */
  constructor(record: Pick<VmRecord, 'id' | 'name' | 'clusterId'>, services: Services) {
    this.id = record.id
    this.name = record.name
    this.clusterId = record.clusterId
    this.#services = services
  }

  /** State, keys and policies, from the VM's host if it is connected. */
  info(): Promise<VirtualMachineInfo> {
    return this.#services.inventory.describe(this.id, this.name)
  }

  /**
   * Sets policies and encrypts or decrypts what they ask for, as one task with one new key. What is so already
   * stays untouched, and if nothing changes no key is made.
   */
  applyPolicy(wish: PolicyWish, options: ApplyPolicyOptions = {}): Task<VirtualMachineInfo> {
    return this.#start('VirtualMachine.applyPolicy', options, (vm, context) =>
      new VmReconfiguration(this.#services).applyPolicy(vm, wish, options, context),
    )
  }

  /** Storage policies and crypto state compared, part by part: from the VM's host if it answers, else from memory. */
  async compliance(): Promise<VmCompliance> {
    const { storagePolicies, virtualMachines } = this.#services.store
    const { connectionState } = await this.info()
    const record = (await virtualMachines.findById(this.id)) ?? (await this.#record())
    const [policies, applied] = await Promise.all([
      storagePolicies.list(),
      storagePolicies.appliedVersions(this.id),
    ])
    return complianceOf(record, { policies, applied }, connectionState === 'disconnected' ? 'before' : 'now')
  }

  /**
   * Brings the VM to a declared state: storage policies, and the provider that its keys are of. Several changes are one task with one
   * new key. A VM that is as declared stays untouched, and no key is made.
   */
  apply(state: DesiredState, options: ApplyStateOptions = {}): Task<AppliedState> {
    return this.#task('VirtualMachine.apply', options, async (vm, context) => {
      const changes = await new StateApplication(this.#services).apply(vm, state, options, context)
      return { changes, virtualMachine: await this.info() }
    })
  }

  /**
   * Gives VM home and the encrypted disks, or some of them, another KEK (shallow: no data is touched, the VM may be on) or another
   * KEK and other DEKs (deep). Interrupted anywhere the VM opens with the old keys and the new one; doing it again ends the work.
   * Old keys that nothing uses any more are taken from the hosts.
   *
   * Rejects with VMSEAL_INVALID_POWER_STATE (deep, powered on), VMSEAL_INVALID_STATE or VMSEAL_DISK_STATE (not encrypted),
   * VMSEAL_NO_SPACE (deep), VMSEAL_ENCRYPTION_KEY_REQUIRED (an old key cannot be had): then no key was made.
   */
  recrypt(options: RecryptOptions): Task<VirtualMachineInfo> {
    return this.#start('VirtualMachine.recrypt', options, (vm, context) =>
      new VmRecrypt(this.#services).run(vm, options, context),
    )
  }

  /**
   * Ends the conversions in place that a failure, a cancel or a crash interrupted, with the keys that they began with.
   * VMSEAL_INVALID_STATE when no disk is in conversion, VMSEAL_ENCRYPTION_KEY_REQUIRED when a key cannot be had: then everything
   * stays as it is.
   */
  resumeConversion(options: HostOption & { signal?: AbortSignal } = {}): Task<VirtualMachineInfo> {
    return this.#start('VirtualMachine.resumeConversion', options, (vm, context) =>
      new VmConversion(this.#services).resume(vm, options.host, context),
    )
  }

  addDisk(spec: AddDiskSpec, options: HostOption & { signal?: AbortSignal } = {}): Task<VirtualMachineInfo> {
    return this.#start('VirtualMachine.addDisk', options, (vm, context) =>
      new VmReconfiguration(this.#services).addDisk(vm, { ...spec, host: options.host }, context),
    )
  }

  /**
   * Takes in a disk that lies on the VM's datastore, with its key; no key is made. One that was this VM's own stays where it is. Every
   * other is copied into the VM's folder, an encrypted one under a DEK of its own; its source stays.
   *
   * Rejects with VMSEAL_DISK_STATE (plain, and the policy encrypts), VMSEAL_POLICY_NOT_ENCRYPTION (encrypted, and the policy does not
   * or is missing), VMSEAL_ENCRYPTION_MISMATCH (VM home is plain), VMSEAL_DISK_SHARED (it belongs to another VM),
   * VMSEAL_DISK_NOT_FILE, VMSEAL_DEVICE_NOT_DISK.
   */
  attachDisk(
    spec: AttachDiskSpec,
    options: HostOption & { signal?: AbortSignal } = {},
  ): Task<VirtualMachineInfo> {
    return this.#start('VirtualMachine.attachDisk', options, (vm, context) =>
      new VmReconfiguration(this.#services).attachDisk(vm, { ...spec, host: options.host }, context),
    )
  }

  /** VMSEAL_ENCRYPTION_KEY_REQUIRED, naming the ids, if the host lacks a key. */
  async powerOn(options: HostOption = {}): Promise<VirtualMachineInfo> {
    return this.#start('VirtualMachine.powerOn', options, async (vm, { step }) => {
      const host = this.#host(vm, options.host)
      await this.#services.inventory.requireNotRunning(vm)
      const powerOn = () => host.call((api) => api.powerOn(referenceOf(vm)))
      const config = await new VmUnlocking(this.#services).withKeys(vm, host, powerOn, step)
      return this.#services.inventory.absorb(vm, config, host, { moved: true })
    }).done
  }

  async powerOff(): Promise<VirtualMachineInfo> {
    return this.#start('VirtualMachine.powerOff', {}, async (vm) => {
      const host = this.#host(vm, undefined)
      const config = await host.call((api) => api.powerOff(referenceOf(vm)))
      return this.#services.inventory.absorb(vm, config, host, { moved: true })
    }).done
  }

  /** Fetches the keys that the VM's host lacks and pushes them to the cluster. Fails with why a key cannot be had. */
  async unlock(): Promise<VirtualMachineInfo> {
    return this.#start('VirtualMachine.unlock', {}, (vm, { step }) =>
      new VmUnlocking(this.#services).unlock(vm, this.#host(vm, undefined), step),
    ).done
  }

  /** Reads the VM's files again, also those of a locked VM. */
  async reload(): Promise<VirtualMachineInfo> {
    return this.#start('VirtualMachine.reload', {}, async (vm) => {
      const { record } = await this.#services.inventory.read(vm, this.#host(vm, undefined))
      return record
    }).done
  }

  /** Takes a disk out of the VM, which need not be opened for it: a disk whose key is lost too. Its files stay. */
  async detachDisk(disk: string, options: HostOption = {}): Promise<VirtualMachineInfo> {
    return this.#start('VirtualMachine.detachDisk', options, (vm, context) =>
      new VmReconfiguration(this.#services).detachDisk(vm, disk, options.host, context),
    ).done
  }

  /** Those that vmseal took, parents before children. */
  async snapshots(): Promise<readonly SnapshotConfig[]> {
    return new VmSnapshots(this.#services).list(await this.#record())
  }

  /**
   * Keeps the present state of the VM, with its memory when it is on and `memory` names a source. What is written from now on goes
   * to children of its disks, each under a DEK of its own and the KEK of its disk; no key is made.
   */
  createSnapshot(options: CreateSnapshotOptions): Task<VirtualMachineInfo> {
    return this.#start('VirtualMachine.createSnapshot', options, (vm, context) =>
      new VmSnapshots(this.#services).create(vm, options, context),
    )
  }

  /** Back to a snapshot, by name or id. The VM is off afterwards, and what was written since its last snapshot is gone. */
  revertToSnapshot(snapshot: string, options: { signal?: AbortSignal } = {}): Task<VirtualMachineInfo> {
    return this.#start('VirtualMachine.revertToSnapshot', options, (vm, context) =>
      new VmSnapshots(this.#services).revert(vm, snapshot, context),
    )
  }

  /**
   * Forgets a snapshot, by name or id, and merges what nothing needs apart. The VM may be on. Interrupted anywhere every state reads
   * as before, and `consolidateDisks` ends the work.
   */
  removeSnapshot(snapshot: string, options: RemoveSnapshotOptions = {}): Task<VirtualMachineInfo> {
    return this.#start('VirtualMachine.removeSnapshot', options, (vm, context) =>
      new VmSnapshots(this.#services).remove(vm, snapshot, options.children ?? false, context),
    )
  }

  removeAllSnapshots(options: { signal?: AbortSignal } = {}): Task<VirtualMachineInfo> {
    return this.#start('VirtualMachine.removeAllSnapshots', options, (vm, context) =>
      new VmSnapshots(this.#services).removeAll(vm, context),
    )
  }

  /** Merges files of its disks that no snapshot needs apart: what an interrupted removal left. */
  consolidateDisks(options: { signal?: AbortSignal } = {}): Task<VirtualMachineInfo> {
    return this.#start('VirtualMachine.consolidateDisks', options, (vm, context) =>
      new VmSnapshots(this.#services).consolidate(vm, context),
    )
  }

  /**
   * Makes a VM of this one: a full copy whose DEKs are its own, in one step under the same KEKs or new ones, encrypted or decrypted;
   * or a linked clone of a snapshot. This VM is only read and may be on.
   *
   * Rejects with VMSEAL_ALREADY_EXISTS (the name), VMSEAL_ENCRYPTION_MISMATCH, VMSEAL_DISK_CHAIN (a linked clone with keys of its
   * own), VMSEAL_NO_SPACE.
   */
  clone(options: CloneOptions): Task<VirtualMachine> {
    const { events, connections, tasks } = this.#services
    return tasks.start({
      name: 'VirtualMachine.clone',
      entity: this.name,
      lane: this.id,
      signal: options.signal,
      run: async (context) => {
        const vm = await this.#record()
        const host = this.#host(vm, options.host)
        await new VmUnlocking(this.#services).refuseLocked('VirtualMachine.clone', vm, host, context.step)
        const name = (vm.hostId === null ? undefined : connections.get(vm.hostId)?.name) ?? ''
        const subject = { operation: 'clone', vm: vm.name, host: name, keys: keysOf(vm) } as const
        const made = await recordRefusal(events, subject, () =>
          new VmCloning(this.#services).clone(vm, options, context),
        )
        return new VirtualMachine(made, this.#services)
      },
    })
  }

  /**
   * Registers the VM, which is off, on another host of its cluster, which is switched to safe and given the VM's keys first when it
   * lacks them. No data moves, and the VM stays where it is until the host opens every part of it. The host that it leaves need not
   * answer.
   *
   * Rejects with VMSEAL_INVALID_POWER_STATE (it is on, or was when its silent host was last heard of), VMSEAL_HOST_UNREACHABLE,
   * VMSEAL_ENCRYPTION_KEY_REQUIRED (the host cannot be given a key).
   */
  migrate(options: MigrateOptions): Task<VirtualMachineInfo> {
    return this.#services.tasks.start({
      name: 'VirtualMachine.migrate',
      entity: this.name,
      lane: this.id,
      signal: options.signal,
      run: async (context) => {
        const vm = await this.#record()
        await this.#recorded('VirtualMachine.migrate', vm, () =>
          new VmMigration(this.#services).migrate(vm, options, context),
        )
        return this.info()
      },
    })
  }

  /** Writes up to 1 MiB to a disk as a guest does; durable when it resolves. On the host's own machine only. */
  async writeDisk(disk: string, offset: number, data: Uint8Array, options: HostOption = {}): Promise<void> {
    const vm = await this.#record()
    const { diskId } = await this.#readable(vm, disk)
    const text = Buffer.from(data).toString('base64')
    await this.#onDisk(vm, options, (api) => api.writeDisk(referenceOf(vm), diskId, offset, text))
  }

  /** SHA-256 (hex) of a disk, named by device node or disk id, as a guest reads it. */
  async digest(
    disk: string,
    options: HostOption & { signal?: AbortSignal } = {},
  ): Promise<{ sha256: string; bytes: number }> {
    const vm = await this.#record()
    const { diskId } = await this.#readable(vm, disk)
    const work = options.signal ? { signal: options.signal } : {}
    return this.#onDisk(vm, options, (api) => api.digestDisk(referenceOf(vm), diskId, work))
  }

  /** Up to 1 MiB of a disk as a guest reads it. */
  async readDisk(disk: string, offset: number, length: number, options: HostOption = {}): Promise<Buffer> {
    const vm = await this.#record()
    const { diskId } = await this.#readable(vm, disk)
    const text = await this.#onDisk(vm, options, (api) =>
      api.readDisk(referenceOf(vm), diskId, offset, length),
    )
    return Buffer.from(text, 'base64')
  }

  /** Takes the VM out of the inventory, also a locked one; its files stay. */
  async unregister(): Promise<void> {
    return this.#end('VirtualMachine.unregister', async ({ id, name }) => {
      await this.#services.store.virtualMachines.remove(id)
      await this.#services.events.append('vim.event.VmRemovedEvent', { vm: name })
    })
  }

  /** Removes the VM and its files. */
  async destroy(): Promise<void> {
    return this.#end('VirtualMachine.destroy', async (vm) => {
      const host = this.#host(vm, undefined)
      await new VmUnlocking(this.#services).refuseLocked('VirtualMachine.destroy', vm, host, () => {})
      const subject = { operation: 'destroy', vm: vm.name, host: host.name, keys: keysOf(vm) } as const
      await this.#services.intents.during(
        {
          vmId: vm.id,
          kind: 'destroy',
          clusterId: vm.clusterId,
          ...referenceOf(vm),
          keys: keysOf(vm),
          homePolicyId: vm.homePolicyId,
          diskPolicyIds: Object.fromEntries(vm.disks.map(({ diskId, policyId }) => [diskId, policyId])),
        },
        async () => {
          await recordOperation(this.#services.events, subject, () =>
            host.call((api) => api.destroyVirtualMachine(referenceOf(vm))),
          )
          await this.#services.store.virtualMachines.remove(vm.id)
          await this.#services.events.append('vim.event.VmRemovedEvent', { vm: vm.name })
        },
      )
    })
  }

  async #readable(vm: VmRecord, name: string): Promise<DiskRecord> {
    const disk = findDisk(vm.disks, name)
    if (disk.key) await this.#services.access.require('Cryptographer.Access', { type: 'vm', id: vm.id })
    return disk
  }

  #host(vm: VmRecord, name: string | undefined): HostConnection {
    return this.#services.connections.place(vm.clusterId, vm.datastore, { name, preferred: vm.hostId })
  }

  #record(): Promise<VmRecord> {
    return this.#services.inventory.require(this.id, this.name)
  }

  /** A task on this VM: they take turns. */
  #start(
    name: string,
    options: HostOption & { readonly signal?: AbortSignal },
    change: (vm: VmRecord, context: TaskContext) => Promise<VmRecord>,
  ): Task<VirtualMachineInfo> {
    return this.#task(name, options, async (vm, context) => {
      await change(vm, context)
      return this.info()
    })
  }

  #task<Result>(
    name: string,
    options: HostOption & { readonly signal?: AbortSignal },
    act: (vm: VmRecord, context: TaskContext) => Promise<Result>,
  ): Task<Result> {
    return this.#services.tasks.start({
      name,
      entity: this.name,
      lane: this.id,
      signal: options.signal,
      run: async (context) => {
        const vm = await this.#record()
        const host = this.#host(vm, options.host)
        return this.#recorded(name, vm, async () => {
          await new VmUnlocking(this.#services).refuseLocked(name, vm, host, context.step)
          return act(await this.#record(), context)
        })
      },
    })
  }

  #onDisk<Result>(
    vm: VmRecord,
    options: HostOption,
    request: (api: HostApi) => Promise<Result>,
  ): Promise<Result> {
    const host = this.#host(vm, options.host)
    return this.#recorded('access', vm, () =>
      new VmUnlocking(this.#services).withKeys(vm, host, () => host.call(request)),
    )
  }

  /**
   * What is refused is on record, with whom and why: every operation with keys, and of the others what fails for a key that cannot
   * be had.
   */
  async #recorded<Result>(task: string, vm: VmRecord, act: () => Promise<Result>): Promise<Result> {
    const { events, connections } = this.#services
    const host = (vm.hostId === null ? undefined : connections.get(vm.hostId)?.name) ?? ''
    const subject = { vm: vm.name, host, keys: keysOf(vm) }
    const operation = cryptoTasks[task]
    if (operation) return recordRefusal(events, { ...subject, operation }, act)
    try {
      return await act()
    } catch (error) {
      if (!isVmsealError(error, 'VMSEAL_ENCRYPTION_KEY_REQUIRED')) throw error
      const refused = otherTasks[task] ?? 'access'
      return recordRefusal(events, { ...subject, operation: refused }, () => Promise.reject(error))
    }
  }

  async #end(name: string, act: (vm: VmRecord) => Promise<void>): Promise<void> {
    return this.#services.tasks.start({
      name,
      entity: this.name,
      lane: this.id,
      run: async () => {
        const vm = await this.#record()
        await this.#services.inventory.requireNotRunning(vm)
        await this.#recorded(name, vm, () => act(vm))
      },
    }).done
  }
}

/** The tasks that have to do with keys, whatever they do. */
const cryptoTasks: Readonly<Record<string, CryptoOperationName>> = {
  'VirtualMachine.applyPolicy': 'reconfigure',
  'VirtualMachine.apply': 'reconfigure',
  'VirtualMachine.addDisk': 'reconfigure',
  'VirtualMachine.attachDisk': 'reconfigure',
  'VirtualMachine.recrypt': 'recrypt',
  'VirtualMachine.unlock': 'unlock',
  'VirtualMachine.resumeConversion': 'reconfigure',
  'VirtualMachine.createSnapshot': 'createSnapshot',
  'VirtualMachine.revertToSnapshot': 'revertToSnapshot',
  'VirtualMachine.removeSnapshot': 'removeSnapshot',
  'VirtualMachine.removeAllSnapshots': 'removeSnapshot',
  'VirtualMachine.consolidateDisks': 'consolidateDisks',
  'VirtualMachine.clone': 'clone',
  'VirtualMachine.migrate': 'migrate',
}

const otherTasks: Readonly<Record<string, CryptoOperationName>> = {
  'VirtualMachine.powerOn': 'powerOn',
  'VirtualMachine.destroy': 'destroy',
  'VirtualMachine.detachDisk': 'reconfigure',
}
