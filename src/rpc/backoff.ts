/** Waiting between attempts: doubled each time up to a bound, with jitter so that many do not come back at once. */
import { setTimeout as sleep } from 'node:timers/promises'

export interface BackoffOptions {
  readonly firstBackoffMs: number
  readonly longestBackoffMs: number
}

export class Backoff {
  readonly #options: BackoffOptions
  #next: number

  constructor(options: BackoffOptions) {
    this.#options = options
    this.#next = options.firstBackoffMs
  }

  reset(): void {
    this.#next = this.#options.firstBackoffMs
  }

  /** Resolves early when `signal` is aborted. */
  async wait(signal: AbortSignal): Promise<void> {
    const bound = this.#next
    this.#next = Math.min(bound * 2, this.#options.longestBackoffMs)
    await sleep(bound / 2 + (Math.random() * bound) / 2, undefined, { signal }).catch(() => {})
  }
}
