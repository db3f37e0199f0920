/** New keys on a schedule: everything under the keys of a provider is recrypted (shallow) when its time has come. */
import { VmsealError, isVmsealError } from '../errors.js'
import type { KeyRotationRecord, KeyRotationTable } from '../store/store.js'
import { runAsSystem } from './authorization/access.js'
import { notFound } from './names.js'
import { checkRateLimit, type RekeyOptions, type RekeyResult } from './provider-rekey.js'

export interface RotationSpec {
  /** Whole days from one rotation to the next, 1 to 3650. */
  readonly everyDays: number
  /** Virtual machines a minute at most; default: as fast as it goes. */
  readonly rateLimit?: number
  /** When the keys were last new, ISO 8601; default: now. One that is long past has them replaced at the next look. */
  readonly lastAt?: string
}

export interface Rotation {
  readonly provider: string
  readonly everyDays: number
  readonly rateLimit?: number
  readonly lastAt: string
  readonly dueAt: string
}

export interface KeyRotationOptions {
  readonly table: KeyRotationTable
  readonly clock: () => Date
  /** VMSEAL_NOT_FOUND. */
  readonly requireProvider: (id: string) => Promise<unknown>
  readonly rekey: (options: RekeyOptions) => Promise<RekeyResult>
}

const dayMilliseconds = 24 * 60 * 60 * 1000
/** How soon a rotation whose time has come begins; also how soon one with failures is tried again. */
const lookMilliseconds = 60 * 60 * 1000
const firstLookMilliseconds = 60 * 1000

export class KeyRotation {
  readonly #options: KeyRotationOptions
  readonly #timers: readonly NodeJS.Timeout[]
  #looking: Promise<void> = Promise.resolve()

  /** @internal */
  constructor(options: KeyRotationOptions) {
    this.#options = options
    const look = (): void => void this.lookNow()
    this.#timers = [
      setTimeout(look, firstLookMilliseconds).unref(),
      setInterval(look, lookMilliseconds).unref(),
    ]
  }

  async list(): Promise<Rotation[]> {
    return (await this.#options.table.list()).map(rotationOf)
  }

  /**
   * Sets the schedule of a provider, or another one in its place. A rotation is a task of vCenter itself: `vcenter.rekey` of the
   * provider, which goes on after a crash and tries failed VMs again at the next look.
   */
  async set(provider: string, spec: RotationSpec): Promise<Rotation> {
    const { everyDays, rateLimit } = spec ?? {}
    if (!Number.isInteger(everyDays) || everyDays < 1 || everyDays > 3650)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'everyDays is a whole number of days, 1 to 3650')
    checkRateLimit(rateLimit)
    const now = this.#options.clock()
    const last = spec.lastAt === undefined ? now : new Date(spec.lastAt)
    if (Number.isNaN(last.getTime()) || last > now)
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        'lastAt is a time of the past, for instance 2026-01-31T00:00:00Z',
      )
    await this.#options.requireProvider(provider)
    const record = {
      providerId: provider,
      everyDays,
      rateLimit: rateLimit ?? null,
      lastAt: last.toISOString(),
    }
    await this.#options.table.set(record)
    return rotationOf(record)
  }

  /** VMSEAL_NOT_FOUND when the provider has no schedule. */
  async clear(provider: string): Promise<void> {
    if (!(await this.#options.table.remove(provider))) throw notFound('key rotation of provider', provider)
  }

  /** @internal Rotates the keys of every provider whose time has come, one after the other. */
  lookNow(): Promise<void> {
    this.#looking = this.#looking.then(() => runAsSystem(() => this.#rotateDue()))
    return this.#looking
  }

  /** @internal */
  async close(): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer)
    await this.#looking
  }

  async #rotateDue(): Promise<void> {
    const { table, clock, rekey } = this.#options
    try {
      for (const record of await table.list()) {
        if (clock().getTime() < dueTime(record)) continue
        const { providerId: provider, rateLimit } = record
        const beganAt = clock().toISOString()
        if (await succeeds(() => rekey({ provider, ...(rateLimit !== null && { rateLimit }) })))
          await table.rotated(provider, beganAt)
      }
    } catch (error) {
      // The store is closing; the next start looks again.
      if (!isVmsealError(error)) throw error
    }
  }
}

/** The failures of a rekey are in its task, its events and its alarms; it stays due. */
async function succeeds(rekey: () => Promise<RekeyResult>): Promise<boolean> {
  try {
    const { virtualMachines, hosts } = await rekey()
    return [...virtualMachines, ...hosts].every(({ state }) => state === 'done')
  } catch (error) {
    if (!isVmsealError(error)) throw error
    return false
  }
}

function dueTime({ lastAt, everyDays }: KeyRotationRecord): number {
  return Date.parse(lastAt) + everyDays * dayMilliseconds
}

function rotationOf(record: KeyRotationRecord): Rotation {
  const { providerId, everyDays, rateLimit, lastAt } = record
  return {
    provider: providerId,
    everyDays,
    ...(rateLimit !== null && { rateLimit }),
    lastAt,
    dueAt: new Date(dueTime(record)).toISOString(),
  }
}
