/**
 * Hosts that lack keys get them as soon as they can be had: after a time that doubles from attempt to attempt, and at once
 * when a key provider is there again or was changed.
 */
import { isVmsealError, type CryptoKeyId } from '../errors.js'
import { runAsSystem } from './authorization/access.js'
import type { HostConnection } from './host-connections.js'
import type { HostSync } from './host-sync.js'
import { heldOn, withoutKeys } from './key-distribution.js'
import { Turns } from './key-provider/turns.js'

export interface RestorationTiming {
  readonly firstDelayMs: number
  readonly longestDelayMs: number
}

const defaultTiming: RestorationTiming = { firstDelayMs: 1000, longestDelayMs: 5 * 60 * 1000 }

interface Waiting {
  readonly host: HostConnection
  /** Attempts so far. */
  readonly attempts: number
  readonly timer: NodeJS.Timeout
}

export class KeyRestoration {
  readonly #synchronise: (host: HostConnection) => Promise<HostSync>
  readonly #timing: RestorationTiming
  readonly #turns = new Turns()
  readonly #waiting = new Map<string, Waiting>()
  readonly #attempts = new Set<Promise<void>>()
  #closed = false

  constructor(
    synchronise: (host: HostConnection) => Promise<HostSync>,
    timing: Partial<RestorationTiming> = {},
  ) {
    this.#synchronise = synchronise
    this.#timing = { ...defaultTiming, ...timing }
  }

  /** Brings a host up to date when whoever did it before has ended, and sees to what it still lacks afterwards. */
  async inTurn(host: HostConnection, work: () => Promise<HostSync>): Promise<HostSync> {
    const sync = await this.#turns.take(host.hostId, work)
    if (isUpToDate(host, sync)) this.#forget(host)
    else this.expect(host)
    return sync
  }

  /** The host lacks a key, or something was left half done on it: it is brought up to date, and again until it is. */
  expect(host: HostConnection): void {
    if (!this.#waiting.has(host.hostId)) this.#schedule(host, 0)
  }

  /**
   * Keys are in use of which nobody knows which hosts have them: a host went on for a vCenter that ended, or a key could not be
   * had when it was to be pushed. Hosts that lack one are brought up to date again.
   */
  mayLack(keys: readonly CryptoKeyId[], hosts: readonly HostConnection[]): void {
    for (const host of hosts) {
      const look = runAsSystem(() => this.#lookFor(keys, host)).finally(() => this.#attempts.delete(look))
      this.#attempts.add(look)
    }
  }

  /** Something that keys come from is there again: all that wait are tried now. */
  hurry(): void {
    for (const { host, attempts, timer } of this.#waiting.values()) {
      clearTimeout(timer)
      this.#begin(host, attempts)
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const { timer } of this.#waiting.values()) clearTimeout(timer)
    this.#waiting.clear()
    await Promise.all(this.#attempts)
  }

  #schedule(host: HostConnection, attempts: number): void {
    if (this.#closed) return
    const { firstDelayMs, longestDelayMs } = this.#timing
    const delay = Math.min(longestDelayMs, firstDelayMs * 2 ** Math.min(attempts, 30))
    const timer = setTimeout(() => this.#begin(host, attempts), delay).unref()
    this.#waiting.set(host.hostId, { host, attempts, timer })
  }

  #begin(host: HostConnection, attempts: number): void {
    const attempt = runAsSystem(() => this.#attempt(host, attempts)).finally(() =>
      this.#attempts.delete(attempt),
    )
    this.#attempts.add(attempt)
  }

  async #attempt(host: HostConnection, attempts: number): Promise<void> {
    // The entry stays while the attempt runs, so that nobody begins another one.
    try {
      if (isUpToDate(host, await this.#synchronise(host))) return
    } catch (error) {
      if (!isVmsealError(error)) throw error
      // A host that is gone is brought up to date when it is connected again.
      if (!host.reachable) return this.#forget(host)
    }
    this.#forget(host)
    this.#schedule(host, attempts + 1)
  }

  async #lookFor(keys: readonly CryptoKeyId[], host: HostConnection): Promise<void> {
    try {
      if (withoutKeys(keys, await heldOn(host, keys)).length === 0) return
    } catch (error) {
      if (!isVmsealError(error)) throw error
    }
    host.missSomething()
    this.expect(host)
  }

  #forget({ hostId }: HostConnection): void {
    clearTimeout(this.#waiting.get(hostId)?.timer)
    this.#waiting.delete(hostId)
  }
}

/** It may have begun to lack something while it was seen to. */
function isUpToDate(host: HostConnection, { failed, locked }: HostSync): boolean {
  return failed.length === 0 && locked.length === 0 && !host.missedSomething
}
