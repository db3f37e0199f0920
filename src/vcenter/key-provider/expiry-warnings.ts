/** Events 60, 30 and 7 days before a certificate of a key provider expires. */
import type { Store } from '../../store/store.js'
import type { EventLog } from '../events.js'
import { dueWarning, type CertificateInfo } from './certificate-info.js'
import type { KmsServerStatus } from './status.js'

interface ProviderCertificates {
  readonly providerId: string
  readonly client: CertificateInfo | undefined
  readonly servers: readonly KmsServerStatus[]
}

/** Each warning once for each certificate, also over restarts. */
export async function warnOfExpiry(
  trust: Store['keyProviderTrust'],
  events: EventLog,
  { providerId, client, servers }: ProviderCertificates,
): Promise<void> {
  const isNews = async (certificate: CertificateInfo): Promise<boolean> => {
    const days = dueWarning(certificate)
    // The same key may be in the certificate that follows.
    const name = `${certificate.keyHash} ${certificate.notAfter}`
    return days !== undefined && trust.noteWarning(name, days)
  }
  if (client && (await isNews(client)))
    await events.append('com.vmware.vc.vecs.KMSClientCertExpirationEvent', {
      providerId,
      daysToExpiry: client.daysToExpiry,
      notAfter: client.notAfter,
    })
  for (const { server, certificate } of servers)
    if (certificate && (await isNews(certificate)))
      await events.append('com.vmware.vc.vecs.KMSServerCertExpirationEvent', {
        providerId,
        server,
        daysToExpiry: certificate.daysToExpiry,
        notAfter: certificate.notAfter,
      })
}
