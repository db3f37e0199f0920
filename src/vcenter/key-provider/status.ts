/** How the servers of a provider are, with the vSphere colours. */
import { isVmsealError } from '../../errors.js'
import { native } from '../../native/load.js'
import type { KmsServerAddress } from '../../store/store.js'
import { describeForPeople, dueWarning, type CertificateInfo } from './certificate-info.js'
import { diagnose } from './doctor.js'
import type { ServerIdentity } from './dialer.js'
import type { KeyProviderTiming } from './timing.js'

/** `red`: does not serve. `yellow`: serves, and something wants attention. */
export type StatusColour = 'green' | 'yellow' | 'red'

export interface KmsServerStatus {
  /** `host:port`. */
  readonly server: string
  readonly status: StatusColour
  readonly reachable: boolean
  /** Absent: it could not be found out. */
  readonly clientTrustServer?: boolean
  /** Absent: it could not be found out. */
  readonly serverTrustClient?: boolean
  /** What the server shows now, trusted or not. */
  readonly certificate?: CertificateInfo
  /** Why it is not green. */
  readonly reason?: string
}

export interface KeyProviderStatus {
  readonly id: string
  /** Green when every server is; red when none serves. */
  readonly status: StatusColour
  readonly servers: readonly KmsServerStatus[]
  readonly clientCertificate?: CertificateInfo
}

export async function serverStatus(
  server: KmsServerAddress,
  identity: ServerIdentity,
  timing: KeyProviderTiming,
  now: Date,
): Promise<KmsServerStatus> {
  const [{ hops: reports, server: name }, certificate] = await Promise.all([
    diagnose(server, identity, timing, 'client trust'),
    fetchInfo(server, timing, now),
  ])
  const state = (hop: string): boolean | undefined => reports.find((report) => report.hop === hop)?.ok
  const broken = reports.find((report) => !report.ok)
  const expiring = certificate && dueWarning(certificate) !== undefined
  const clientTrustServer = state('tls')
  const serverTrustClient = state('client trust')
  const reason = broken
    ? `${broken.hop}: ${broken.detail}`
    : expiring
      ? `the certificate of the server expires in ${certificate.daysToExpiry} days`
      : undefined
  return {
    server: name,
    status: broken ? 'red' : expiring ? 'yellow' : 'green',
    reachable: state('tcp') === true,
    ...(clientTrustServer === undefined ? {} : { clientTrustServer }),
    ...(serverTrustClient === undefined ? {} : { serverTrustClient }),
    ...(certificate ? { certificate } : {}),
    ...(reason === undefined ? {} : { reason }),
  }
}

export function overallStatus(
  servers: readonly KmsServerStatus[],
  clientCertificate: CertificateInfo | undefined,
): StatusColour {
  if (servers.every(({ status }) => status === 'red')) return 'red'
  const expiring = clientCertificate && dueWarning(clientCertificate) !== undefined
  return expiring || servers.some(({ status }) => status !== 'green') ? 'yellow' : 'green'
}

async function fetchInfo(
  { host, port, proxy }: KmsServerAddress,
  { connectTimeoutMs }: KeyProviderTiming,
  now: Date,
): Promise<CertificateInfo | undefined> {
  try {
    return describeForPeople(await native.fetchServerCertificate(host, port, connectTimeoutMs, proxy), now)
  } catch (error) {
    if (isVmsealError(error)) return undefined
    throw error
  }
}
