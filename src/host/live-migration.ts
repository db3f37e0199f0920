/**
 * Live migrations of one start of a host, one for each VM and direction. At every moment the lock of the VM is that of one host,
 * which alone runs it: the file says whose, so no request that comes late, twice or never lets two hosts run it.
 */
import { VmsealError, isVmsealError } from '../errors.js'
import type {
  HostCapability,
  IncomingMigration as Answer,
  IncomingMigrationSpec,
  MigrationPiece,
  OutgoingMigrationSpec,
} from '../rpc/host-api.js'
import type { EncryptionMode } from './encryption-mode.js'
import { takeVirtualMachine, type HostContext } from './host-context.js'
import { IncomingMigration } from './incoming-migration.js'
import { migrateEncryptionOf } from './migrate-encryption-setting.js'
import { OutgoingMigration } from './outgoing-migration.js'
import { invalidPowerState, requireEveryKey, type PoweredOnVms } from './power.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { readConsistently, readVirtualMachine } from './vm-config.js'

interface Abilities {
  /** The host takes part in migrations whose memory is encrypted. */
  readonly encrypted: boolean
  readonly now?: (() => number) | undefined
}

export class LiveMigrations {
  readonly #context: HostContext
  readonly #powered: PoweredOnVms
  readonly #abilities: Abilities
  /** By directory of the VM. */
  readonly #outgoing = new Map<string, OutgoingMigration>()
  readonly #incoming = new Map<string, IncomingMigration>()

  constructor(context: HostContext, powered: PoweredOnVms, abilities: Abilities) {
    this.#context = context
    this.#powered = powered
    this.#abilities = abilities
  }

  get capabilities(): readonly HostCapability[] {
    return this.#abilities.encrypted ? ['liveMigration', 'encryptedMigration'] : ['liveMigration']
  }

  async prepare(
    files: VirtualMachineFiles,
    spec: IncomingMigrationSpec,
    mode: EncryptionMode,
  ): Promise<Answer> {
    this.#powered.requireOff(files)
    await this.#dropIncoming(files)
    const vm = await readConsistently(files, () => readVirtualMachine(files))
    if (spec.sealTo) this.#requireEncrypted()
    else if (migrateEncryptionOf(vm) === 'required')
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `the memory of ${files.label(files.vmx)} comes to this host encrypted only: its migrateEncryption is required`,
        { details: { subject: files.label(files.vmx) } },
      )
    if (vm.homeKeys.length > 0) mode.requireSafe()
    requireEveryKey(this.#context, files, vm)
    const { vmId } = vm.description
    const { now = Date.now } = this.#abilities
    const { migration, answer } = IncomingMigration.prepare(
      this.#context,
      this.#powered,
      files,
      vmId,
      spec,
      now,
    )
    this.#incoming.set(files.directory, migration)
    return answer
  }

  async begin(
    files: VirtualMachineFiles,
    spec: OutgoingMigrationSpec,
  ): Promise<{ readonly memoryBytes: number }> {
    if (!this.#powered.isOn(files)) throw invalidPowerState(files, 'it is not powered on')
    if (spec.key) this.#requireEncrypted()
    await this.#outgoing.get(files.directory)?.forget()
    this.#outgoing.delete(files.directory)
    const { migration, memoryBytes } = await OutgoingMigration.begin(
      this.#context,
      this.#powered,
      files,
      spec,
    )
    this.#outgoing.set(files.directory, migration)
    return { memoryBytes }
  }

  read(
    files: VirtualMachineFiles,
    migrationId: string,
    number: number,
    { signal }: { readonly signal?: AbortSignal },
  ): Promise<MigrationPiece> {
    return require(this.#outgoing, files, migrationId).read(number, signal)
  }

  write(
    files: VirtualMachineFiles,
    migrationId: string,
    number: number,
    piece: MigrationPiece,
    { signal }: { readonly signal?: AbortSignal },
  ): Promise<void> {
    return require(this.#incoming, files, migrationId).write(number, piece, signal)
  }

  handOver(files: VirtualMachineFiles, migrationId: string, lock: string): Promise<void> {
    return require(this.#outgoing, files, migrationId).handOver(lock)
  }

  takeOver(files: VirtualMachineFiles, migrationId: string): Promise<void> {
    return require(this.#incoming, files, migrationId).takeOver()
  }

  async end(files: VirtualMachineFiles, outcome: 'moved' | 'abandoned'): Promise<void> {
    await this.#dropIncoming(files)
    const outgoing = this.#outgoing.get(files.directory)
    if (!outgoing && !this.#powered.isOn(files)) await this.#freeVoidLock(files)
    await (outcome === 'moved' ? outgoing?.forget() : outgoing?.abandon())
    this.#outgoing.delete(files.directory)
  }

  /** Somebody powers the VM on: a migration that nobody ends is over. Whether the VM runs here for that. */
  async resumed(files: VirtualMachineFiles): Promise<boolean> {
    if (this.#powered.isOn(files)) return false
    await this.end(files, 'abandoned')
    return this.#powered.isOn(files)
  }

  /** The host stops. A VM between two hosts is off then, and whole. */
  async dispose(): Promise<void> {
    const all = [
      ...[...this.#incoming.values()].map((migration) => migration.end()),
      ...[...this.#outgoing.values()].map((migration) => migration.dispose()),
    ]
    this.#incoming.clear()
    this.#outgoing.clear()
    await Promise.allSettled(all)
  }

  async #dropIncoming(files: VirtualMachineFiles): Promise<void> {
    await this.#incoming.get(files.directory)?.end()
    this.#incoming.delete(files.directory)
  }

  /** That of an earlier start of this host, to which the lock was given back: no other host knows that it is void. */
  async #freeVoidLock(files: VirtualMachineFiles): Promise<void> {
    try {
      await (await takeVirtualMachine(this.#context, files)).release()
    } catch (error) {
      if (!isVmsealError(error, 'VMSEAL_FILE_LOCKED')) throw error
    }
  }

  #requireEncrypted(): void {
    if (this.#abilities.encrypted) return
    throw new VmsealError(
      'VMSEAL_MIGRATION_NOT_SUPPORTED',
      `host ${this.#context.name} takes no part in encrypted migrations`,
      { details: { subject: this.#context.name } },
    )
  }
}

/** Another migration, or none: what comes late is refused. */
function require<Side extends { readonly migrationId: string }>(
  sides: ReadonlyMap<string, Side>,
  files: VirtualMachineFiles,
  migrationId: string,
): Side {
  const side = sides.get(files.directory)
  if (side?.migrationId === migrationId) return side
  const subject = files.label(files.vmx)
  throw new VmsealError('VMSEAL_NOT_FOUND', `this host knows no such migration of ${subject}`, {
    details: { subject },
  })
}
