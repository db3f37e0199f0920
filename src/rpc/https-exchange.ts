/** One HTTP request over mutual TLS and the lines of its answer. What fails here may be tried again. */
import { request as httpsRequest, type Agent } from 'node:https'
import type { IncomingMessage } from 'node:http'
import type { TLSSocket } from 'node:tls'
import type { WorkProgress } from './host-api.js'
import { longestMessage, malformed, parseMessage } from './message-text.js'
import { count, object, text, type Shape } from './shapes.js'
import type { HostAddress } from './wire.js'

export interface Exchange {
  readonly method: 'GET' | 'POST' | 'DELETE'
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  readonly onProgress?: ((progress: WorkProgress) => void) | undefined
  /** Bytes arrived: the other side lives. */
  readonly onHeard?: (() => void) | undefined
  /** Any of them gives the exchange up. */
  readonly signals?: readonly AbortSignal[]
}

export interface Reply {
  readonly status: number
  /** The last line. */
  readonly message: unknown
}

/** The link failed; the other side may go on working. */
export class LinkError extends Error {
  override readonly name = 'LinkError'

  constructor(
    message: string,
    /** The request may have arrived. */
    readonly delivered: boolean,
    /** The other side is not who it has to be, or does not take us for who we are. */
    readonly untrusted: boolean,
    cause?: unknown,
  ) {
    super(message, { cause })
  }
}

/** Rejects with `LinkError`; with a `VmsealError` for an answer that is none. */
export function exchange(
  agent: Agent,
  address: HostAddress,
  { method, path, headers, body, onProgress, onHeard, signals = [] }: Exchange,
  /** Without a byte for this long the link counts as lost, in milliseconds. */
  silenceMs: number,
): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const length = body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }
    const request = httpsRequest({ agent, ...address, method, path, headers: { ...headers, ...length } })
    let delivered = false
    let settled = false
    const end = (settle: () => void): void => {
      if (settled) return
      settled = true
      clearTimeout(silence)
      for (const signal of signals) signal.removeEventListener('abort', abort)
      settle()
    }
    const fail = (error: unknown): void =>
      end(() => {
        request.destroy()
        reject(linkError(error, delivered))
      })
    const abort = (): void => fail(new Error('given up'))
    const silence = setTimeout(() => fail(new Error(`nothing was heard for ${silenceMs} ms`)), silenceMs)
    for (const signal of signals) {
      signal.addEventListener('abort', abort, { once: true })
      if (signal.aborted) abort()
    }

    request.on('socket', (socket) => {
      // A connection that is used again is authorized already.
      if ((socket as TLSSocket).authorized) delivered = true
      else socket.once('secureConnect', () => (delivered = true))
    })
    request.on('error', fail)
    request.on('response', (response: IncomingMessage) => {
      const lines = new Lines((message) => {
        if (isProgress(message)) onProgress?.((message as { progress: WorkProgress }).progress)
      })
      response.on('data', (bytes: Buffer) => {
        silence.refresh()
        onHeard?.()
        try {
          lines.add(bytes)
        } catch (error) {
          end(() => {
            request.destroy()
            reject(error)
          })
        }
      })
      response.on('error', fail)
      response.on('aborted', () => fail(new Error('the answer broke off')))
      response.on('end', () => {
        const { last } = lines
        if (last === undefined || isProgress(last)) fail(new Error('the answer broke off'))
        else end(() => resolve({ status: response.statusCode ?? 0, message: last }))
      })
    })
    request.end(body)
  })
}

/** Cuts bytes into lines of JSON; the last one is kept, each is shown. */
class Lines {
  last: unknown
  readonly #onMessage: (message: unknown) => void
  #parts: Buffer[] = []
  #bytes = 0

  constructor(onMessage: (message: unknown) => void) {
    this.#onMessage = onMessage
  }

  /** VMSEAL_RPC_MALFORMED for a line that is too long or no JSON. */
  add(bytes: Buffer): void {
    let start = 0
    for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, start)) {
      this.#keep(bytes.subarray(start, end))
      start = end + 1
      const line = Buffer.concat(this.#parts).toString('utf8')
      this.#parts = []
      this.#bytes = 0
      if (line === '') continue
      this.last = parseMessage(line)
      this.#onMessage(this.last)
    }
    this.#keep(bytes.subarray(start))
  }

  #keep(part: Buffer): void {
    this.#bytes += part.length
    if (this.#bytes > longestMessage) throw malformed(`a line is longer than ${longestMessage} bytes`)
    if (part.length > 0) this.#parts.push(part)
  }
}

const isProgress: Shape = object({
  progress: object({ step: text(), doneBytes: count, totalBytes: count }),
})

/** Of OpenSSL and Node: one side does not accept the certificate of the other. */
const untrustedCodes =
  /^(ERR_TLS_CERT_ALTNAME_INVALID|UNABLE_TO_.*|.*SELF_SIGNED_CERT.*|CERT_.*|INVALID_PURPOSE|ERR_SSL_TLSV1.*_ALERT_(UNKNOWN_CA|.*CERTIFICATE.*)|ERR_SSL_.*BAD_CERTIFICATE|ERR_SSL_.*ALERT_CERTIFICATE_.*|ERR_SSL_.*CERTIFICATE_REQUIRED|VMSEAL_OTHER_KEY)$/

function linkError(error: unknown, delivered: boolean): Error {
  if (error instanceof LinkError) return error
  const { code, message } = error as NodeJS.ErrnoException
  return new LinkError(message || String(error), delivered, untrustedCodes.test(code ?? ''), error)
}
