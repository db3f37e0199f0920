/**
 * The side of a live migration that the VM goes to. It makes the migration key, and runs the VM when its memory is whole and its
 * lock was handed over, and never before.
 */
import { randomBytes } from 'node:crypto'
import { VmsealError, isVmsealError } from '../errors.js'
import { native, type KeyHandle } from '../native/load.js'
import {
  migrationSealContext,
  type IncomingMigration as Answer,
  type IncomingMigrationSpec,
  type MigrationPiece,
  type SealedMigrationKey,
} from '../rpc/host-api.js'
import { removeFile } from './durable-file.js'
import type { HostContext } from './host-context.js'
import { VirtualMachineLock } from './lock.js'
import { MigrationTurns, pieceOutOfOrder, streamContext } from './migration-stream.js'
import type { PoweredOnVms } from './power.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { logLine } from './vm-log.js'

type GuestStateWriter = InstanceType<typeof native.GuestStateWriter>

const keyLength = 32
const nonceLength = 16
const sealLifetimeMs = 2 * 60 * 1000

export class IncomingMigration {
  readonly migrationId: string
  readonly #context: HostContext
  readonly #powered: PoweredOnVms
  readonly #files: VirtualMachineFiles
  readonly #memory: string
  readonly #writer: GuestStateWriter
  readonly #record: string
  readonly #turns = new MigrationTurns()
  #written = -1
  #isWhole = false
  #runs = false

  static prepare(
    context: HostContext,
    powered: PoweredOnVms,
    files: VirtualMachineFiles,
    vmId: string,
    spec: IncomingMigrationSpec,
    now: () => number,
  ): { migration: IncomingMigration; answer: Answer } {
    const { migrationId, memory, sealTo } = spec
    const targetHostId = context.owner.hostId
    const path = { migrationId, vmId, sourceHostId: sealTo?.hostId ?? '', targetHostId }
    const key = sealTo && native.KeyHandle.generate(keyLength)
    try {
      const sealed =
        key &&
        sealTo &&
        seal(key, { migrationId, vmId, targetHostId, hostId: sealTo.hostId }, sealTo.publicKey, now)
      const writer = native.GuestStateWriter.open(key, streamContext(path), memory)
      const lock = VirtualMachineLock.newRecord(context.owner)
      const migration = new IncomingMigration(context, powered, files, spec, writer, lock)
      return { migration, answer: { lock, ...(sealed && { key: sealed }) } }
    } finally {
      // The writer has it until the last piece.
      key?.dispose()
    }
  }

  private constructor(
    context: HostContext,
    powered: PoweredOnVms,
    files: VirtualMachineFiles,
    { migrationId, memory }: IncomingMigrationSpec,
    writer: GuestStateWriter,
    lock: string,
  ) {
    this.#context = context
    this.#powered = powered
    this.#files = files
    this.migrationId = migrationId
    this.#memory = memory
    this.#writer = writer
    this.#record = lock
  }

  write(number: number, { data, last }: MigrationPiece, signal: AbortSignal | undefined): Promise<void> {
    return this.#turns.take(async (stop) => {
      if (number === this.#written) return
      if (number !== this.#written + 1 || this.#isWhole) throw pieceOutOfOrder(number, this.#written + 1)
      for (
        let drained = await this.#writer.write(Buffer.from(data, 'base64'), last);
        !drained;
        drained = await this.#writer.drain()
      )
        stop()
      this.#written = number
      if (!last) return
      this.#isWhole = true
      this.#writer.close()
    }, signal)
  }

  takeOver(): Promise<void> {
    return this.#turns.take(async () => {
      if (this.#runs) return
      if (!this.#isWhole)
        throw new VmsealError(
          'VMSEAL_INVALID_STATE',
          `the memory of ${this.#files.label(this.#files.vmx)} is not here to its end`,
        )
      const lock = await VirtualMachineLock.adopt(this.#files, this.#record)
      const giveBack = await lock.keep()
      try {
        await this.#powered.run(this.#files, lock)
      } catch (error) {
        await giveBack()
        throw error
      }
      this.#runs = true
      await logLine(this.#files, this.#context.name, 'runs here, from another host')
    })
  }

  /** Gives the lock back if it was handed over, and removes the memory; nothing once the VM runs here. */
  end(): Promise<void> {
    return this.#turns.end(async () => {
      this.#writer.close()
      if (this.#runs) return
      if (!this.#writer.isPipe) await removeFile(this.#memory)
      try {
        await (await VirtualMachineLock.adopt(this.#files, this.#record)).giveBack()
      } catch (error) {
        if (!isVmsealError(error, 'VMSEAL_FILE_LOCKED')) throw error
      }
    })
  }
}

function seal(
  key: KeyHandle,
  subject: Pick<SealedMigrationKey, 'migrationId' | 'vmId' | 'hostId' | 'targetHostId'>,
  publicKey: string,
  now: () => number,
): SealedMigrationKey {
  const context = {
    ...subject,
    nonce: randomBytes(nonceLength).toString('base64'),
    expiresAt: new Date(now() + sealLifetimeMs).toISOString(),
  }
  const sealed = native.sealForHost(Buffer.from(publicKey, 'base64'), migrationSealContext(context), key)
  return { ...context, sealed: sealed.toString('base64') }
}
