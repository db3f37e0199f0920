/** One VM, as a caller works with it. What a method does stands in a file of its own; here it gets its turn and its host. */
import type { ConversionPace, MigrateEncryption, SnapshotConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { readCompliance, type VmCompliance } from './compliance.js'
import type { DesiredState } from './desired-state.js'
import type { AttachDiskSpec } from './disk-attachment.js'
import type { Services } from './services.js'
import { StateApplication, type AppliedState, type ApplyStateOptions } from './state-application.js'
import type { Task } from './task.js'
import type { KeyName } from './task-keys.js'
import { VmCloning, type CloneOptions } from './vm-cloning.js'
import { VmConversion } from './vm-conversion.js'
import { VmDiskData } from './vm-disk-data.js'
import { VmExport, type ExportOptions, type ExportedVirtualMachine } from './vm-export.js'
import type { VirtualMachineInfo } from './vm-inventory.js'
import { VmLiveMigration, type LiveMigrateOptions } from './vm-live-migration.js'
import { VmMigration, type MigrateOptions } from './vm-migration.js'
import { VmPower } from './vm-power.js'
import { VmReconfiguration, type ApplyPolicyOptions, type PolicyWish } from './vm-reconfiguration.js'
import { VmRecrypt, type RecryptOptions } from './vm-recrypt.js'
import { referenceOf } from './vm-record.js'
import { VmRelocation, type RelocateOptions } from './vm-relocation.js'
import { VmRemoval } from './vm-removal.js'
import { VmSnapshots, type CreateSnapshotOptions, type RemoveSnapshotOptions } from './vm-snapshots.js'
import { VmTasks, type HostOption } from './vm-tasks.js'
import { VmUnlocking } from './vm-unlocking.js'

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

export class VirtualMachine {
  readonly id: string
  readonly name: string
  /** Of the cluster it was in when this object was made. */
  readonly clusterId: string
  readonly #services: Services
  readonly #tasks: VmTasks

  /** @internal */
  constructor(record: Pick<VmRecord, 'id' | 'name' | 'clusterId'>, services: Services) {
    this.id = record.id
    this.name = record.name
    this.clusterId = record.clusterId
    this.#services = services
    this.#tasks = new VmTasks(this, services)
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
    return this.#tasks.change('VirtualMachine.applyPolicy', options, (vm, context) =>
      new VmReconfiguration(this.#services).applyPolicy(vm, wish, options, context),
    )
  }

  /** Storage policies and crypto state compared, part by part: from the VM's host if it answers, else from memory. */
  compliance(): Promise<VmCompliance> {
    return readCompliance(this, this.#services)
  }

  /**
   * Brings the VM to a declared state: storage policies, and the provider that its keys are of. Several changes are one task with one
   * new key. A VM that is as declared stays untouched, and no key is made.
   */
  apply(state: DesiredState, options: ApplyStateOptions = {}): Task<AppliedState> {
    return this.#tasks.run('VirtualMachine.apply', options, async (vm, context) => {
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
    return this.#tasks.change('VirtualMachine.recrypt', options, (vm, context) =>
      new VmRecrypt(this.#services).run(vm, options, context),
    )
  }

  /**
   * Ends the conversions in place that a failure, a cancel or a crash interrupted, with the keys that they began with.
   * VMSEAL_INVALID_STATE when no disk is in conversion, VMSEAL_ENCRYPTION_KEY_REQUIRED when a key cannot be had: then everything
   * stays as it is.
   */
  resumeConversion(
    options: HostOption & ConversionPace & { signal?: AbortSignal } = {},
  ): Task<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.resumeConversion', options, (vm, context) =>
      new VmConversion(this.#services).resume(vm, options, context),
    )
  }

  addDisk(spec: AddDiskSpec, options: HostOption & { signal?: AbortSignal } = {}): Task<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.addDisk', options, (vm, context) =>
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
    return this.#tasks.change('VirtualMachine.attachDisk', options, (vm, context) =>
      new VmReconfiguration(this.#services).attachDisk(vm, { ...spec, host: options.host }, context),
    )
  }

  /** VMSEAL_ENCRYPTION_KEY_REQUIRED, naming the ids, if the host lacks a key. */
  async powerOn(options: HostOption = {}): Promise<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.powerOn', options, (vm, context) =>
      new VmPower(this.#services).on(vm, this.#tasks.host(vm, options.host), context),
    ).done
  }

  async powerOff(): Promise<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.powerOff', {}, (vm) =>
      new VmPower(this.#services).off(vm, this.#tasks.host(vm, undefined)),
    ).done
  }

  /** Fetches the keys that the VM's host lacks and pushes them to the cluster. Fails with why a key cannot be had. */
  async unlock(): Promise<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.unlock', {}, (vm, { step }) =>
      new VmUnlocking(this.#services).unlock(vm, this.#tasks.host(vm, undefined), step),
    ).done
  }

  /** Reads the VM's files again, also those of a locked VM. */
  async reload(): Promise<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.reload', {}, async (vm) => {
      const { record } = await this.#services.inventory.read(vm, this.#tasks.host(vm, undefined))
      return record
    }).done
  }

  /** Takes a disk out of the VM, which need not be opened for it: a disk whose key is lost too. Its files stay. */
  async detachDisk(disk: string, options: HostOption = {}): Promise<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.detachDisk', options, (vm, context) =>
      new VmReconfiguration(this.#services).detachDisk(vm, disk, options.host, context),
    ).done
  }

  /** Those that vmseal took, parents before children. */
  async snapshots(): Promise<readonly SnapshotConfig[]> {
    return new VmSnapshots(this.#services).list(await this.#tasks.record())
  }

  /**
   * Keeps the present state of the VM, with its memory when it is on and `memory` names a source. What is written from now on goes
   * to children of its disks, each under a DEK of its own and the KEK of its disk; no key is made.
   */
  createSnapshot(options: CreateSnapshotOptions): Task<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.createSnapshot', options, (vm, context) =>
      new VmSnapshots(this.#services).create(vm, options, context),
    )
  }

  /** Back to a snapshot, by name or id. The VM is off afterwards, and what was written since its last snapshot is gone. */
  revertToSnapshot(snapshot: string, options: { signal?: AbortSignal } = {}): Task<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.revertToSnapshot', options, (vm, context) =>
      new VmSnapshots(this.#services).revert(vm, snapshot, context),
    )
  }

  /**
   * Forgets a snapshot, by name or id, and merges what nothing needs apart. The VM may be on. Interrupted anywhere every state reads
   * as before, and `consolidateDisks` ends the work.
   */
  removeSnapshot(snapshot: string, options: RemoveSnapshotOptions = {}): Task<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.removeSnapshot', options, (vm, context) =>
      new VmSnapshots(this.#services).remove(vm, snapshot, options.children ?? false, context),
    )
  }

  removeAllSnapshots(options: { signal?: AbortSignal } = {}): Task<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.removeAllSnapshots', options, (vm, context) =>
      new VmSnapshots(this.#services).removeAll(vm, context),
    )
  }

  /** Merges files of its disks that no snapshot needs apart: what an interrupted removal left. */
  consolidateDisks(options: { signal?: AbortSignal } = {}): Task<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.consolidateDisks', options, (vm, context) =>
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
    return this.#tasks.begin('VirtualMachine.clone', options.signal, async (vm, context) => {
      const host = this.#tasks.host(vm, options.host)
      await new VmUnlocking(this.#services).refuseLocked('VirtualMachine.clone', vm, host, context.step)
      const made = await this.#tasks.recorded('VirtualMachine.clone', vm, () =>
        new VmCloning(this.#services).clone(vm, options, context),
      )
      return new VirtualMachine(made, this.#services)
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
    return this.#tasks.begin('VirtualMachine.migrate', options.signal, async (vm, context) => {
      await this.#tasks.recorded('VirtualMachine.migrate', vm, () =>
        new VmMigration(this.#services).migrate(vm, options, context),
      )
      return this.info()
    })
  }

  /**
   * Moves the VM, which is on, to another host of its cluster while it runs. `memory` is where its host reads the guest's memory from,
   * `memoryTarget` where the other one writes it to; the guest is to stop by the end of it. The memory travels under a one-time key of
   * the hosts, as `migrateEncryption` says. The disks stay on the datastore and are handed over with the lock of the VM, so at no
   * moment two hosts run it. When it fails, the VM runs where it was; if its host is gone too, it is off and whole.
   *
   * Rejects with VMSEAL_INVALID_POWER_STATE (it is off), VMSEAL_MIGRATION_NOT_SUPPORTED (a host cannot do what the VM asks for),
   * VMSEAL_ENCRYPTION_KEY_REQUIRED (the host cannot be given a key), VMSEAL_HOST_UNREACHABLE (also: it is not known yet which of two
   * silent hosts has the VM; vCenter finds out when they come back), VMSEAL_CANCELLED.
   */
  liveMigrate(options: LiveMigrateOptions): Task<VirtualMachineInfo> {
    return this.#tasks.begin('VirtualMachine.liveMigrate', options.signal, async (vm, context) => {
      await this.#tasks.recorded('VirtualMachine.liveMigrate', vm, () =>
        new VmLiveMigration(this.#services).migrate(vm, options, context),
      )
      return this.info()
    })
  }

  /** Whether live migrations encrypt the VM's memory. VMSEAL_INVALID_STATE for an encrypted VM: `required`, and not to be changed. */
  async setMigrateEncryption(mode: MigrateEncryption): Promise<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.setMigrateEncryption', {}, async (vm) => {
      const host = this.#tasks.host(vm, undefined)
      const config = await host.call((api) => api.setMigrateEncryption(referenceOf(vm), mode))
      return this.#services.inventory.absorb(vm, config, host)
    }).done
  }

  /**
   * Moves the files of the VM, which is off, to another datastore of its host, byte for byte: encrypted ones as ciphertext, without a
   * key, with snapshots and memory. The VM is whole in one of the two places at every instant; a failure or cancel leaves it where it
   * was. Disks that were detached from it stay.
   *
   * Rejects with VMSEAL_INVALID_POWER_STATE, VMSEAL_NO_SPACE, VMSEAL_ALREADY_EXISTS (a folder of its name is there),
   * VMSEAL_DISK_IN_CONVERSION, VMSEAL_DISK_SHARED, VMSEAL_DISK_CHAIN (a linked clone, or its parent).
   */
  relocate(options: RelocateOptions): Task<VirtualMachineInfo> {
    return this.#tasks.change('VirtualMachine.relocate', signalOf(options), (vm, context) =>
      new VmRelocation(this.#services).relocate(vm, options, context),
    )
  }

  /**
   * Makes a folder on the VM's host, outside its datastores as a rule, that holds the VM, which is off, as ciphertext under one KEK: an
   * existing one or a new one, which whoever restores it can get (`virtualMachines.restore`). The VM is only read; of one with
   * snapshots the present state is exported.
   *
   * Rejects with VMSEAL_INVALID_POWER_STATE, VMSEAL_ALREADY_EXISTS, VMSEAL_NO_SPACE, VMSEAL_DISK_IN_CONVERSION.
   */
  export(options: ExportOptions): Task<ExportedVirtualMachine> {
    return this.#tasks.run('VirtualMachine.export', signalOf(options), (vm, context) =>
      new VmExport(this.#services).export(vm, options, context),
    )
  }

  /** Writes up to 1 MiB to a disk as a guest does; durable when it resolves. On the host's own machine only. */
  async writeDisk(disk: string, offset: number, data: Uint8Array, options: HostOption = {}): Promise<void> {
    return this.#diskData().write(disk, offset, data, options)
  }

  /** SHA-256 (hex) of a disk, named by device node or disk id, as a guest reads it. */
  async digest(
    disk: string,
    options: HostOption & { signal?: AbortSignal } = {},
  ): Promise<{ sha256: string; bytes: number }> {
    return this.#diskData().digest(disk, options)
  }

  /** Up to 1 MiB of a disk as a guest reads it. */
  async readDisk(disk: string, offset: number, length: number, options: HostOption = {}): Promise<Buffer> {
    return this.#diskData().read(disk, offset, length, options)
  }

  /** Takes the VM out of the inventory, also a locked one; its files stay. */
  async unregister(): Promise<void> {
    return this.#tasks.end('VirtualMachine.unregister', (vm) => new VmRemoval(this.#services).unregister(vm))
  }

  /** Removes the VM and its files. */
  async destroy(): Promise<void> {
    return this.#tasks.end('VirtualMachine.destroy', async (vm) =>
      new VmRemoval(this.#services).destroy(vm, this.#tasks.host(vm, undefined)),
    )
  }

  #diskData(): VmDiskData {
    return new VmDiskData(this.#services, this.#tasks)
  }
}

function signalOf({ signal }: { readonly signal?: AbortSignal }): { readonly signal?: AbortSignal } {
  return signal === undefined ? {} : { signal }
}
