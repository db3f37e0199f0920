/**
 * vCenter's side of the conversation: a host across a network as a `HostApi`. Links drop and come back; a request is
 * sent again under its id until its answer arrives, and acts once.
 */
import { X509Certificate, randomUUID } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { Agent } from 'node:https'
import { checkServerIdentity, createSecureContext, type ConnectionOptions } from 'node:tls'
import { VmsealError } from '../errors.js'
import { Backoff } from './backoff.js'
import { expired, expiredCode } from './certificate-client.js'
import { fromErrorMessage, type ErrorMessage } from './error-message.js'
import type { HostApi, Work } from './host-api.js'
import { hostApiOf, hostMethods, type HostMethodName } from './host-methods.js'
import { LinkError, exchange, type Exchange, type Reply } from './https-exchange.js'
import { longestMessage, malformed } from './message-text.js'
import type { RunningRequest } from './request-log.js'
import { count, listOf, matching, object, text } from './shapes.js'
import { keyHashOf, withTlsOptions, type LinkCredentials } from './tls-identity.js'
import {
  askerHeader,
  hostCertificateName,
  instanceHeader,
  isErrorMessage,
  receivedHeader,
  rpcPath,
  rpcVersions,
  uuidPattern,
  type HostAddress,
} from './wire.js'

export interface HttpsHostOptions {
  readonly address: HostAddress
  readonly hostId: string
  /** Hex SHA-256 of the public key in the host's certificate. */
  readonly keyHash: string
  readonly credentials: LinkCredentials
  readonly timing?: Partial<LinkTiming>
}

/** In milliseconds. */
export interface LinkTiming {
  /** Without a byte or beat for this long a link counts as lost. */
  readonly silenceMs: number
  /** For a request that is not long, all its attempts included. */
  readonly requestMs: number
  /** How long the outcome of a long request is waited for while the host cannot be reached. */
  readonly outageMs: number
  readonly firstBackoffMs: number
  readonly longestBackoffMs: number
}

const usualTiming: LinkTiming = {
  silenceMs: 10_000,
  requestMs: 30_000,
  outageMs: 10 * 60_000,
  firstBackoffMs: 100,
  longestBackoffMs: 5000,
}
/** Attempts at a host that does not answer, while it has not got the request. */
const undeliveredAttempts = 4
/** HTTP status of a host that another has asked since. */
const followed = 410
/** Ids in one header. */
const receivedAtOnce = 50

/** The certificate that the host showed last. */
export interface ShownCertificate {
  /** Hex SHA-256 of its public key. */
  readonly keyHash: string
  /** Milliseconds since 1970. */
  readonly notBefore: number
  readonly notAfter: number
}

interface Instance {
  readonly version: number
  readonly id: string
}

export class HttpsHost {
  readonly api: HostApi
  readonly #options: HttpsHostOptions
  readonly #timing: LinkTiming
  readonly #agents: Agent[] = []
  #agent: Agent
  #credentials: LinkCredentials
  #keyHashes: ReadonlySet<string>
  #shown: ShownCertificate | undefined
  readonly #closed = new AbortController()
  #instance: Instance | undefined
  /** A new one when another has followed it: who lives may ask again, what somebody sent who ended acts no more. */
  #asker = randomUUID()
  #received: string[] = []
  /** Requests that are under way. */
  readonly #own = new Set<string>()

