/** Which event opens and which clears an alarm: a table, one entry for each event that does. Pure. */
import type { AlarmEntity, AlarmKind } from '../store/store.js'
import type { VCenterEvent, VCenterEventDetails, VCenterEventId } from './events.js'

export type AlarmChange =
  | {
      readonly to: 'yellow' | 'red'
      readonly kind: AlarmKind
      readonly entity: AlarmEntity
      readonly message: string
    }
  | { readonly to: 'green'; readonly kind: AlarmKind; readonly entity: AlarmEntity }

/** What an event means for alarms; most mean nothing. */
export function alarmChanges(event: VCenterEvent): readonly AlarmChange[] {
  const rule = rules[event.id] as ((details: VCenterEvent['details']) => readonly AlarmChange[]) | undefined
  return rule ? rule(event.details) : []
}

const vm = (name: string): AlarmEntity => ({ type: 'vm', name })
const hostOf = (name: string): AlarmEntity => ({ type: 'host', name })
const provider = (name: string): AlarmEntity => ({ type: 'keyProvider', name })
const server = (providerId: string, name: string): AlarmEntity => ({
  type: 'kmsServer',
  name: `${providerId} ${name}`,
})

const open = (
  to: 'yellow' | 'red',
  kind: AlarmKind,
  entity: AlarmEntity,
  message: string,
): readonly AlarmChange[] => [{ to, kind, entity, message }]
const clear = (entity: AlarmEntity, ...kinds: AlarmKind[]): readonly AlarmChange[] =>
  kinds.map((kind) => ({ to: 'green', kind, entity }))

const locked = (details: VCenterEventDetails['com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost']) => {
  const home = details.reasons.find(({ parts }) => parts.includes('home'))
  return open(
    'red',
    'vm.locked',
    vm(details.vm),
    home ? `${home.message}. ${home.action}` : 'the VM is locked',
  )
}
const needsMode = ({ host, message }: { readonly host: string; readonly message: string }) =>
  open('red', 'host.needsEncryptionMode', hostOf(host), message)
const expiry = ({ daysToExpiry, notAfter }: { readonly daysToExpiry: number; readonly notAfter: string }) =>
  daysToExpiry < 0
    ? (['red', `the certificate expired at ${notAfter}`] as const)
    : (['yellow', `the certificate expires in ${daysToExpiry} days, at ${notAfter}`] as const)

