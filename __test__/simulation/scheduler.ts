/**
 * The order of everything in a simulated run: one event at a time, by a clock that only events move. What a party does
 * between two events is its own JavaScript; what it waits for, it waits for here.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { createHash } from 'node:crypto'
import { Random } from './random.js'

const realSetImmediate = setImmediate

/** One life of a process: what a killed one waited for never comes. */
export class Party {
  alive = true
  /** Runs when it is killed, for what a kernel would take back. */
  readonly atDeath: (() => void)[] = []

  constructor(
    readonly name: string,
    readonly simulation: Simulation,
    /** Looks at the world without taking time in it. */
    readonly observes = false,
  ) {}

  run<T>(work: () => T): T {
    return parties.run(this, work)
  }

  kill(): void {
    if (!this.alive) return
    this.alive = false
    for (const end of this.atDeath.toReversed()) end()
  }
}

export const parties = new AsyncLocalStorage<Party | undefined>()

export interface Event {
  readonly at: number
  readonly order: number
  readonly party: Party | undefined
  readonly label: string
  readonly run: () => unknown
  cancelled: boolean
}

export class Simulation {
  readonly random: Random
  /** Milliseconds since the run began. */
  now = 0
  readonly #queue: Event[] = []
  readonly #trace = createHash('sha256')
  readonly #names = new Map<string, string>()
  readonly lines: string[] | undefined
  #order = 0
  events = 0

  constructor(
    readonly seed: number,
    /** What the clock shows at the beginning, in milliseconds since 1970. */
    readonly epoch: number,
    options: { readonly keepTrace?: boolean } = {},
  ) {
    this.random = new Random(seed)
    this.lines = options.keepTrace ? [] : undefined
  }

  schedule(delayMs: number, label: string, run: () => unknown, party?: Party): Event {
    const event: Event = {
      at: this.now + Math.max(0, delayMs),
      order: (this.#order += 1),
      party,
      label,
      run,
      cancelled: false,
    }
    push(this.#queue, event)
    return event
  }

  /** What `work` comes to, after `delayMs`; never, if the party is killed before. Nothing else happens while it runs. */
  later<T>(party: Party, delayMs: number, label: string, work: () => T | Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.schedule(
        delayMs,
        label,
        () => {
          try {
            const result = work()
            if (result instanceof Promise) return result.then(resolve, reject)
            resolve(result)
          } catch (error) {
            reject(error)
          }
          return undefined
        },
        party,
      )
    })
  }

  /** Lets events happen until `done`, or until the clock would pass `limit`. */
  async run(done: () => boolean, limit: number): Promise<'done' | 'late'> {
    for (;;) {
      if (done()) return 'done'
      const event = this.#queue[0]
      if (!event || event.at > limit) {
        this.now = Math.max(this.now, limit)
        return 'late'
      }
      pop(this.#queue)
      if (event.cancelled || event.party?.alive === false) continue
      this.now = Math.max(this.now, event.at)
      this.events += 1
      this.note(event.party?.name ?? '-', event.label)
      const under = parties.run(event.party, event.run)
      if (under instanceof Promise) await under
      await settled()
    }
  }

  /** A line of the trace. Ids count by their first appearance: the template of a run has other ones in each process. */
  note(party: string, text: string): void {
    const line = `${this.now.toFixed(3)} ${party} ${text.replace(uuid, (id) => this.#nameOf(id))}`
    this.#trace.update(`${line}\n`)
    this.lines?.push(line)
  }

  traceHash(): string {
    return this.#trace.copy().digest('hex')
  }

  #nameOf(id: string): string {
    const known = this.#names.get(id)
    if (known) return known
    const name = `#${this.#names.size}`
    this.#names.set(id, name)
    return name
  }
}

const uuid = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g

/** When no promise is left that could go on by itself. */
function settled(): Promise<void> {
  return new Promise((resolve) => realSetImmediate(resolve))
}

function isBefore(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order)
}

function push(heap: Event[], event: Event): void {
  let index = heap.length
  heap.push(event)
  while (index > 0) {
    const parent = (index - 1) >> 1
    if (!isBefore(event, heap[parent] as Event)) break
    heap[index] = heap[parent] as Event
    index = parent
  }
  heap[index] = event
}

function pop(heap: Event[]): void {
  const last = heap.pop() as Event
  if (heap.length === 0) return
  let index = 0
  for (;;) {
    let child = 2 * index + 1
    if (child >= heap.length) break
    if (child + 1 < heap.length && isBefore(heap[child + 1] as Event, heap[child] as Event)) child += 1
    if (!isBefore(heap[child] as Event, last)) break
    heap[index] = heap[child] as Event
    index = child
  }
  heap[index] = last
}
