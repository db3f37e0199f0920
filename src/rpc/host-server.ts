/** A host's side of the conversation: `HostApi` over HTTP. Who may talk to it is the listener's business. */
import { createHash, randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { VmsealError, isVmsealError } from '../errors.js'
import { toErrorMessage } from './error-message.js'
import type { HostApi } from './host-api.js'
import { callHost, hostMethods, isHostMethod, type HostMethodName } from './host-methods.js'
import { longestMessage, malformed, parseMessage, readBody } from './message-text.js'
import { Askers } from './askers.js'
import { RequestLog, type LoggedRequest, type RequestLogLimits } from './request-log.js'
import { listOf, object, text, type Shape } from './shapes.js'
import {
  askerHeader,
  beatMs,
  instanceHeader,
  receivedHeader,
  rpcPath,
  rpcVersions,
  uuidPattern,
} from './wire.js'

/** The host's own certificate, for a vCenter that renews it. */
export interface CertificateKeeper {
  /** Makes another key, and a signing request for it (PKCS#10, PEM). An earlier one that was not used is void. */
  request(): Promise<string>
  /** Takes the certificate (PEM) for the newest request into use, durably. VMSEAL_CERTIFICATE_INVALID. */
  install(certificate: string): Promise<void>
}

export interface HostServerOptions {
  readonly host: HostApi
  readonly hostId: string
  readonly limits?: Partial<RequestLogLimits>
  readonly certificate?: CertificateKeeper
}

/** An answer that nobody reads is given up after so many beats. */
const patientBeats = 15

export class HostServer {
  readonly #host: HostApi
  readonly #hostId: string
  readonly #log: RequestLog
  readonly #certificate: CertificateKeeper | undefined
  /** A new one means: what was remembered is forgotten. */
  readonly #instance = randomUUID()
  readonly #askers = new Askers()

  constructor({ host, hostId, limits, certificate }: HostServerOptions) {
    this.#host = host
    this.#hostId = hostId
    this.#log = new RequestLog(limits)
    this.#certificate = certificate
  }

  /** Answers one request; never throws. */
  readonly answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    try {
      await this.#route(request, response)
    } catch (error) {
      refuse(response, error)
    }
  }

  async #route(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method, url = '' } = request
    if (method === 'GET' && url === rpcPath) {
      if (!this.#askers.greet(askerOf(request))) return send(response, 410, {})
      return send(response, 200, { versions: rpcVersions, instance: this.#instance, hostId: this.#hostId })
    }
    const [, ofCertificate, step] = /^\/vmseal\/(\d{1,4})\/certificate(\/request)?$/.exec(url) ?? []
    if (ofCertificate !== undefined && this.#certificate) {
      if (!rpcVersions.includes(Number(ofCertificate))) throw new VmsealError('VMSEAL_RPC_VERSION')
      if (method !== 'POST') throw malformed(`${method} is not answered here`)
      return send(
        response,
        200,
        await renew(this.#certificate, step !== undefined, await readBody(request, longestMessage)),
      )
    }
    const [, version, id] = /^\/vmseal\/(\d{1,4})\/requests(?:\/([0-9a-f-]{36}))?$/.exec(url) ?? []
    if (version === undefined || (id !== undefined && !uuidPattern.test(id)))
      return send(response, 404, { error: toErrorMessage(malformed('there is no such address')) })
    if (!rpcVersions.includes(Number(version))) throw new VmsealError('VMSEAL_RPC_VERSION')
    if (id === undefined) {
      if (method !== 'GET') throw malformed(`${method} is not answered here`)
      return send(response, 200, { result: this.#log.running() })
    }
    if (method === 'GET') return this.#attach(id, response)
    // A cancellation or request for an earlier instance is not for us: its id means nothing here.
    if (request.headers[instanceHeader] !== this.#instance)
      return send(response, 409, { instance: this.#instance })
    if (method === 'DELETE') {
      this.#log.cancel(id)
      return send(response, 200, { result: null })
    }
    if (method !== 'POST') throw malformed(`${method} is not answered here`)
    this.#log.forget(receivedIds(request))
    const body = await readBody(request, longestMessage)
    // Only now: another may have asked while the body was read.
    if (this.#log.find(id) === undefined && this.#askers.isFollowed(askerOf(request)))
      return send(response, 410, {})
    return stream(response, this.#begin(id, body))
  }

  #attach(id: string, response: ServerResponse): void {
    const running = this.#log.find(id)
    if (running) return stream(response, running)
    throw new VmsealError('VMSEAL_NOT_FOUND', `the host knows no request ${id}`, { details: { subject: id } })
  }

  #begin(id: string, body: Buffer): LoggedRequest {
    const message = parseMessage(body.toString('utf8'))
    if (!isRequest(message)) throw malformed('it is no request')
    const { method, values } = message as { method: HostMethodName; values: unknown[] }
    const { kind, local, values: arity } = hostMethods[method]
    if (values.length > arity) throw malformed(`${method} takes ${arity} values`)
    if (local)
      throw new VmsealError('VMSEAL_HOST_LOCAL_ONLY', `${method} is answered on the host's own machine only`)
    const digest = createHash('sha256').update(body).digest('base64')
    const run = (work: object) => callHost(this.#host, method, values, work)
    return this.#log.begin({ id, digest, method, kind, run })
  }
}

const isCertificate: Shape = object({ certificate: text(16 * 1024) })

async function renew(keeper: CertificateKeeper, asks: boolean, body: Buffer): Promise<object> {
  if (asks) return { result: await keeper.request() }
  const message = parseMessage(body.toString('utf8'))
  if (!isCertificate(message)) throw malformed('it is no certificate')
  await keeper.install((message as { certificate: string }).certificate)
  return { result: null }
}

const isRequest: Shape = object({ method: isHostMethod, values: listOf(() => true, 16) })

function askerOf({ headers }: IncomingMessage): string | undefined {
  const asker = headers[askerHeader]
  return typeof asker === 'string' && uuidPattern.test(asker) ? asker : undefined
}

function receivedIds({ headers }: IncomingMessage): string[] {
  const ids = headers[receivedHeader]
  return typeof ids === 'string' ? ids.split(',').filter((id) => uuidPattern.test(id)) : []
}

/** Lines of JSON: progress, at last the answer; an empty line from time to time shows that the host lives. */
function stream(response: ServerResponse, request: LoggedRequest): void {
  response.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store' })
  response.flushHeaders()
  let silentBeats = 0
  const beat = setInterval(() => {
    silentBeats = response.writableNeedDrain ? silentBeats + 1 : 0
    if (silentBeats > patientBeats) response.destroy()
    else if (silentBeats === 0) response.write('\n')
  }, beatMs)
  // Whoever reads slowly misses some progress and gets the latest.
  const unwatch = request.watch((progress) => {
    if (!response.writableNeedDrain) response.write(`${JSON.stringify({ progress })}\n`)
  })
  const stop = (): void => {
    clearInterval(beat)
    unwatch()
  }
  // A lost link ends the telling, not the work.
  response.on('close', stop)
  response.on('error', stop)
  void end(request, response, stop)
}

async function end(request: LoggedRequest, response: ServerResponse, stop: () => void): Promise<void> {
  const line = await request.answer
  stop()
  if (response.destroyed) return
  response.setTimeout(beatMs * patientBeats, () => response.destroy())
  response.end(`${line}\n`)
}

function send(response: ServerResponse, status: number, message: object): void {
  const body = `${JSON.stringify(message)}\n`
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
  })
  response.end(body)
}

function refuse(response: ServerResponse, error: unknown): void {
  if (response.headersSent || response.destroyed) {
    response.destroy()
    return
  }
  // What is left of the request is not read.
  response.setHeader('connection', 'close')
  send(response, isVmsealError(error, 'VMSEAL_HOST_BUSY') ? 503 : 400, { error: toErrorMessage(error) })
}
