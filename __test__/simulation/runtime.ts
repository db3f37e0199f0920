/**
 * Clock, timers and randomness of Node, for parties of a simulation: the product's own code runs on them unchanged. Code
 * outside of any party sees the real ones. Import this before anything of the product.
 */
import { createRequire, syncBuiltinESMExports } from 'node:module'
import { parties, type Event, type Party } from './scheduler.js'

const require = createRequire(import.meta.url)
const crypto = require('node:crypto') as Record<string, unknown>
const timersPromises = require('node:timers/promises') as Record<string, unknown>

const real = {
  setTimeout,
  clearTimeout,
  setInterval,
  clearInterval,
  setImmediate,
  clearImmediate,
  Date,
  random: Math.random,
  now: performance.now.bind(performance),
  timeout: AbortSignal.timeout.bind(AbortSignal),
  randomUUID: crypto['randomUUID'] as () => string,
  randomBytes: crypto['randomBytes'] as (...values: unknown[]) => Buffer,
  sleep: timersPromises['setTimeout'] as (...values: unknown[]) => Promise<unknown>,
}

/** The party whose code is running, unless it looks at the world from outside of time. */
export function actor(): Party | undefined {
  const party = parties.getStore()
  return party?.observes ? undefined : party
}

class SimulatedTimer {
  #event: Event | undefined
  readonly #party: Party
  readonly #work: () => void
  readonly #delayMs: number
  readonly #repeats: boolean

  constructor(party: Party, work: () => void, delayMs: number, repeats: boolean) {
    this.#party = party
    this.#work = work
    this.#delayMs = Math.max(delayMs > 2 ** 31 - 1 ? 1 : delayMs || 0, 1)
    this.#repeats = repeats
    this.#start()
  }

  #start(): void {
    this.#event = this.#party.simulation.schedule(
      this.#delayMs,
      'timer',
      () => {
        if (this.#repeats) this.#start()
        this.#work()
      },
      this.#party,
    )
  }

  cancel(): void {
    if (this.#event) this.#event.cancelled = true
    this.#event = undefined
  }

  refresh(): this {
    this.cancel()
    this.#start()
    return this
  }

  ref(): this {
    return this
  }

  unref(): this {
    return this
  }

  hasRef(): boolean {
    return true
  }

  [Symbol.dispose](): void {
    this.cancel()
  }
}

type Work = (...values: unknown[]) => void

function timer(repeats: boolean, otherwise: unknown) {
  return (work: Work, delayMs = 0, ...values: unknown[]): unknown => {
    const party = actor()
    if (!party) return (otherwise as (...all: unknown[]) => unknown)(work, delayMs, ...values)
    return new SimulatedTimer(party, () => work(...values), delayMs, repeats)
  }
}

function clear(otherwise: (timer: never) => void) {
  return (given: unknown): void => {
    if (given instanceof SimulatedTimer) given.cancel()
    else otherwise(given as never)
  }
}

async function sleep(delayMs = 0, value?: unknown, options: { signal?: AbortSignal } = {}): Promise<unknown> {
  const party = actor()
  if (!party) return real.sleep(delayMs, value, options)
  const { signal } = options
  return new Promise((resolve, reject) => {
    const given = new SimulatedTimer(party, () => end(() => resolve(value)), delayMs, false)
    const abort = (): void => {
      given.cancel()
      end(() => reject(new DOMException('The operation was aborted', 'AbortError')))
    }
    const end = (settle: () => void): void => {
      signal?.removeEventListener('abort', abort)
      settle()
    }
    if (signal?.aborted) abort()
    else signal?.addEventListener('abort', abort, { once: true })
  })
}

function simulatedNow(): number {
  const simulation = parties.getStore()?.simulation
  return simulation ? simulation.epoch + Math.floor(simulation.now) : real.Date.now()
}

class SimulatedDate extends real.Date {
  constructor(...values: [] | [string | number | Date]) {
    if (values.length === 0) super(simulatedNow())
    else super(...values)
  }

  static override now(): number {
    return simulatedNow()
  }
}

Object.assign(globalThis, {
  setTimeout: timer(false, real.setTimeout),
  setInterval: timer(true, real.setInterval),
  setImmediate: (work: Work, ...values: unknown[]): unknown => {
    const party = actor()
    if (!party) return real.setImmediate(work, ...values)
    return new SimulatedTimer(party, () => work(...values), 0, false)
  },
  clearTimeout: clear(real.clearTimeout),
  clearInterval: clear(real.clearInterval),
  clearImmediate: clear(real.clearImmediate),
  Date: SimulatedDate,
})
Math.random = () => parties.getStore()?.simulation.random.fraction() ?? real.random()
performance.now = () => parties.getStore()?.simulation.now ?? real.now()
AbortSignal.timeout = (delayMs) => {
  const party = actor()
  if (!party) return real.timeout(delayMs)
  const controller = new AbortController()
  const expire = (): void => controller.abort(new DOMException('The operation timed out', 'TimeoutError'))
  party.simulation.schedule(delayMs, 'timer', expire, party)
  return controller.signal
}
timersPromises['setTimeout'] = sleep
crypto['randomUUID'] = () => parties.getStore()?.simulation.random.uuid() ?? real.randomUUID()
crypto['randomBytes'] = (size: number, ...more: unknown[]) =>
  parties.getStore()?.simulation.random.bytes(size) ?? real.randomBytes(size, ...more)
syncBuiltinESMExports()
