/** What the administrator says of a key provider, checked. */
import { isDeepStrictEqual } from 'node:util'
import { VmsealError } from '../../errors.js'
import type { KmsServerAddress } from '../../store/store.js'
import { requireName } from '../names.js'

/** How vCenter shows the KMS who it is, and knows the KMS. */
export interface KeyProviderCredentials {
  /** PEM of the authority that the KMS's certificate comes from. */
  readonly caCertificate: string
  /** PEM of the client certificate. */
  readonly certificate: string
  /** Its private key, a file. vCenter makes its own copy; the key is never read into JavaScript. */
  readonly privateKeyFile: string
}

export interface KeyProviderSpec {
  /** Written into VM files as the name of the provider. It never changes, and must be used again after a loss. */
  readonly id: string
  /** Replicas that serve the same keys, in the order in which they are tried. */
  readonly servers: KmsServerAddress | readonly KmsServerAddress[]
  /** Without them trust is set up step by step: `serverTrust` and `clientCertificates`. */
  readonly credentials?: KeyProviderCredentials
}

/** Throws VMSEAL_INVALID_ARGUMENT. */
export function requireCredentials(credentials: KeyProviderCredentials | undefined): KeyProviderCredentials {
  for (const field of ['caCertificate', 'certificate', 'privateKeyFile'] as const)
    if (typeof credentials?.[field] !== 'string')
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        `credentials.${field} of a key provider must be a string`,
      )
  return credentials as KeyProviderCredentials
}

/** Throws VMSEAL_INVALID_ARGUMENT, VMSEAL_ALREADY_EXISTS. */
export function requireServers(servers: KeyProviderSpec['servers']): KmsServerAddress[] {
  const list = Array.isArray(servers)
    ? (servers as readonly KmsServerAddress[])
    : [servers as KmsServerAddress]
  if (list.length === 0) throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'a key provider needs a server')
  const addresses = list.map(({ serverName, proxy, ...server }) => ({
    ...requireAddress('KMS', server),
    ...(serverName === undefined ? {} : { serverName }),
    ...(proxy === undefined ? {} : { proxy: requireAddress('proxy', proxy) }),
  }))
  for (const [index, { host, port }] of addresses.entries())
    if (addresses.slice(0, index).some((other) => isDeepStrictEqual([other.host, other.port], [host, port])))
      throw new VmsealError('VMSEAL_ALREADY_EXISTS', `${host}:${port} is given twice`, {
        details: { subject: `${host}:${port}` },
      })
  return addresses
}

function requireAddress(what: string, { host, port }: Pick<KmsServerAddress, 'host' | 'port'>) {
  const name = requireName(`${what} host`, host)
  if (!Number.isInteger(port) || port < 1 || port > 65535)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `port ${port} of ${what} ${name} is not 1 to 65535`)
  return { host: name, port }
}
