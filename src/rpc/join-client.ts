/** vCenter's side of joining: the host is known by the token before anything is sent, and proves nothing else. */
import { once } from 'node:events'
import { connect, type TLSSocket } from 'node:tls'
import { VmsealError, isVmsealError } from '../errors.js'
import { proveJoin, readJoinToken, type JoinGrant } from './join-token.js'
import type { JoinOffer } from './join-server.js'
import { malformed } from './message-text.js'
import { askOn, oneStepMs } from './one-socket.js'
import { count, listOf, matching, object, text } from './shapes.js'
import { peerKeyHash } from './tls-identity.js'
import { joinPath, rpcVersions, uuidPattern, type HostAddress } from './wire.js'

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
    const offer = await askOn(socket, { method: 'GET', path: joinPath })
    if (!isOffer(offer)) throw malformed('it is no offer of a host')
    const { versions, hostId, name, request } = offer as JoinOffer
    if (!versions.some((version) => rpcVersions.includes(version)))
      throw new VmsealError('VMSEAL_RPC_VERSION')
    const granted = await grant({ versions, hostId, name, request })
    const proof = proveJoin(secret, granted, socket).toString('base64')
    const answer = await askOn(socket, {
      method: 'POST',
      path: joinPath,
      body: JSON.stringify({ ...granted, proof }),
    })
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
    await once(socket, 'secureConnect', { signal: AbortSignal.timeout(oneStepMs) })
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
