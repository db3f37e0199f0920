/** How the disks of a VM are converted, and the end of conversions in place that something interrupted. */
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import type { ConversionPace, DiskConversion, ReconfigureSpec, VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import type { Privilege } from './authorization/privileges.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import { sameKey, tolerateKnown } from './key-distribution.js'
import type { Services } from './services.js'
import { refuseCancelled, type TaskContext } from './task.js'
import type { KeyName } from './task-keys.js'
import { keysOf, referenceOf } from './vm-record.js'
import type { HostOption } from './vm-tasks.js'
import { VmUnlocking } from './vm-unlocking.js'

/** Of tasks that write the data of disks anew. */
export interface ConversionOptions {
  /**
   * `copy` (default): each disk is written beside the old one, which goes when the new one was read back; a failure or cancel
   * leaves everything as it was. `inPlace`: where it lies, in room for a journal of some megabytes. A failure, a cancel or a
   * crash then leaves the disk in conversion (see `info`): nothing is lost, the VM stays off, and `resumeConversion`, or the
   * task done again, goes on where it stood.
   */
  readonly conversion?: 'copy' | 'inPlace'
  /**
   * What becomes of the old form of a disk after a copy: `unlink` (default), or `overwrite` with zeros before that. Overwriting
   * reaches what the file system shows: not the old blocks of copy-on-write, snapshots, backups or the spare blocks of an SSD.
   */
  readonly discardSource?: 'unlink' | 'overwrite'
  /**
   * Most bytes of disks per second that are converted, on average, so that the datastore has room for others; default: as fast as
   * it goes. A step (some megabytes) is never split.
   */
  readonly maxBytesPerSecond?: number
}

interface Seen {
  readonly record: VmRecord
  readonly config: VmConfig
}

const privileges: Readonly<Record<DiskConversion['mode'], Privilege>> = {
  encrypt: 'Cryptographer.Encrypt',
  decrypt: 'Cryptographer.Decrypt',
  recrypt: 'Cryptographer.Recrypt',
}

/** VMSEAL_INVALID_ARGUMENT, before a key is made. */
export function checkConversion({ conversion, discardSource, maxBytesPerSecond }: ConversionOptions): void {
  if (conversion !== undefined && conversion !== 'copy' && conversion !== 'inPlace')
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'conversion is copy or inPlace')
  if (discardSource !== undefined && discardSource !== 'unlink' && discardSource !== 'overwrite')
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'discardSource is unlink or overwrite')
  if (conversion === 'inPlace' && discardSource !== undefined)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'a conversion in place has no source to discard')
  const isPace = Number.isSafeInteger(maxBytesPerSecond) && Number(maxBytesPerSecond) > 0
  if (maxBytesPerSecond !== undefined && !isPace)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'maxBytesPerSecond is a whole number of bytes from 1 on')
}

export function conversionOf({
  conversion,
  discardSource,
  maxBytesPerSecond,
}: ConversionOptions): Pick<ReconfigureSpec, 'conversion' | 'discardSource' | 'maxBytesPerSecond'> {
  return {
    ...(conversion && { conversion }),
    ...(discardSource && { discardSource }),
    ...(maxBytesPerSecond !== undefined && { maxBytesPerSecond }),
  }
}

/**
 * The keys that this vCenter gave to conversions which then failed, by VM. Kept in memory only: what a datastore says of the keys
 * of an interrupted conversion is believed when it is the same, for else whoever can write there would choose the next key.
 */
const keysOfFailed = new WeakMap<Services['store'], Map<string, readonly CryptoKeyId[]>>()

/** The existing key that each part takes. */
type NamedKeys = ReadonlyMap<string, KeyName>

export class VmConversion {
  readonly #services: Services

  constructor(services: Services) {
    this.#services = services
  }

