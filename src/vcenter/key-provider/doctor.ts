/**
 * Walks the way from here to a key, hop by hop, and says where it ends and what to do. The status of a server is the
 * first half of the same way.
 */
import { isVmsealError, type VmsealError } from '../../errors.js'
import type { KmsServerAddress } from '../../store/store.js'
import { DistrustError, type ServerIdentity } from './dialer.js'
import { hops, Walk, type DoctorHop } from './doctor-walk.js'
import { serverName } from './server.js'
import { acceptedCertificates } from './server-trust.js'
import { requireCredentials, requireServers } from './spec.js'
import type { KeyProviderCredentials } from './spec.js'
import { defaultTiming, type KeyProviderTiming } from './timing.js'

export type { DoctorHop } from './doctor-walk.js'

export interface HopReport {
  readonly hop: DoctorHop
  readonly ok: boolean
  /** What was seen, or why it failed. */
  readonly detail: string
  /** What to do about a failure. */
  readonly action?: string
  readonly milliseconds: number
}

export interface ServerDiagnosis {
  /** `host:port`. */
  readonly server: string
  readonly ok: boolean
  /** Those that were reached; the last one is where it broke. */
  readonly hops: readonly HopReport[]
  /** Name of the test key, if it may still be at the KMS. */
  readonly leftBehind?: string
}

/** `last`: the hop to stop after. Never rejects for what the server does. */
export async function diagnose(
  server: KmsServerAddress,
  identity: ServerIdentity,
  timing: KeyProviderTiming,
  last: DoctorHop = 'destroy',
): Promise<ServerDiagnosis> {
  const walk = new Walk(server, identity, timing)
  const reports: HopReport[] = []
  let leftBehind: string | undefined
  try {
    for (const hop of hops.slice(0, hops.indexOf(last) + 1)) {
      const begin = performance.now()
      const outcome = await walk.take(hop).then(
        (detail) => ({ ok: true, detail }),
        (error: unknown) => failed(hop, error),
      )
      reports.push({ hop, ...outcome, milliseconds: Math.round((performance.now() - begin) * 10) / 10 })
      if (!outcome.ok) break
    }
  } finally {
    leftBehind = await walk.end()
  }
  return {
    server: serverName(server),
    ok: reports.every((report) => report.ok),
    hops: reports,
    ...(leftBehind === undefined ? {} : { leftBehind }),
  }
}

/** The same for a server that no provider has yet. Throws VMSEAL_INVALID_ARGUMENT. */
export function diagnoseUnregistered(
  server: KmsServerAddress,
  credentials: KeyProviderCredentials,
  timing: KeyProviderTiming = defaultTiming,
): Promise<ServerDiagnosis> {
  const { caCertificate, certificate, privateKeyFile } = requireCredentials(credentials)
  const [address = server] = requireServers(server)
  const accepted = acceptedCertificates(caCertificate, [], address)
  return diagnose(address, { accepted, certificate, privateKeyFile }, timing)
}

const actions: Readonly<Record<DoctorHop, string>> = {
  dns: 'Correct the host name of the server, or the resolver of this machine.',
  tcp: 'Check that the KMS runs, its port (KMIP: 5696), and the firewalls between here and there.',
  tls: 'Fetch the certificate of the server, compare it with what its administrator reads out, and trust it, or give the authority it is under. Its name must be the host name or serverName. TLS 1.2 or 1.3 with ECDHE and AES-GCM or ChaCha20 is needed.',
  'client trust':
    'Make the client certificate known at the KMS (pin it, sign the request, or upload its authority) and let the client use KMIP there.',
  versions: 'Use a KMS that speaks KMIP 1.0 to 1.4, 2.0 or 2.1.',
  create: 'Let the client create AES-256 keys with a Name at the KMS.',
  get: 'Let the client get its own keys at the KMS, unwrapped.',
  compare: 'The KMS hands out different keys for one id: take it out of service.',
  destroy: 'Let the client destroy its own keys at the KMS.',
}

function failed(hop: DoctorHop, error: unknown): { ok: false; detail: string; action: string } {
  const cause: unknown = error instanceof DistrustError ? error.reason : error
  const detail = cause instanceof Error ? cause.message : String(cause)
  return { ok: false, detail, action: isPairFault(cause) ? cause.action : actions[hop] }
}

function isPairFault(error: unknown): error is VmsealError {
  return isVmsealError(error, 'VMSEAL_CERTIFICATE_INVALID')
}