  constructor(options: HttpsHostOptions) {
    this.#options = options
    this.#timing = { ...usualTiming, ...options.timing }
    this.#credentials = options.credentials
    this.#keyHashes = new Set([options.keyHash])
    this.#agent = this.#newAgent()
    // One listener for each request that is under way.
    setMaxListeners(0, this.#closed.signal)
    this.api = hostApiOf((name, values, work) => this.#request(name, values, work))
  }

  /** Undefined until there was a connection. */
  get shown(): ShownCertificate | undefined {
    return this.#shown
  }

  get keyHashes(): ReadonlySet<string> {
    return this.#keyHashes
  }

  /** From now on the host may show these public keys, and no other. */
  accept(keyHashes: readonly string[]): void {
    this.#keyHashes = new Set(keyHashes)
    this.#turnOver()
  }

  /** New connections are made with these; what is under way goes on over those that are open. */
  use(credentials: LinkCredentials): void {
    if (credentials.certificate === this.#credentials.certificate) return
    this.#credentials = credentials
    this.#turnOver()
  }

  /** Changes that the host works on now and that nobody here began. */
  async strangers(): Promise<readonly RunningRequest[]> {
    const { message } = await this.#ask('')
    const running = resultOf(message)
    if (!isRunning(running)) throw malformed('it is no list of requests')
    return (running as RunningRequest[]).filter(({ id }) => !this.#own.has(id))
  }

  /** Waits until a request that somebody began has ended. */
  async ended(id: string): Promise<void> {
    await this.#ask(`/${id}`)
  }

  /** Requests that are under way reject; the host goes on with what it works on. */
  close(): void {
    this.#closed.abort()
    for (const agent of this.#agents) agent.destroy()
  }

  #turnOver(): void {
    // Those in use end with their requests: they were looked at when they were made.
    this.#shown = undefined
    for (const sockets of Object.values(this.#agent.freeSockets))
      for (const socket of sockets ?? []) socket.destroy()
    this.#agent = this.#newAgent()
  }

  /** Lets in the public keys that count, under the one CA, for the one host id. Sessions are not resumed: each is checked. */
  #newAgent(): Agent {
    const { address, hostId } = this.#options
    const secureContext = withTlsOptions(this.#credentials, createSecureContext)
    const servername = hostCertificateName(hostId)
    const options: ConnectionOptions = {
      secureContext,
      servername,
      checkServerIdentity: (_, certificate) => {
        const wrongName = checkServerIdentity(servername, certificate)
        if (wrongName) return wrongName
        const keyHash = keyHashOf(new X509Certificate(certificate.raw))
        if (this.#keyHashes.has(keyHash)) {
          const { valid_from: from, valid_to: to } = certificate
          this.#shown = { keyHash, notBefore: Date.parse(from), notAfter: Date.parse(to) }
          return undefined
        }
        const error = new Error(`${address.host}:${address.port} shows another public key`)
        return Object.assign(error, { code: 'VMSEAL_OTHER_KEY' })
      },
    }
    const agent = new Agent({
      ...options,
      keepAlive: true,
      maxSockets: 128,
      // A connection costs more than a request: as many stay open as vCenter uses at once.
      maxFreeSockets: 16,
      maxCachedSessions: 0,
    })
    this.#agents.push(agent)
    return agent
  }

  async #request(name: HostMethodName, values: readonly unknown[], work: Work): Promise<unknown> {
    const { local, result: isResult } = hostMethods[name]
    if (local)
      throw new VmsealError('VMSEAL_HOST_LOCAL_ONLY', `${name} is answered on the host's own machine only`)
    if (work.signal?.aborted) throw new VmsealError('VMSEAL_CANCELLED')
    const body = JSON.stringify({ method: name, values })
    if (Buffer.byteLength(body) > longestMessage)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `a request has at most ${longestMessage} bytes`)
    const id = randomUUID()
    this.#own.add(id)
    const cancel = (): void => void this.#cancel(id).catch(() => {})
    work.signal?.addEventListener('abort', cancel, { once: true })
    try {
      const message = await this.#untilAnswered(name, id, body, work)
      if (hostMethods[name].kind === 'change') this.#received.push(id)
      const result = resultOf(message)
      if (!isResult(result)) throw malformed(`it is no answer to ${name}`)
      return result ?? undefined
    } finally {
      this.#own.delete(id)
      work.signal?.removeEventListener('abort', cancel)
    }
  }

  /** A question about requests, asked once. */
  async #ask(path: string): Promise<Reply> {
    try {
      const { version } = await this.#greet()
      return await this.#exchange({ method: 'GET', path: `${rpcPath}/${version}/requests${path}` })
    } catch (error) {
      if (!(error instanceof LinkError)) throw error
      this.#instance = undefined
      throw error.untrusted ? this.#untrusted(error) : this.#unreachable(error.message, error)
    }
  }

  async #untilAnswered(name: HostMethodName, id: string, body: string, work: Work): Promise<unknown> {
    const { kind, long } = hostMethods[name]
    const { requestMs, outageMs } = this.#timing
    const deadline = long ? undefined : AbortSignal.timeout(requestMs)
    const backoff = new Backoff(this.#timing)
    let deliveredTo: string | undefined
    let silentSince: number | undefined
    for (let attempt = 1; ; attempt += 1) {
      let instance: Instance | undefined
      try {
        instance = await this.#greet(deadline)
        if (kind === 'change' && deliveredTo !== undefined && deliveredTo !== instance.id)
          throw new VmsealError(
            'VMSEAL_TASK_INTERRUPTED',
            `${this.#name()} restarted while it worked on ${name}; what it worked on is as before or as after it`,
          )
        if (work.signal?.aborted) await this.#cancelAt(instance, id)
        const { status, message } = await this.#post(instance, id, body, work, deadline, () => {
          silentSince = undefined
          backoff.reset()
        })
        if (status !== 409 && status !== followed) return message
        // It was restarted, and refused what was meant for its earlier instance; or somebody asked it meanwhile.
        this.#instance = undefined
        if (status === followed) this.#asker = randomUUID()
        if (attempt > undeliveredAttempts) throw this.#unreachable('it restarts again and again')
      } catch (error) {
        if (!(error instanceof LinkError)) throw error
        this.#instance = undefined
        if (error.untrusted) throw this.#untrusted(error)
        if (error.delivered && instance) deliveredTo ??= instance.id
        if (work.signal?.aborted && deliveredTo === undefined) throw new VmsealError('VMSEAL_CANCELLED')
        silentSince ??= performance.now()
        const patient = long && deliveredTo !== undefined
        const givenUp =
          this.#closed.signal.aborted ||
          deadline?.aborted ||
          (patient
            ? performance.now() - silentSince > (work.signal?.aborted ? requestMs : outageMs)
            : attempt >= undeliveredAttempts)
        if (givenUp) throw this.#unreachable(error.message, error)
        await backoff.wait(this.#closed.signal)
      }
    }
  }

  async #post(
    { version, id: instance }: Instance,
    id: string,
    body: string,
    work: Work,
    deadline: AbortSignal | undefined,
    heard: () => void,
  ): Promise<Reply> {
    const received = this.#received.slice(0, receivedAtOnce)
    const reply = await this.#exchange(
      {
        method: 'POST',
        path: `${rpcPath}/${version}/requests/${id}`,
        headers: {
          'content-type': 'application/json',
          [instanceHeader]: instance,
          [askerHeader]: this.#asker,
          ...(received.length > 0 ? { [receivedHeader]: received.join(',') } : {}),
        },
        body,
        onProgress: work.onProgress,
        onHeard: heard,
      },
      deadline,
    )
    this.#received = this.#received.filter((other) => !received.includes(other))
    return reply
  }

