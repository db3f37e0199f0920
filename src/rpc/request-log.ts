/**
 * What a host was asked to do, by request id: what runs, and how the rest ended. A request that comes again under the
 * same id joins the first one or gets its answer; it never acts twice.
 */
import { VmsealError } from '../errors.js'
import { toErrorMessage } from './error-message.js'
import type { Work, WorkProgress } from './host-api.js'
import { malformed } from './message-text.js'

export interface RequestLogLimits {
  /** How long the answer of a change is kept, in milliseconds, if nobody says that it arrived. */
  readonly lifetimeMs: number
  /** Requests that run at the same time. */
  readonly running: number
  /** Requests on record, running ones included. */
  readonly recorded: number
  /** Ids that are known after their answers were forgotten. */
  readonly acknowledged: number
}

/** A change that runs, as it is told to a vCenter that may not have begun it. */
export interface RunningRequest {
  readonly id: string
  readonly method: string
}

export interface RequestSpec {
  readonly id: string
  /** Tells requests apart that use one id by mistake. */
  readonly digest: string
  readonly method: string
  readonly kind: 'read' | 'change'
  readonly run: (work: Work) => Promise<unknown>
}

const usualLimits: RequestLogLimits = {
  lifetimeMs: 30 * 60 * 1000,
  running: 256,
  recorded: 8192,
  acknowledged: 65_536,
}

export class LoggedRequest {
  /** The answer, one line of JSON. Never rejects. */
  readonly answer: Promise<string>
  readonly #abort = new AbortController()
  readonly #listeners = new Set<(progress: WorkProgress) => void>()
  #progress: WorkProgress | undefined

  constructor(
    readonly digest: string | undefined,
    readonly method: string,
    run: RequestSpec['run'],
  ) {
    this.answer = this.#run(run)
  }

  cancel(): void {
    this.#abort.abort()
  }

  /** The latest progress at once, then every further one, until the result is called. */
  watch(listener: (progress: WorkProgress) => void): () => void {
    this.#listeners.add(listener)
    if (this.#progress) listener(this.#progress)
    return () => void this.#listeners.delete(listener)
  }

  async #run(run: RequestSpec['run']): Promise<string> {
    const onProgress = (progress: WorkProgress): void => {
      this.#progress = progress
      for (const listener of this.#listeners) listener(progress)
    }
    try {
      return JSON.stringify({ result: await run({ signal: this.#abort.signal, onProgress }) })
    } catch (error) {
      return JSON.stringify({ error: toErrorMessage(error) })
    }
  }
}

interface Entry {
  readonly request: LoggedRequest
  readonly kind: 'read' | 'change'
  /** Absent while it runs. */
  endedAt?: number
}

export class RequestLog {
  readonly #entries = new Map<string, Entry>()
  /** When each answer was forgotten, oldest first: a copy of the request may still be on its way. */
  readonly #acknowledged = new Map<string, number>()
  readonly #limits: RequestLogLimits
  readonly #now: () => number
  #running = 0

  constructor(limits: Partial<RequestLogLimits> = {}, now: () => number = () => performance.now()) {
    this.#limits = { ...usualLimits, ...limits }
    this.#now = now
  }

  /**
   * Starts it, or returns the one of the same id. VMSEAL_HOST_BUSY when nothing more can be remembered: forgetting an
   * answer would let its request act twice. VMSEAL_RPC_MALFORMED when the id was used for another request, and for a copy
   * that comes after its asker had the answer.
   */
  begin({ id, digest, method, kind, run }: RequestSpec): LoggedRequest {
    const known = this.#entries.get(id)
    if (known) {
      if (known.request.digest !== undefined && known.request.digest !== digest)
        throw malformed(`request ${id} was another one before`)
      return known.request
    }
    if (this.#acknowledged.has(id)) throw malformed(`request ${id} was answered, and the answer arrived`)
    if (this.#running >= this.#limits.running) throw busy(`${this.#running} requests run on it`)
    this.#running += 1
    return this.#record(
      id,
      kind,
      () => new LoggedRequest(digest, method, run),
      () => (this.#running -= 1),
    )
  }

  find(id: string): LoggedRequest | undefined {
    return this.#entries.get(id)?.request
  }

  /** A cancellation may overtake its request: then the request is refused when it comes. */
  cancel(id: string): void {
    const known = this.#entries.get(id)
    if (known) known.request.cancel()
    else
      this.#record(id, 'change', () => {
        const refuse = () => Promise.reject(new VmsealError('VMSEAL_CANCELLED'))
        return new LoggedRequest(undefined, 'cancelled', refuse)
      })
  }

  /** The asker has these answers: they are forgotten. Their ids are not, so that a copy that comes late does not act. */
  forget(ids: readonly string[]): void {
    for (const id of ids) {
      if (this.#entries.get(id)?.endedAt === undefined) continue
      this.#entries.delete(id)
      this.#acknowledged.set(id, this.#now())
    }
    const oldest = this.#now() - this.#limits.lifetimeMs
    for (const [id, at] of this.#acknowledged) {
      if (at > oldest && this.#acknowledged.size <= this.#limits.acknowledged) break
      this.#acknowledged.delete(id)
    }
  }

  running(): RunningRequest[] {
    return [...this.#entries]
      .filter(([, { kind, endedAt }]) => kind === 'change' && endedAt === undefined)
      .map(([id, { request }]) => ({ id, method: request.method }))
  }

  #record(
    id: string,
    kind: Entry['kind'],
    make: () => LoggedRequest,
    ended: () => void = () => {},
  ): LoggedRequest {
    if (this.#entries.size >= this.#limits.recorded) this.#sweep()
    if (this.#entries.size >= this.#limits.recorded) {
      ended()
      throw busy(`${this.#entries.size} answers were not collected`)
    }
    const entry: Entry = { request: make(), kind }
    this.#entries.set(id, entry)
    void this.#settle(id, entry, ended)
    return entry.request
  }

  async #settle(id: string, entry: Entry, ended: () => void): Promise<void> {
    await entry.request.answer
    ended()
    // Whoever waits for a read has its answer; who asks again may have a new one.
    if (entry.kind === 'read') this.#entries.delete(id)
    else entry.endedAt = this.#now()
  }

  #sweep(): void {
    const oldest = this.#now() - this.#limits.lifetimeMs
    for (const [id, { endedAt }] of this.#entries)
      if (endedAt !== undefined && endedAt <= oldest) this.#entries.delete(id)
  }
}

function busy(reason: string): VmsealError {
  return new VmsealError('VMSEAL_HOST_BUSY', `the host takes no more requests: ${reason}`)
}
