/**
 * The side of a live migration that runs the VM. The VM goes on until its lock is handed over, and comes back when the
 * migration ends otherwise and the other host has given the lock back.
 */
import { stat } from 'node:fs/promises'
import { VmsealError, isVmsealError } from '../errors.js'
import { native, type KeyHandle } from '../native/load.js'
import type { MigrationPiece, OutgoingMigrationSpec } from '../rpc/host-api.js'
import { takeVirtualMachine, type HostContext } from './host-context.js'
import { ioError } from './io-error.js'
import type { VirtualMachineLock } from './lock.js'
import { migrateEncryptionOf } from './migrate-encryption-setting.js'
import { MigrationTurns, pieceOutOfOrder, streamContext } from './migration-stream.js'
import type { PoweredOnVms } from './power.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { readVirtualMachine, type VirtualMachine } from './vm-config.js'
import { logLine } from './vm-log.js'

type GuestStateReader = InstanceType<typeof native.GuestStateReader>

export class OutgoingMigration {
  readonly migrationId: string
  readonly #context: HostContext
  readonly #powered: PoweredOnVms
  readonly #files: VirtualMachineFiles
  readonly #targetHostId: string
  readonly #reader: GuestStateReader
  readonly #turns = new MigrationTurns()
  /** The last piece that was read, and its number. */
  #piece: MigrationPiece | undefined
  #number = -1
  /** The VM does not run here any more: the lock that it had, which may be handed over. */
  #left: VirtualMachineLock | undefined
  #isHandedOver = false

  /** The VM is on. */
  static async begin(
    context: HostContext,
    powered: PoweredOnVms,
    files: VirtualMachineFiles,
    spec: OutgoingMigrationSpec,
  ): Promise<{ migration: OutgoingMigration; memoryBytes: number }> {
    const vm = await readVirtualMachine(files)
    const { vmId } = vm.description
    if (spec.key === undefined) refusePlaintext(vm, files)
    const memoryBytes = await lengthOf(spec.memory)
    const key = spec.key && openKey(context, spec, vmId)
    try {
      const { migrationId, targetHostId, memory } = spec
      const path = { migrationId, vmId, sourceHostId: context.owner.hostId, targetHostId }
      const reader = native.GuestStateReader.open(key, streamContext(path), memory)
      const migration = new OutgoingMigration(context, powered, files, spec, reader)
      await logLine(files, context.name, `migration to host ${targetHostId} began`)
      return { migration, memoryBytes }
    } finally {
      // The reader has it, for as long as it reads.
      key?.dispose()
    }
  }

  private constructor(
    context: HostContext,
    powered: PoweredOnVms,
    files: VirtualMachineFiles,
    spec: OutgoingMigrationSpec,
    reader: GuestStateReader,
  ) {
    this.#context = context
    this.#powered = powered
    this.#files = files
    this.migrationId = spec.migrationId
    this.#targetHostId = spec.targetHostId
    this.#reader = reader
  }

  read(number: number, signal: AbortSignal | undefined): Promise<MigrationPiece> {
    return this.#turns.take(async (stop) => {
      if (number === this.#number && this.#piece) return this.#piece
      if (number !== this.#number + 1 || this.#piece?.last) throw pieceOutOfOrder(number, this.#number + 1)
      for (;;) {
        const { data, last } = await this.#reader.read()
        if (data === undefined) {
          stop()
          continue
        }
        this.#number = number
        this.#piece = { data: data.toString('base64'), last }
        return this.#piece
      }
    }, signal)
  }

  handOver(record: string): Promise<void> {
    return this.#turns.take(async () => {
      if (this.#isHandedOver) return
      if (!this.#piece?.last)
        throw new VmsealError(
          'VMSEAL_INVALID_STATE',
          `the memory of ${this.#files.label(this.#files.vmx)} was not read to its end`,
        )
      this.#left ??= await this.#powered.leave(this.#files)
      await this.#left.handTo(record, this.#targetHostId)
      this.#isHandedOver = true
      await logLine(this.#files, this.#context.name, `handed over to host ${this.#targetHostId}`)
    })
  }

  /**
   * Runs the VM again if it left and nobody else ran it, which its own lock shows, kept or given back: after a run elsewhere the memory
   * of the guest here is of the past. Else the VM is off. VMSEAL_FILE_LOCKED while the other host has the lock; then it may be
   * tried again.
   */
  abandon(): Promise<void> {
    return this.#turns.end(async () => {
      this.#reader.close()
      const lock = this.#left
      if (!lock) return
      if (!(await isHeld(lock))) {
        await (await takeVirtualMachine(this.#context, this.#files)).release()
        this.#left = undefined
        return
      }
      this.#left = undefined
      try {
        await this.#powered.run(this.#files, lock)
      } catch (error) {
        await lock.release()
        throw error
      }
      await logLine(this.#files, this.#context.name, 'migration abandoned: the VM goes on here')
    })
  }

  /** The VM runs on the other host. */
  forget(): Promise<void> {
    return this.#turns.end(async () => this.#reader.close())
  }

  /** The host stops. */
  dispose(): Promise<void> {
    return this.#turns.end(async () => {
      this.#reader.close()
      if (this.#left && (await isHeld(this.#left))) await this.#left.release()
    })
  }
}

async function isHeld(lock: VirtualMachineLock): Promise<boolean> {
  try {
    await lock.assertHeld()
    return true
  } catch (error) {
    if (isVmsealError(error, 'VMSEAL_FILE_LOCKED')) return false
    throw error
  }
}

/** The rule of vCenter, held here too: what asks for encryption does not leave without. */
function refusePlaintext(vm: VirtualMachine, files: VirtualMachineFiles): void {
  if (migrateEncryptionOf(vm) !== 'required') return
  const subject = files.label(files.vmx)
  throw new VmsealError(
    'VMSEAL_INVALID_STATE',
    `the memory of ${subject} leaves this host encrypted only: its migrateEncryption is required`,
    { details: { subject } },
  )
}

function openKey(context: HostContext, spec: OutgoingMigrationSpec, vmId: string): KeyHandle | undefined {
  const { key } = spec
  if (key === undefined) return undefined
  const isOfThis =
    key.migrationId === spec.migrationId && key.vmId === vmId && key.targetHostId === spec.targetHostId
  if (!isOfThis)
    throw new VmsealError('VMSEAL_SEAL_INVALID', 'the migration key is of another migration, VM or host')
  return context.keys.openMigrationKey(key)
}

/** 0 for a pipe, whose length nobody knows. */
async function lengthOf(path: string): Promise<number> {
  try {
    const status = await stat(path)
    return status.isFile() ? status.size : 0
  } catch (error) {
    throw ioError(error, path)
  }
}
