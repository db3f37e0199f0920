/** How vCenter comes to trust a KMS: its certificate is fetched, shown to a person, and trusted by name and key. */
import { VmsealError } from '../../errors.js'
import { native } from '../../native/load.js'
import type { KeyProviderTrustTable, KmsServerAddress, TrustedServer } from '../../store/store.js'
import { describeForPeople, type CertificateInfo } from './certificate-info.js'
import type { ProviderRegistration } from './registration.js'
import { defaultTiming } from './timing.js'

export interface FetchedCertificate {
  /** PEM chain, the server's own certificate first. */
  readonly certificate: string
  readonly info: CertificateInfo
  /** It is the one that was trusted before. */
  readonly trusted: boolean
}

export class ServerTrust {
  readonly #registration: ProviderRegistration
  readonly #table: KeyProviderTrustTable
  readonly #clock: () => Date

  /** @internal */
  constructor(registration: ProviderRegistration, table: KeyProviderTrustTable, clock: () => Date) {
    this.#registration = registration
    this.#table = table
    this.#clock = clock
  }

  /** What the server shows now, without trusting it; nothing is sent to it. VMSEAL_KMIP_CONNECTION and the like. */
  async fetch(providerId: string, server: KmsServerAddress): Promise<FetchedCertificate> {
    const { host, port, proxy } = await this.#require(providerId, server)
    const { connectTimeoutMs } = defaultTiming
    const certificate = await native.fetchServerCertificate(host, port, connectTimeoutMs, proxy)
    const info = describeForPeople(certificate, this.#clock())
    const known = await this.list(providerId, server)
    return { certificate, info, trusted: known.some((entry) => entry.keyHash === info.keyHash) }
  }

  /**
   * Trusts this certificate (PEM, with its issuers if it is not self-signed) for this server, and from now on only what
   * was trusted so. One more can be trusted before the server changes to it.
   */
  async trust(providerId: string, server: KmsServerAddress, certificate: string): Promise<void> {
    const { host, port } = await this.#require(providerId, server)
    const { keyHash } = native.describeCertificate(certificate)
    const trustedAt = this.#clock().toISOString()
    await this.#table.trustServer({ providerId, host, port, certificate, keyHash, trustedAt })
    await this.#registration.reopen(providerId)
  }

  /** Forgets every certificate that was trusted for this server. */
  async distrust(providerId: string, server: KmsServerAddress): Promise<void> {
    const { host, port } = await this.#require(providerId, server)
    await this.#table.distrustServer(providerId, host, port)
    await this.#registration.reopen(providerId)
  }

  async list(providerId: string, server: KmsServerAddress): Promise<TrustedServer[]> {
    return ofServer(await this.#table.listServers(providerId), server)
  }

  async #require(providerId: string, { host, port }: KmsServerAddress): Promise<KmsServerAddress> {
    const { servers } = await this.#registration.record(providerId)
    const found = servers.find((server) => server.host === host && server.port === port)
    if (found) return found
    throw new VmsealError('VMSEAL_NOT_FOUND', `key provider ${providerId} has no server ${host}:${port}`, {
      details: { subject: `${host}:${port}` },
    })
  }
}

/** Whom a connection to one server accepts. */
export interface AcceptedCertificates {
  /** PEM: the chain must end in one of these. */
  readonly authorities: string
  /** Hex SHA-256 of public keys: the server must have one of these; empty for any under the authorities. */
  readonly keyHashes: readonly string[]
}

export function acceptedCertificates(
  caCertificate: string,
  trusted: readonly TrustedServer[],
  server: KmsServerAddress,
): AcceptedCertificates {
  const own = ofServer(trusted, server)
  return {
    authorities: [caCertificate, ...own.map((entry) => entry.certificate)]
      .filter((pem) => pem !== '')
      .join('\n'),
    keyHashes: own.map((entry) => entry.keyHash),
  }
}

function ofServer(trusted: readonly TrustedServer[], { host, port }: KmsServerAddress): TrustedServer[] {
  return trusted.filter((entry) => entry.host === host && entry.port === port)
}
