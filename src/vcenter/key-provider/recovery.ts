/** What an alarm was open about and is right again, seen when the servers of a provider were asked. */
import type { AlarmKind, AlarmTable } from '../../store/store.js'
import type { EventLog } from '../events.js'
import { dueWarning, type CertificateInfo } from './certificate-info.js'
import type { KmsServerStatus } from './status.js'

interface SeenProvider {
  readonly providerId: string
  readonly client: CertificateInfo | undefined
  readonly servers: readonly KmsServerStatus[]
}

export async function tellRecovery(
  alarms: Pick<AlarmTable, 'list'>,
  events: EventLog,
  { providerId, client, servers }: SeenProvider,
): Promise<void> {
  const open = await alarms.list()
  const isOpen = (kind: AlarmKind, name: string): boolean =>
    open.some((alarm) => alarm.kind === kind && alarm.entity.name === name)
  if (servers.some(({ status }) => status !== 'red') && isOpen('keyProvider.unreachable', providerId))
    await events.append('vmseal.kms.crypto.Reachable', { providerId })
  if (client && dueWarning(client) === undefined && isOpen('keyProvider.clientCertificate', providerId))
    await events.append('vmseal.kms.crypto.CertificateRenewed', { providerId })
  for (const { server, clientTrustServer, certificate } of servers) {
    const name = `${providerId} ${server}`
    if (clientTrustServer && isOpen('keyProvider.notTrusted', name))
      await events.append('vmseal.kms.crypto.ServerTrusted', { providerId, server })
    if (certificate && dueWarning(certificate) === undefined && isOpen('keyProvider.serverCertificate', name))
      await events.append('vmseal.kms.crypto.CertificateRenewed', { providerId, server })
  }
}
