/**
 * The host agent: it alone makes DEKs and opens wrapped ones. Each request is checked here and done by the file of its subject: a short
 * method for each one of `HostApi`, so this file is as long as that list.
 */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type {
  CloneSpec,
  ConversionPace,
  CreateSpec,
  DiskDescription,
  ExportDescription,
  ExportSpec,
  HostApi,
  HostIdentity,
  HostKeyChange,
  IncomingMigration,
  IncomingMigrationSpec,
  KeysInFiles,
  MigrateEncryption,
  MigrationPiece,
  OutgoingMigrationSpec,
  ReconfigureSpec,
  RestoreSpec,
  SealedKey,
  SnapshotSpec,
  VmConfig,
  VmReference,
  Work,
} from '../rpc/host-api.js'
import { describeDisk } from './attachment.js'
import { Boot } from './boot.js'
import { asksForKeys } from './change-rules.js'
import { cloneVirtualMachine } from './clone.js'
import { createVirtualMachine } from './create.js'
import { Datastores } from './datastores.js'
import { destroyVirtualMachine } from './destroy.js'
import { exportVirtualMachine } from './export.js'
import type { GuestState } from './guest-state.js'
import {
  describeHostDump,
  extractHostDump,
  requireDumpDirectory,
  rewrapHostDumps,
  writeHostDump,
  type HostDumpDescription,
} from './host-dumps.js'
import { hostIdOf } from './host-id.js'
import { checkHostOptions, type HostOptions } from './host-options.js'
import { resumeConversions } from './in-place.js'
import { findKeys } from './keys-in-files.js'
import { setMigrateEncryption } from './migrate-encryption.js'
import {
  checkIncomingMigration,
  checkMigrateEncryption,
  checkMigrationOutcome,
  checkMigrationPiece,
  checkOutgoingMigration,
} from './migration-requests.js'
import { reconfigure } from './reconfigure.js'
import {
  checkCloneSpec,
  checkCreateSpec,
  checkExportSpec,
  checkHostPath,
  checkKey,
  checkKeys,
  checkPace,
  checkReconfigureSpec,
  checkRestoreSpec,
  checkSealedKey,
  checkSnapshotSpec,
  checkUuid,
} from './requests.js'
import { describeExport, restoreVirtualMachine, verifyExport } from './restore.js'
import { moveToDatastore } from './storage-move.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { paceOf } from './work.js'

export class Host implements HostApi {
  readonly id: string
  readonly name: string
  readonly #options: HostOptions
  readonly #datastores: Datastores
  #boot: Boot | undefined

  private constructor(options: HostOptions, datastores: Datastores) {
    this.id = options.id ?? hostIdOf(options.name)
    this.name = options.name
    this.#options = options
    this.#datastores = datastores
    this.#boot = new Boot(this.id, this.#options, this.#datastores)
  }

  static async start(options: HostOptions): Promise<Host> {
    checkHostOptions(options)
    return new Host(options, await Datastores.open(options.name, options.datastores))
  }

  /** As a reboot: running requests are cancelled, VMs are off, the key cache is empty, the seal key is new. */
  async restart(): Promise<void> {
    await this.stop()
    this.#boot = new Boot(this.id, this.#options, this.#datastores)
  }

  /** Ends the host and wipes its keys. Every later request: VMSEAL_HOST_UNREACHABLE. */
  async stop(): Promise<void> {
    const boot = this.#boot
    this.#boot = undefined
    await boot?.halt()
  }

