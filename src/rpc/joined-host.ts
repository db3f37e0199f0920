/** Recognises a host that has a certificate of this vCenter already, whatever became of the answer that said so. */
import { once } from 'node:events'
import { connect, createSecureContext } from 'node:tls'
import { keyHashOf, withTlsOptions, type LinkCredentials } from './tls-identity.js'
import { hostCertificateName, uuidPattern, type HostAddress } from './wire.js'

const connectMs = 5000

/** Undefined: nobody answers there with a certificate of this CA. */
export async function findJoinedHost(
  address: HostAddress,
  credentials: LinkCredentials,
): Promise<{ hostId: string; keyHash: string } | undefined> {
  const secureContext = withTlsOptions(credentials, createSecureContext)
  // Which host it is, is read from the certificate; the CA vouches for that.
  const socket = connect({ ...address, secureContext, checkServerIdentity: () => undefined })
  try {
    await once(socket, 'secureConnect', { signal: AbortSignal.timeout(connectMs) })
    const certificate = socket.getPeerX509Certificate()
    const hostId = certificate?.subjectAltName?.replace(/^DNS:/, '').replace(/\.host\.vmseal$/, '') ?? ''
    if (!certificate || !uuidPattern.test(hostId)) return undefined
    if (certificate.checkHost(hostCertificateName(hostId)) === undefined) return undefined
    return { hostId, keyHash: keyHashOf(certificate) }
  } catch {
    return undefined
  } finally {
    socket.on('error', () => {})
    socket.destroy()
  }
}
