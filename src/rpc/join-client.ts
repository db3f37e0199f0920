/** vCenter's side of joining: the host is known by the token before anything is sent, and proves nothing else. */
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { once } from 'node:events'
import { connect, type TLSSocket } from 'node:tls'
import { VmsealError, isVmsealError } from '../errors.js'
import { fromErrorMessage, type ErrorMessage } from './error-message.js'
import { proveJoin, readJoinToken, type JoinGrant } from './join-token.js'
import type { JoinOffer } from './join-server.js'
import { malformed, parseMessage } from './message-text.js'
import { count, listOf, matching, object, text } from './shapes.js'
import { peerKeyHash } from './tls-identity.js'
import { isErrorMessage, joinPath, rpcVersions, uuidPattern, type HostAddress } from './wire.js'

/** Names a limit for each step of joining, in milliseconds. */
const stepMs = 15_000
const longestAnswer = 64 * 1024

/**
 * Joins the host at `address` to this vCenter: `grant` makes its certificate once it is known what it is. VMSEAL_JOIN_REFUSED
 * if the token is wrong, used or expired; VMSEAL_HOST_NOT_TRUSTED, before a byte is sent, if another key than the token's
 * answers; VMSEAL_HOST_UNREACHABLE.
 */
export async function joinHost(
  address: HostAddress,
  token: string,
  grant: (offer: JoinOffer) => Promise<JoinGrant>,
): Promise<JoinOffer> {
  const { keyHash, secret } = readJoinToken(token)
  const socket = await open(address, keyHash)
  try {
    const offer = await ask(socket, 'GET')
    if (!isOffer(offer)) throw malformed('it is no offer of a host')
    const { versions, hostId, name, request } = offer as JoinOffer
    if (!versions.some((version) => rpcVersions.includes(version)))
      throw new VmsealError('VMSEAL_RPC_VERSION')
    const granted = await grant({ versions, hostId, name, request })
    const proof = proveJoin(secret, granted, socket).toString('base64')
    const answer = await ask(socket, 'POST', JSON.stringify({ ...granted, proof }))
    if (!isJoined(answer)) throw malformed('it is no answer to a grant')
    return { versions, hostId, name, request }
  } catch (error) {
    if (isVmsealError(error)) throw error
    throw unreachable(address, error)
  } finally {
    secret.fill(0)
    socket.destroy()
  }
}

const isOffer = object({
  versions: listOf(count, 100),
  hostId: matching(uuidPattern),
  // eslint-disable-next-line no-control-regex
  name: matching(/^[^\0-\x1f\x7f]{1,200}$/),
  request: text(16 * 1024),
})
const isJoined = object({ joined: (value) => value === true })

/** No CA vouches for a host that waits: its public key does, and the token names it. */
async function open(address: HostAddress, keyHash: string): Promise<TLSSocket> {
  const socket = connect({ ...address, rejectUnauthorized: false, minVersion: 'TLSv1.3' })
  try {
    await once(socket, 'secureConnect', { signal: AbortSignal.timeout(stepMs) })
    socket.on('error', () => socket.destroy())
    if (peerKeyHash(socket) === keyHash) return socket
  } catch (error) {
    socket.destroy()
    throw unreachable(address, error)
  }
  socket.destroy()
  throw new VmsealError(
    'VMSEAL_HOST_NOT_TRUSTED',
    `${address.host}:${address.port} is not the host that made the token: it shows another public key`,
  )
}

async function ask(socket: TLSSocket, method: 'GET' | 'POST', body?: string): Promise<unknown> {
  const length = body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }
  const request = httpRequest({
    createConnection: () => socket,
    path: joinPath,
    method,
    headers: { host: 'vmseal', connection: 'keep-alive', ...length },
    signal: AbortSignal.timeout(stepMs),
  })
  request.end(body)
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  let received = ''
  response.setEncoding('utf8')
  for await (const chunk of response as AsyncIterable<string>) {
    received += chunk
    if (received.length > longestAnswer) throw malformed(`it is longer than ${longestAnswer} bytes`)
  }
  const message = parseMessage(received)
  const { error } = (message ?? {}) as { error?: unknown }
  if (error === undefined) return message
  if (!isErrorMessage(error)) throw malformed('it is no error')
  throw fromErrorMessage(error as ErrorMessage)
}

function unreachable({ host, port }: HostAddress, cause: unknown): VmsealError {
  const reason = cause instanceof Error ? cause.message : String(cause)
  return new VmsealError(
    'VMSEAL_HOST_UNREACHABLE',
    `the host at ${host}:${port} does not answer: ${reason}`,
    {
      cause,
    },
  )
}
