/** Several requests over one connection whose other side was looked at before the first byte is sent. */
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import type { TLSSocket } from 'node:tls'
import { fromErrorMessage, type ErrorMessage } from './error-message.js'
import { malformed, parseMessage, readBody } from './message-text.js'
import { isErrorMessage } from './wire.js'

/** A limit for each step: connecting, and each request with its answer. */
export const oneStepMs = 15_000
const longestAnswer = 64 * 1024

export interface Question {
  readonly method: 'GET' | 'POST'
  readonly path: string
  /** JSON. */
  readonly body?: string
}

/** The answer, JSON; throws the error that it holds. VMSEAL_RPC_MALFORMED; other errors are of the connection. */
export async function askOn(socket: TLSSocket, { method, path, body }: Question): Promise<unknown> {
  const length = body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }
  const request = httpRequest({
    createConnection: () => socket,
    path,
    method,
    headers: { host: 'vmseal', connection: 'keep-alive', ...length },
    signal: AbortSignal.timeout(oneStepMs),
  })
  request.end(body)
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  const message = parseMessage((await readBody(response, longestAnswer)).toString('utf8'))
  const { error } = (message ?? {}) as { error?: unknown }
  if (error === undefined) return message
  if (!isErrorMessage(error)) throw malformed('it is no error')
  throw fromErrorMessage(error as ErrorMessage)
}