  /** Ends the conversions of a VM; VMSEAL_INVALID_STATE when none is unfinished. */
  async resume(vm: VmRecord, options: HostOption & ConversionPace, context: TaskContext): Promise<VmRecord> {
    checkConversion(options)
    const { connections, inventory } = this.#services
    const host = connections.place(vm.clusterId, vm.datastore, { name: options.host, preferred: vm.hostId })
    const seen = await inventory.read(vm, host)
    const { config, record } = await this.endAll(seen, host, options, context)
    if (config === seen.config)
      throw new VmsealError('VMSEAL_INVALID_STATE', `no disk of ${vm.name} is in conversion`, {
        details: { subject: vm.name },
      })
    return record
  }

  /** What comes before every other change of a VM: conversions that something interrupted are ended. */
  async endAll(
    seen: Seen,
    host: HostConnection,
    { maxBytesPerSecond }: ConversionPace,
    context: TaskContext,
  ): Promise<Seen> {
    const open = seen.config.disks.flatMap(({ device, conversion }) =>
      conversion ? [{ device, conversion }] : [],
    )
    if (open.length === 0) return seen
    const { record } = seen
    for (const mode of new Set(open.map(({ conversion }) => conversion.mode)))
      await this.#services.access.require(privileges[mode], { type: 'vm', id: record.id })
    await this.#services.inventory.requireNotRunning(record)
    refuseCancelled(context.signal)
    const { signal, onProgress, step } = context
    const subject = {
      operation: 'reconfigure',
      vm: record.name,
      host: host.name,
      keys: keysOf(record),
    } as const
    const pace = maxBytesPerSecond === undefined ? {} : { maxBytesPerSecond }
    const work = open.map(({ device, conversion }) => `resume ${conversion.mode} ${device}`).join(', ')
    try {
      await recordOperation(this.#services.events, subject, async () => {
        step({ actor: 'host', action: 'work started', host: host.name, work })
        const resume = () =>
          host.call((api) => api.resumeConversion(referenceOf(record), pace, { signal, onProgress }))
        await new VmUnlocking(this.#services).withKeys(record, host, resume, step)
        step({ actor: 'host', action: 'work committed', host: host.name })
      })
    } catch (error) {
      await this.remember(record, host)
      throw error
    }
    return this.#services.inventory.read(record, host)
  }

  /**
   * Keys by part: those that are `named`, or, when none is, those that an interrupted conversion of the same parts began with, so
   * that it goes on where it stood. One that is not known to be ours, or cannot be had any more, lets it begin anew.
   */
  async keysOf(
    parts: readonly string[],
    named: NamedKeys,
    { vmId, interruptedKeys = [] }: VmConfig,
    host: HostConnection,
    { step }: TaskContext,
  ): Promise<NamedKeys> {
    const begun = new Map(interruptedKeys.map(({ part, key }) => [part, key]))
    if (named.size > 0 || begun.size !== parts.length || !parts.every((part) => begun.has(part))) return named
    const ours = this.#failed.get(vmId) ?? []
    if (![...begun.values()].every((key) => ours.some((other) => sameKey(key, other)))) return named
    try {
      await this.#services.distribution.ensure([...begun.values()], host, step)
      return begun
    } catch (error) {
      if (isVmsealError(error)) return named
      throw error
    }
  }

  /** Remembers the keys of a conversion that failed, for `keysOf`. */
  noteFailed({ id }: VmRecord, keys: Iterable<CryptoKeyId>): void {
    this.#failed.set(id, [...keys])
  }

  get #failed(): Map<string, readonly CryptoKeyId[]> {
    const { store } = this.#services
    const known = keysOfFailed.get(store) ?? new Map<string, readonly CryptoKeyId[]>()
    keysOfFailed.set(store, known)
    return known
  }

  /** What was done of a task that failed stays done: the store must name the keys that the files name. */
  async remember(record: VmRecord, host: HostConnection): Promise<void> {
    const { inventory, conversions } = this.#services
    const read = await inventory.read(record, host).catch(tolerateKnown)
    if (read) await conversions.note(read.record, read.config, host, { taskFailed: true })
  }
}