  /** Best effort: the answer to the request itself tells whether it was in time. */
  async #cancel(id: string): Promise<void> {
    const backoff = new Backoff(this.#timing)
    for (let attempt = 1; attempt <= undeliveredAttempts; attempt += 1)
      try {
        return await this.#cancelAt(await this.#greet(), id)
      } catch (error) {
        if (!(error instanceof LinkError)) throw error
        await backoff.wait(this.#closed.signal)
      }
  }

  async #cancelAt({ version, id: instance }: Instance, id: string): Promise<void> {
    const path = `${rpcPath}/${version}/requests/${id}`
    await this.#exchange({ method: 'DELETE', path, headers: { [instanceHeader]: instance } })
  }

  /** Who answers, and in which version; asked once for each outage. */
  async #greet(deadline?: AbortSignal): Promise<Instance> {
    if (this.#instance) return this.#instance
    const { message } = await this.#askWho(deadline)
    if (!isGreeting(message)) throw malformed('it is no greeting of a host')
    const { versions, instance, hostId } = message as { versions: number[]; instance: string; hostId: string }
    if (hostId !== this.#options.hostId)
      throw new VmsealError('VMSEAL_HOST_NOT_TRUSTED', `${this.#name()} answers as host ${hostId}`)
    const version = Math.max(...versions.filter((known) => rpcVersions.includes(known)))
    if (!Number.isFinite(version))
      throw new VmsealError(
        'VMSEAL_RPC_VERSION',
        `${this.#name()} speaks version ${versions.join(', ')}, this vCenter ${rpcVersions.join(', ')}`,
      )
    this.#instance = { version, id: instance }
    return this.#instance
  }

  async #askWho(deadline: AbortSignal | undefined): Promise<Reply> {
    const ask = () =>
      this.#exchange({ method: 'GET', path: rpcPath, headers: { [askerHeader]: this.#asker } }, deadline)
    const reply = await ask()
    if (reply.status !== followed) return reply
    this.#asker = randomUUID()
    return ask()
  }

  #exchange(what: Exchange, deadline?: AbortSignal): Promise<Reply> {
    const signals = [this.#closed.signal, ...(deadline ? [deadline] : [])]
    return exchange(this.#agent, this.#options.address, { ...what, signals }, this.#timing.silenceMs)
  }

  #name(): string {
    const { host, port } = this.#options.address
    return `the host at ${host}:${port}`
  }

  #unreachable(reason: string, cause?: unknown): VmsealError {
    return new VmsealError('VMSEAL_HOST_UNREACHABLE', `${this.#name()} does not answer: ${reason}`, { cause })
  }

  #untrusted(cause: LinkError): VmsealError {
    if ((cause.cause as NodeJS.ErrnoException | undefined)?.code === expiredCode) return expired(this.#name())
    return new VmsealError(
      'VMSEAL_HOST_NOT_TRUSTED',
      `${this.#name()} is not the host that was added, or has left this vCenter: ${cause.message}`,
      { cause },
    )
  }
}

const isGreeting = object({
  versions: listOf(count, 100),
  instance: matching(uuidPattern),
  hostId: matching(uuidPattern),
})
const isRunning = listOf(object({ id: matching(uuidPattern), method: text(100) }))

/** Throws the error that an answer holds. */
function resultOf(message: unknown): unknown {
  const { error, result } = (message ?? {}) as { error?: unknown; result?: unknown }
  if (error === undefined) return result
  if (!isErrorMessage(error)) throw malformed('it is no error')
  throw fromErrorMessage(error as ErrorMessage)
}
