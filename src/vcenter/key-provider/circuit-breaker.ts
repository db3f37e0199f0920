/**
 * Keeps calls away from a server that fails. Closed: it is asked. Open: it rests, and is asked only when no other
 * server answers. Half-open: one probe finds out whether it is back.
 */

export type BreakerState = 'closed' | 'open' | 'half-open'

/** `elapsed`: the rest is over. */
export type BreakerSignal = 'success' | 'failure' | 'elapsed'

export const breakerTransitions: Readonly<
  Record<BreakerState, Readonly<Record<BreakerSignal, BreakerState>>>
> = {
  closed: { success: 'closed', failure: 'open', elapsed: 'closed' },
  // A success here is the last resort that worked: the server is back earlier than thought.
  open: { success: 'closed', failure: 'open', elapsed: 'half-open' },
  'half-open': { success: 'closed', failure: 'open', elapsed: 'half-open' },
}

export interface BreakerOptions {
  readonly firstBackoffMs: number
  readonly longestBackoffMs: number
  /** Milliseconds on a clock that only goes forward. */
  readonly now?: () => number
  /** 0 up to 1. */
  readonly random?: () => number
}

export class CircuitBreaker {
  readonly #options: BreakerOptions
  readonly #now: () => number
  readonly #random: () => number
  #state: BreakerState = 'closed'
  #failures = 0
  #restsUntil = 0

  constructor(options: BreakerOptions) {
    this.#options = options
    this.#now = options.now ?? (() => performance.now())
    this.#random = options.random ?? Math.random
  }

  get state(): BreakerState {
    return this.#state
  }

  /** How long it rests from now; 0 when it does not. */
  get restMs(): number {
    return this.#state === 'open' ? Math.max(0, this.#restsUntil - this.#now()) : 0
  }

  /** True once after each rest: the caller has to probe the server and tell the result. */
  takeProbe(): boolean {
    if (this.#state !== 'open' || this.restMs > 0) return false
    this.#state = breakerTransitions.open.elapsed
    return true
  }

  succeed(): void {
    this.#failures = 0
    this.#state = breakerTransitions[this.#state].success
  }

  /** A failure while it rests does not make the rest longer: many calls may fail of one cause. */
  fail(): void {
    if (this.#state !== 'open') {
      this.#failures += 1
      this.#restsUntil = this.#now() + this.#backoff()
    }
    this.#state = breakerTransitions[this.#state].failure
  }

  /** Doubles with each failure; the jitter takes off up to half, so that many clients do not come back at once. */
  #backoff(): number {
    const { firstBackoffMs, longestBackoffMs } = this.#options
    const full = Math.min(longestBackoffMs, firstBackoffMs * 2 ** Math.min(this.#failures - 1, 30))
    return Math.max(firstBackoffMs, full * (1 - this.#random() / 2))
  }
}
