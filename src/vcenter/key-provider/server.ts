/** One server of a key provider: its kept connections and its circuit breaker. */
import { VmsealError, isVmsealError, type ErrorCode } from '../../errors.js'
import type { KmipClient } from '../../kmip/client.js'
import type { KmsServerAddress } from '../../store/store.js'
import { CircuitBreaker } from './circuit-breaker.js'
import { ConnectionPool } from './connection-pool.js'
import type { Deadline } from './deadline.js'
import { Dialer, DistrustError, type ServerIdentity } from './dialer.js'
import type { KeyProviderTiming } from './timing.js'

/** Where on the way to an answer it failed. `trust`: the server is not the one that is trusted. */
export type Hop = 'connect' | 'trust' | 'request'

/** A call that one server did not serve. */
export class ServerFailure extends Error {
  constructor(
    readonly server: KmsServer,
    readonly hop: Hop,
    override readonly cause: VmsealError,
    /** The server answered, and refused. */
    readonly refused: boolean,
  ) {
    super(`${server.name}: ${hop}: ${cause.message}`)
  }

  /** Whether the server may have done what it was asked although nobody heard of it. */
  get unclear(): boolean {
    return this.hop === 'request' && !this.refused
  }

  /** The KMIP result reason of a refusal. */
  get resultReason(): string | undefined {
    return this.cause.details.resultReason
  }
}

export interface ServerOptions {
  readonly address: KmsServerAddress
  readonly identity: ServerIdentity
  readonly timing: KeyProviderTiming
  /** Raised once when the server is found not to be the trusted one, and again after it was. */
  readonly onDistrust: (server: KmsServer, error: VmsealError) => void
  /** It answers again. */
  readonly onReturn?: (() => void) | undefined
  readonly now?: () => number
  readonly random?: () => number
}

export interface UseOptions<Result> {
  /** The request does no harm when it is sent twice: a kept connection that died is replaced. */
  readonly repeatable?: boolean
  /** Gets a result that came after the deadline. */
  readonly late?: (result: Result) => void
}

export class KmsServer {
  /** `host:port`. */
  readonly name: string
  readonly breaker: CircuitBreaker
  readonly #options: ServerOptions
  readonly #pool: ConnectionPool
  readonly #dialer: Dialer
  #distrusted = false

  constructor(options: ServerOptions) {
    this.#options = options
    this.name = serverName(options.address)
    this.breaker = new CircuitBreaker({ ...options.timing, ...options })
    this.#dialer = new Dialer(options.address, options.identity, options.timing)
    this.#pool = new ConnectionPool((deadline) => this.#connect(deadline))
  }

  /** Rejects with ServerFailure, or with what `request` throws of its own. */
  async use<Result>(
    request: (client: KmipClient) => Promise<Result>,
    deadline: Deadline,
    { repeatable = false, late = () => {} }: UseOptions<Result> = {},
  ): Promise<Result> {
    if (deadline.remainingMs === 0) throw new ServerFailure(this, 'connect', noTimeLeft(), false)
    const lease = await this.#lease(deadline)
    const limit = deadline.within(this.#options.timing.requestTimeoutMs)
    try {
      const result = await limit.race(request(lease.client), `a request to ${this.name}`, late)
      lease.release()
      this.#answered()
      return result
    } catch (error) {
      if (!isVmsealError(error)) {
        lease.drop()
        throw error
      }
      if (error.code === 'VMSEAL_KMIP_OPERATION_FAILED') {
        lease.release()
        this.#answered()
        throw new ServerFailure(this, 'request', error, true)
      }
      lease.drop()
      if (lease.reused && lostCodes.has(error.code)) {
        // It may have died long ago, and the others with it.
        this.#pool.forgetIdle()
        if (repeatable && deadline.remainingMs > 0) return this.use(request, deadline, { repeatable, late })
      } else this.breaker.fail()
      throw new ServerFailure(this, 'request', error, false)
    }
  }

  /** Finds out whether a server that rested is back. Never rejects. */
  async probe(deadline: Deadline): Promise<void> {
    await this.use((client) => client.discoverVersions(), deadline).catch(() => this.breaker.fail())
  }

  close(): void {
    this.#pool.close()
  }

  #answered(): void {
    this.#distrusted = false
    const returned = this.breaker.state !== 'closed'
    this.breaker.succeed()
    if (returned) this.#options.onReturn?.()
  }

  async #lease(deadline: Deadline): ReturnType<ConnectionPool['lease']> {
    try {
      return await this.#pool.lease(deadline)
    } catch (error) {
      if (!isVmsealError(error) || error.code === 'VMSEAL_INVALID_STATE') throw error
      throw new ServerFailure(this, this.#distrusted ? 'trust' : 'connect', error, false)
    }
  }

  async #connect(deadline: Deadline): Promise<KmipClient> {
    const limit = deadline.within(this.#options.timing.connectTimeoutMs)
    try {
      const connection = await this.#dialer.dial(limit)
      return await this.#dialer.greet(connection, limit)
    } catch (error) {
      this.breaker.fail()
      if (error instanceof DistrustError) this.#distrust(error.reason)
      throw error instanceof DistrustError ? error.reason : error
    }
  }

  #distrust(reason: VmsealError): void {
    if (this.#distrusted) return
    this.#distrusted = true
    this.#options.onDistrust(this, reason)
  }
}

/** `host:port`; an IPv6 address stands in brackets. */
export function serverName({ host, port }: KmsServerAddress): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`
}

const lostCodes = new Set<ErrorCode>(['VMSEAL_KMIP_CONNECTION', 'VMSEAL_KMIP_TLS'])

function noTimeLeft(): VmsealError {
  return new VmsealError('VMSEAL_KMIP_TIMEOUT', 'there is no time left for it')
}
