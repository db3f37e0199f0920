/** The servers of a key provider as one: which is asked first, and who else when it does not answer. */
import { VmsealError } from '../../errors.js'
import type { KmipClient } from '../../kmip/client.js'
import type { Deadline } from './deadline.js'
import { ServerFailure, type KmsServer } from './server.js'

/** No server served the call. */
export class NoAnswerError extends Error {
  constructor(readonly failures: readonly ServerFailure[]) {
    super(failures.map((failure) => failure.message).join('; '))
  }
}

export interface AskOptions<Result> {
  /** Ask the next server too when there is no answer after this time; without it only after a failure. */
  readonly hedgeDelayMs?: number
  /** Is asked first. */
  readonly prefer?: KmsServer
  /** Why an answer is not good enough: other servers are asked then. */
  readonly reject?: (result: Result) => VmsealError | undefined
  /** Gets every answer that is not returned. */
  readonly discard?: (result: Result) => void
}

export class Replicas {
  readonly servers: readonly KmsServer[]
  readonly #probeTimeoutMs: number

  /** `servers` by priority. */
  constructor(servers: readonly KmsServer[], probeTimeoutMs: number) {
    this.servers = servers
    this.#probeTimeoutMs = probeTimeoutMs
  }

  /**
   * By priority, those that rest last: a breaker decides who is asked first, never that nobody is. Probes those whose
   * rest is over, in the background.
   */
  inOrder(deadline: Deadline, prefer?: KmsServer): KmsServer[] {
    for (const server of this.servers)
      if (server.breaker.takeProbe()) void server.probe(deadline.within(this.#probeTimeoutMs))
    const rank = (server: KmsServer): number =>
      server.breaker.state !== 'closed' ? 2 : server === prefer ? 0 : 1
    return this.servers.toSorted((a, b) => rank(a) - rank(b))
  }

  /** The first good answer. `request` may run on several servers and more than once. Rejects with NoAnswerError. */
  first<Result>(
    request: (client: KmipClient) => Promise<Result>,
    deadline: Deadline,
    options: AskOptions<Result> = {},
  ): Promise<Result> {
    const { hedgeDelayMs, prefer, reject: judge, discard = () => {} } = options
    const next = this.inOrder(deadline, prefer)
    const failures: ServerFailure[] = []
    return new Promise((resolve, reject) => {
      let running = 0
      let settled = false
      let hedge: NodeJS.Timeout | undefined
      const settle = (how: () => void): void => {
        settled = true
        clearTimeout(hedge)
        how()
      }
      const failed = (failure: ServerFailure): void => {
        failures.push(failure)
        if (next.length > 0) ask()
        else if (running === 0) settle(() => reject(new NoAnswerError(failures)))
      }
      const ask = (): void => {
        const server = next.shift()
        if (!server) return
        clearTimeout(hedge)
        if (hedgeDelayMs !== undefined && next.length > 0) hedge = setTimeout(ask, hedgeDelayMs)
        running += 1
        const answered = (result: Result): void => {
          running -= 1
          const fault = judge?.(result)
          if (settled || fault) discard(result)
          if (settled) return
          if (fault) failed(new ServerFailure(server, 'request', fault, true))
          else settle(() => resolve(result))
        }
        const lost = (error: unknown): void => {
          running -= 1
          if (settled) return
          if (error instanceof ServerFailure) failed(error)
          else settle(() => reject(error))
        }
        server.use(request, deadline, { repeatable: true, late: discard }).then(answered, lost)
      }
      ask()
    })
  }

  close(): void {
    for (const server of this.servers) server.close()
  }
}
