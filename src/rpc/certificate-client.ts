/**
 * vCenter's side of the renewal of a host's certificate: the host makes another key, vCenter signs for it. The host is known
 * before anything is sent, by the public key and id that it has now.
 */
import { once } from 'node:events'
import { connect, createSecureContext, type TLSSocket } from 'node:tls'
import { VmsealError, isVmsealError } from '../errors.js'
import { malformed } from './message-text.js'
import { askOn, oneStepMs } from './one-socket.js'
import { object, text } from './shapes.js'
import { keyHashOf, readCertificate, withTlsOptions, type LinkCredentials } from './tls-identity.js'
import { certificatePath, hostCertificateName, rpcPath, rpcVersions, type HostAddress } from './wire.js'

export interface RenewalPeer {
  readonly address: HostAddress
  readonly hostId: string
  /** Hex SHA-256 of the public keys that the host may show. */
  readonly keyHashes: ReadonlySet<string>
  readonly credentials: LinkCredentials
  /** Take a host whose certificate is too old and otherwise right; on somebody's order only. */
  readonly expiredToo?: boolean
}

/**
 * Has the host take another certificate; `sign` makes it of the host's signing request, and is told the hash of the public key
 * that the host shows now. VMSEAL_HOST_CERTIFICATE_EXPIRED,
 * VMSEAL_HOST_NOT_TRUSTED, VMSEAL_HOST_UNREACHABLE, VMSEAL_RPC_VERSION of a host that renews none.
 */
export async function renewHostCertificate(
  peer: RenewalPeer,
  sign: (request: string, shownKeyHash: string) => Promise<string>,
): Promise<void> {
  const path = `${rpcPath}/${rpcVersions.at(-1)}/${certificatePath}`
  const { socket, keyHash } = await open(peer)
  try {
    const answer = await askOn(socket, { method: 'POST', path: `${path}/request`, body: '{}' })
    if (!isRequest(answer)) throw malformed('it is no signing request')
    const certificate = await sign((answer as { result: string }).result, keyHash)
    await askOn(socket, { method: 'POST', path, body: JSON.stringify({ certificate }) })
  } catch (error) {
    if (isVmsealError(error)) throw error
    throw unreachable(peer, error)
  } finally {
    socket.destroy()
  }
}

const isRequest = object({ result: text(16 * 1024) })

async function open(peer: RenewalPeer): Promise<{ socket: TLSSocket; keyHash: string }> {
  const { address, hostId, credentials } = peer
  const secureContext = withTlsOptions(credentials, createSecureContext)
  // What is wrong with the certificate is looked at below: nothing has been sent by then.
  const socket = connect({
    ...address,
    secureContext,
    servername: hostCertificateName(hostId),
    rejectUnauthorized: false,
  })
  try {
    await once(socket, 'secureConnect', { signal: AbortSignal.timeout(oneStepMs) })
    socket.on('error', () => socket.destroy())
    return { socket, keyHash: requireHost(socket, peer) }
  } catch (error) {
    socket.on('error', () => {})
    socket.destroy()
    if (isVmsealError(error)) throw error
    throw unreachable(peer, error)
  }
}

/** The hash of the public key that it shows. */
function requireHost(socket: TLSSocket, peer: RenewalPeer): string {
  const { hostId, keyHashes, credentials, expiredToo } = peer
  const shown = socket.getPeerX509Certificate()
  const ca = readCertificate(credentials.caCertificate)
  const ours =
    shown !== undefined &&
    keyHashes.has(keyHashOf(shown)) &&
    shown.checkIssued(ca) &&
    shown.verify(ca.publicKey) &&
    shown.checkHost(hostCertificateName(hostId)) !== undefined
  const problem = socket.authorized ? undefined : String(socket.authorizationError)
  if (ours && (problem === undefined || (problem === expiredCode && expiredToo === true)))
    return keyHashOf(shown)
  if (ours && problem === expiredCode) throw expired(nameOf(peer), shown.validTo)
  throw new VmsealError(
    'VMSEAL_HOST_NOT_TRUSTED',
    `${nameOf(peer)} is not the host that was added, or has left this vCenter: ${problem ?? 'it shows another public key'}`,
  )
}

/** Of OpenSSL. */
export const expiredCode = 'CERT_HAS_EXPIRED'

export function expired(host: string, until?: string): VmsealError {
  return new VmsealError(
    'VMSEAL_HOST_CERTIFICATE_EXPIRED',
    `the certificate of ${host} has expired${until === undefined ? '' : ` at ${until}`}`,
  )
}

function nameOf({ address: { host, port } }: RenewalPeer): string {
  return `the host at ${host}:${port}`
}

function unreachable(peer: RenewalPeer, cause: unknown): VmsealError {
  const reason = cause instanceof Error ? cause.message : String(cause)
  return new VmsealError('VMSEAL_HOST_UNREACHABLE', `${nameOf(peer)} does not answer: ${reason}`, { cause })
}