  identify(): Promise<HostIdentity> {
    return this.#serve(({ id, keys, mode, migrations }) => ({
      hostId: this.id,
      name: this.name,
      bootId: id,
      publicKey: keys.publicKey,
      datastores: this.#datastores.names,
      cryptoState: mode.state,
      ...(mode.hostKey && { cryptoKeyId: mode.hostKey.id }),
      capabilities: migrations.capabilities,
    }))
  }

  prepareCrypto(): Promise<void> {
    return this.#serve(({ mode }) => mode.prepare())
  }

  enableCrypto(hostKey: SealedKey): Promise<void> {
    return this.#serve(({ mode }) => {
      checkSealedKey(hostKey)
      mode.enable(hostKey)
    })
  }

  changeHostKey(hostKey: SealedKey): Promise<HostKeyChange> {
    return this.#serve(({ mode }) => {
      checkSealedKey(hostKey)
      return mode.changeKey(hostKey, (from, to) => rewrapHostDumps(this.#options.dumpDirectory, from, to))
    })
  }

  disableCrypto(): Promise<void> {
    return this.#serve(({ mode, powered }) => {
      powered.requireNoneEncrypted()
      mode.disable()
    })
  }

  installKey(key: SealedKey): Promise<void> {
    return this.#serve(({ keys, mode }) => {
      checkSealedKey(key)
      mode.requireSafe()
      keys.install(key)
    })
  }

  listKeys(): Promise<readonly CryptoKeyId[]> {
    return this.#serve(({ keys }) => keys.list())
  }

  heldKeys(among: readonly CryptoKeyId[]): Promise<readonly CryptoKeyId[]> {
    return this.#serve(({ keys }) => {
      checkKeys(among, 'among')
      return among.filter((key) => keys.get(key) !== undefined)
    })
  }

  removeKey(key: CryptoKeyId): Promise<void> {
    return this.#serve(({ keys }) => {
      checkKey(key, 'key')
      keys.remove(key)
    })
  }

  createVirtualMachine(spec: CreateSpec, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      checkCreateSpec(spec)
      if (spec.homeKey) boot.mode.requireSafe()
      const datastore = this.#datastores.get(spec.datastore)
      const files = datastore.filesOf(spec.name)
      await createVirtualMachine(boot.context, datastore, files, spec, boot.stoppable(work))
      return boot.configOf(files)
    })
  }

  reconfigureVirtualMachine(vm: VmReference, spec: ReconfigureSpec, work: Work = {}): Promise<VmConfig> {
    return this.#change(vm, work, async ({ context, mode, powered }, files, stoppable) => {
      checkReconfigureSpec(spec)
      if (asksForKeys(spec)) mode.requireSafe()
      await reconfigure(context, powered, this.#datastores.get(vm.datastore), files, spec, stoppable)
    })
  }

  resumeConversion(vm: VmReference, pace: ConversionPace = {}, work: Work = {}): Promise<VmConfig> {
    return this.#change(vm, work, ({ context, powered }, files, stoppable) => {
      checkPace(pace, 'pace')
      powered.requireOff(files)
      return resumeConversions(context, files, { ...stoppable, ...paceOf(pace) })
    })
  }

  readVirtualMachine(vm: VmReference): Promise<VmConfig> {
    return this.#serve((boot) => boot.configOf(this.#files(vm)))
  }

  describeDisk(datastore: string, file: string): Promise<DiskDescription> {
    return this.#serve(() => describeDisk(this.#datastores.get(datastore), file))
  }

  findKeys(datastore: string, after?: string): Promise<KeysInFiles> {
    return this.#serve(() => findKeys(this.#datastores.get(datastore), after))
  }

  findVirtualMachines(datastore: string): Promise<readonly VmReference[]> {
    return this.#serve(() => this.#datastores.get(datastore).find())
  }

  destroyVirtualMachine(vm: VmReference): Promise<void> {
    return this.#serve(async ({ context, powered }) => {
      const files = this.#files(vm)
      powered.requireOff(files)
      await destroyVirtualMachine(context, files)
    })
  }

  powerOn(vm: VmReference): Promise<VmConfig> {
    return this.#change(vm, {}, async ({ powered, migrations }, files) => {
      if (!(await migrations.resumed(files))) await powered.powerOn(files)
    })
  }

  powerOff(vm: VmReference): Promise<VmConfig> {
    return this.#change(vm, {}, ({ powered }, files) => powered.powerOff(files))
  }

  createSnapshot(vm: VmReference, spec: SnapshotSpec, work: Work = {}): Promise<VmConfig> {
    return this.#change(vm, work, ({ snapshots }, files, stoppable) => {
      checkSnapshotSpec(spec)
      return snapshots.create(this.#datastores.get(vm.datastore), files, spec, stoppable)
    })
  }

  revertToSnapshot(vm: VmReference, snapshotId: string, work: Work = {}): Promise<VmConfig> {
    return this.#change(vm, work, ({ snapshots }, files, stoppable) => {
      checkUuid(snapshotId, 'snapshotId')
      return snapshots.revert(files, snapshotId, stoppable)
    })
  }

  removeSnapshot(vm: VmReference, snapshotId: string, children: boolean, work: Work = {}): Promise<VmConfig> {
    return this.#change(vm, work, ({ snapshots }, files, stoppable) => {
      checkUuid(snapshotId, 'snapshotId')
      return snapshots.remove(files, snapshotId, children ?? false, stoppable)
    })
  }

  consolidateDisks(vm: VmReference, work: Work = {}): Promise<VmConfig> {
    return this.#change(vm, work, (boot, files, stoppable) => boot.consolidation.run(files, stoppable))
  }

  cloneVirtualMachine(vm: VmReference, spec: CloneSpec, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const source = this.#files(vm)
      checkCloneSpec(spec)
      if (spec.homeKey) boot.mode.requireSafe()
      const datastore = this.#datastores.get(spec.datastore)
      const target = datastore.filesOf(spec.name)
      const { context, powered } = boot
      await cloneVirtualMachine(context, powered, source, datastore, target, spec, boot.stoppable(work))
      return boot.configOf(target)
    })
  }

  moveVirtualMachine(vm: VmReference, datastore: string, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const source = this.#files(vm)
      boot.powered.requireOff(source)
      const target = this.#datastores.get(datastore)
      return boot.configOf(await moveToDatastore(boot.context, source, target, boot.stoppable(work)))
    })
  }

  exportVirtualMachine(vm: VmReference, spec: ExportSpec, work: Work = {}): Promise<ExportDescription> {
    return this.#serve((boot) => {
      const source = this.#files(vm)
      checkExportSpec(spec)
      boot.mode.requireSafe()
      boot.powered.requireOff(source)
      return exportVirtualMachine(boot.context, boot.powered, source, spec, boot.stoppable(work))
    })
  }

  describeExport(from: string): Promise<ExportDescription> {
    return this.#serve(() => {
      checkHostPath(from, 'from')
      return describeExport(from)
    })
  }

  verifyExport(from: string, work: Work = {}): Promise<ExportDescription> {
    return this.#serve((boot) => {
      checkHostPath(from, 'from')
      return verifyExport(boot.context, from, boot.stoppable(work))
    })
  }

  restoreVirtualMachine(spec: RestoreSpec, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      checkRestoreSpec(spec)
      boot.mode.requireSafe()
      const datastore = this.#datastores.get(spec.datastore)
      const files = datastore.filesOf(spec.name)
      await restoreVirtualMachine(boot.context, datastore, files, spec, boot.stoppable(work))
      return boot.configOf(files)
    })
  }

  digestDisk(
    vm: VmReference,
    diskId: string,
    work: Work = {},
  ): Promise<{ readonly sha256: string; readonly bytes: number }> {
    return this.#serve((boot) => boot.disks.digest(this.#files(vm), diskId, boot.stoppable(work)))
  }

  readDisk(vm: VmReference, diskId: string, offset: number, length: number): Promise<string> {
    return this.#serve(({ disks }) => disks.read(this.#files(vm), diskId, offset, length))
  }

  writeDisk(vm: VmReference, diskId: string, offset: number, data: string): Promise<void> {
    return this.#serve(({ disks }) => disks.write(this.#files(vm), diskId, offset, data))
  }

  setMigrateEncryption(vm: VmReference, mode: MigrateEncryption): Promise<VmConfig> {
    return this.#change(vm, {}, ({ context, powered }, files) => {
      checkMigrateEncryption(mode)
      return setMigrateEncryption(context, powered, files, mode)
    })
  }

  prepareMigration(vm: VmReference, spec: IncomingMigrationSpec): Promise<IncomingMigration> {
    return this.#serve(({ migrations, mode }) => {
      checkIncomingMigration(spec)
      return migrations.prepare(this.#files(vm), spec, mode)
    })
  }

  beginMigration(vm: VmReference, spec: OutgoingMigrationSpec): Promise<{ readonly memoryBytes: number }> {
    return this.#serve(({ migrations }) => {
      checkOutgoingMigration(spec)
      return migrations.begin(this.#files(vm), spec)
    })
  }

  readMigrationPiece(
    vm: VmReference,
    migrationId: string,
    number: number,
    work: Work = {},
  ): Promise<MigrationPiece> {
    return this.#serve((boot) =>
      boot.migrations.read(this.#files(vm), migrationId, number, boot.stoppable(work)),
    )
  }

  writeMigrationPiece(
    vm: VmReference,
    migrationId: string,
    number: number,
    piece: MigrationPiece,
    work: Work = {},
  ): Promise<void> {
    return this.#serve((boot) => {
      checkMigrationPiece(piece)
      return boot.migrations.write(this.#files(vm), migrationId, number, piece, boot.stoppable(work))
    })
  }

  handOverMigration(vm: VmReference, migrationId: string, lock: string): Promise<void> {
    return this.#serve(({ migrations }) => migrations.handOver(this.#files(vm), migrationId, lock))
  }

  takeOverMigration(vm: VmReference, migrationId: string): Promise<VmConfig> {
    return this.#change(vm, {}, ({ migrations }, files) => migrations.takeOver(files, migrationId))
  }

  endMigration(vm: VmReference, outcome: 'moved' | 'abandoned'): Promise<VmConfig> {
    return this.#change(vm, {}, ({ migrations }, files) => {
      checkMigrationOutcome(outcome)
      return migrations.end(files, outcome)
    })
  }

  /**
   * Keeps what a hypervisor writes of a guest, on or off, as a file of VM home: `source` is a file, or a pipe that it
   * writes to. Encrypted with the VM's key when VM home is; an earlier one of the kind is replaced, whole or not at all.
   */
  saveGuestState(vm: VmReference, state: GuestState, source: string, work: Work = {}): Promise<void> {
    return this.#serve((boot) => boot.guests.save(this.#files(vm), state, source, boot.stoppable(work)))
  }

  /** Decrypts such a file into the new file `target`. */
  readGuestState(vm: VmReference, state: GuestState, target: string, work: Work = {}): Promise<void> {
    return this.#serve((boot) => boot.guests.read(this.#files(vm), state, target, boot.stoppable(work)))
  }

  /** Removes such a file, for instance when the VM was resumed from it. */
  dropGuestState(vm: VmReference, state: GuestState): Promise<void> {
    return this.#serve((boot) => boot.guests.drop(this.#files(vm), state))
  }

  /**
   * Keeps a dump of the host, encrypted with the host key: `source` is a file, or a pipe that a crash handler writes to.
   * Returns the path of the dump. VMSEAL_INVALID_STATE while the host has no host key: a dump is never kept in clear text.
   */
  writeDump(name: string, source: string, work: Work = {}): Promise<string> {
    return this.#serve(async (boot) => {
      const { dumpDirectory, now = Date.now } = this.#options
      const directory = requireDumpDirectory(dumpDirectory, this.name)
      const hostKey = boot.mode.requireSafe()
      const dump = { name, source, writtenAt: new Date(now()).toISOString() }
      return writeHostDump(directory, this, hostKey, dump, boot.stoppable(work))
    })
  }

  /** What a dump of a host says about itself; needs no key. */
  describeDump(file: string): Promise<HostDumpDescription> {
    return this.#serve(() => describeHostDump(file))
  }

  /**
   * Decrypts a dump of this host, or of one that had the same host key, into the new file `target`, mode 0600.
   * VMSEAL_ENCRYPTION_KEY_REQUIRED names the host key that it needs when that is another.
   */
  extractDump(file: string, target: string, work: Work = {}): Promise<HostDumpDescription> {
    return this.#serve((boot) => extractHostDump(file, boot.mode.requireSafe(), target, boot.stoppable(work)))
  }

  /** Every request passes here: refused when stopped. */
  async #serve<T>(request: (boot: Boot) => T | Promise<T>): Promise<T> {
    if (this.#boot === undefined)
      throw new VmsealError('VMSEAL_HOST_UNREACHABLE', `the host ${this.name} is stopped`)
    return this.#boot.serve(request)
  }

  /** A request that changes the VM, and answers with what became of it. */
  #change(
    vm: VmReference,
    work: Work,
    change: (boot: Boot, files: VirtualMachineFiles, stoppable: Work) => Promise<void>,
  ): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const files = this.#files(vm)
      await change(boot, files, boot.stoppable(work))
      return boot.configOf(files)
    })
  }

  #files(vm: VmReference): VirtualMachineFiles {
    return this.#datastores.files(vm)
  }
}