const rules: {
  readonly [Id in VCenterEventId]?: (details: VCenterEventDetails[Id]) => readonly AlarmChange[]
} = {
  'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost': locked,
  'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnKMS': locked,
  'com.vmware.vc.vm.Crypto.VMLocked.KMSClusterError': locked,
  'com.vmware.vc.vm.Crypto.VMUnlocked': (details) => clear(vm(details.vm), 'vm.locked'),
  'com.vmware.vc.vm.crypto.RekeyFail': (details) =>
    open('yellow', 'vm.recrypt', vm(details.vm), `a recrypt failed (${details.error}): do it again`),
  'com.vmware.vc.vm.crypto.DiskchainUsingMixedKeys': (details) =>
    open('yellow', 'vm.recrypt', vm(details.vm), 'its parts are under old and new keys: recrypt it again'),
  'com.vmware.vc.vm.crypto.NoDiskSpace': (details) =>
    open(
      'yellow',
      'vm.noSpace',
      vm(details.vm),
      'its datastore has no room for a copy: free space, and do it again',
    ),
  'com.vmware.vc.crypto.Operation': ({ outcome, operation, vm: name }) =>
    outcome !== 'success'
      ? []
      : clear(vm(name), 'vm.noSpace', ...(operation === 'recrypt' ? (['vm.recrypt'] as const) : [])),
  'vmseal.vm.crypto.ConversionInterrupted': ({ vm: name, disks }) =>
    open(
      'yellow',
      'vm.conversion',
      vm(name),
      `${disks.map(({ device, mode }) => `${device} (${mode})`).join(', ')} in conversion and nothing works on it; the VM stays off. Go on: vmseal vm resume-conversion ${name}`,
    ),
  'vmseal.vm.crypto.ConversionEnded': ({ vm: name }) => clear(vm(name), 'vm.conversion'),
  'vim.event.VmRemovedEvent': ({ vm: name }) =>
    clear(vm(name), 'vm.locked', 'vm.recrypt', 'vm.noSpace', 'vm.conversion'),
  'com.vmware.vc.host.Crypto.ReqEnable.KeyMissingOnKMS': needsMode,
  'com.vmware.vc.host.Crypto.ReqEnable.KMSClusterError': needsMode,
  'com.vmware.vc.host.Crypto.Enabled': ({ host }) => clear(hostOf(host), 'host.needsEncryptionMode'),
  'com.vmware.vc.host.Crypto.HostCryptoDisabled': ({ host }) =>
    clear(hostOf(host), 'host.needsEncryptionMode', 'host.refusesKeys'),
  'com.vmware.vc.host.Crypto.HostKey.NewKey.KeyMissingOnKMS': ({ host, lost }) =>
    open(
      'yellow',
      'host.hostKeyReplaced',
      hostOf(host),
      `its host key ${lost.keyId} is gone from the KMS: older dumps need that key`,
    ),
  'com.vmware.vc.host.Crypto.SendKeyError.HostError': ({ host, keyId, error }) =>
    open('yellow', 'host.refusesKeys', hostOf(host), `key ${keyId} could not be sent to it (${error})`),
  'vmseal.host.crypto.KeyPushed': ({ host, providerId }) => [
    ...clear(hostOf(host), 'host.refusesKeys'),
    ...clear(provider(providerId), 'keyProvider.unreachable'),
  ],
  'vim.event.HostConnectionLostEvent': ({ host, message }) =>
    open('red', 'host.connection', hostOf(host), message),
  'vim.event.HostConnectedEvent': ({ host }) => clear(hostOf(host), 'host.connection'),
  'vmseal.host.certificate.RenewalFailed': ({ host, expires, message }) =>
    open(
      'yellow',
      'host.certificate',
      hostOf(host),
      `its certificate ends at ${expires} and could not be renewed: ${message}`,
    ),
  'vmseal.host.certificate.Renewed': ({ host }) => clear(hostOf(host), 'host.certificate'),
  'vim.event.HostRemovedEvent': ({ host }) =>
    clear(
      hostOf(host),
      'host.connection',
      'host.certificate',
      'host.needsEncryptionMode',
      'host.refusesKeys',
      'host.hostKeyReplaced',
    ),
  'com.vmware.vc.kms.crypto.Unreachable': ({ providerId, message }) =>
    open('red', 'keyProvider.unreachable', provider(providerId), message),
  'vmseal.kms.crypto.Reachable': ({ providerId }) => clear(provider(providerId), 'keyProvider.unreachable'),
  'vmseal.kms.crypto.KeyCreated': ({ providerId }) => clear(provider(providerId), 'keyProvider.unreachable'),
  'vmseal.kms.crypto.ServerNotTrusted': ({ providerId, server: name, message }) =>
    open('red', 'keyProvider.notTrusted', server(providerId, name), message),
  'vmseal.kms.crypto.ServerTrusted': ({ providerId, server: name }) =>
    clear(server(providerId, name), 'keyProvider.notTrusted'),
  'com.vmware.vc.vecs.KMSClientCertExpirationEvent': (details) => {
    const [to, message] = expiry(details)
    return open(to, 'keyProvider.clientCertificate', provider(details.providerId), message)
  },
  'com.vmware.vc.vecs.KMSServerCertExpirationEvent': (details) => {
    const [to, message] = expiry(details)
    return open(to, 'keyProvider.serverCertificate', server(details.providerId, details.server), message)
  },
  'vmseal.kms.crypto.CertificateRenewed': ({ providerId, server: name }) =>
    name === undefined
      ? clear(provider(providerId), 'keyProvider.clientCertificate')
      : clear(server(providerId, name), 'keyProvider.serverCertificate'),
}
