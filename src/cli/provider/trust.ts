/** `vmseal provider status`, `trust` and `distrust`: how the servers are, and how vCenter comes to trust them. */
import { VmsealError } from '../../errors.js'
import type { CertificateInfo } from '../../vcenter/key-provider/certificate-info.js'
import type { KeyProviderStatus } from '../../vcenter/key-provider/status.js'
import { address, readText, type Address } from '../arguments.js'
import { facts, table } from '../output.js'
import { verb } from '../verb/verb.js'
import { addressText } from './server.js'

interface Values {
  readonly provider: string
}

export const providerStatus = verb<Values, KeyProviderStatus>({
  name: 'provider status',
  summary:
    'Ask every server of a key provider whether it serves, and look at the certificates of both sides.',
  cmdlets: ['Get-KeyManagementServer'],
  declare: (command) => command.argument('<provider>', 'id of the key provider'),
  run: ({ vcenter }, { provider }) => vcenter.keyProviders.status(provider),
  holds: ({ status }) => status === 'green',
  show: ({ id, status, servers, clientCertificate }) =>
    [
      facts({
        provider: id,
        status,
        'client certificate': clientCertificate && validText(clientCertificate),
      }),
      '',
      table(
        ['SERVER', 'STATUS', 'TRUSTED', 'TRUSTS US', 'CERTIFICATE', 'REASON'],
        servers.map((server) => [
          server.server,
          server.status,
          yesNo(server.clientTrustServer),
          yesNo(server.serverTrustClient),
          server.certificate ? validText(server.certificate) : '',
          server.reason ?? '',
        ]),
      ),
    ].join('\n'),
})

interface TrustValues extends Values {
  readonly server: Address
  readonly fingerprint?: string
  readonly certificate?: string
  /** What is in the file. */
  readonly pem?: string
}

interface Trust {
  readonly server: string
  readonly trusted: boolean
  readonly certificate: CertificateInfo
}

export const providerTrust = verb<TrustValues, Trust>({
  name: 'provider trust',
  summary: 'Show the certificate of a server, and trust it when its fingerprint is the one that you give.',
  help: `The fingerprint is the SHA-256 of the public key of the server. Take it from its certificate at the KMS, not from here:
  openssl x509 -in server.pem -noout -pubkey | openssl pkey -pubin -outform der | sha256sum
From then on only what was trusted so is accepted. Status 1: it is shown, and not trusted.

Examples:
  vmseal provider trust kms-1 kms.example.com:5696                       look
  vmseal provider trust kms-1 kms.example.com:5696 --fingerprint 3f0c…   trust
  vmseal provider trust kms-1 kms.example.com:5696 --certificate kms.pem`,
  declare: (command) =>
    command
      .argument('<provider>', 'id of the key provider')
      .argument('<server>', 'host:port of one of its servers', address)
      .option('--fingerprint <hash>', 'hex SHA-256 of the public key of the server')
      .option('--certificate <file>', 'trust this certificate (PEM) instead of what the server shows'),
  prepare: (values) => {
    if (values.certificate === undefined) return values
    if (values.fingerprint !== undefined)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'give --fingerprint or --certificate')
    return { ...values, pem: readText(values.certificate) }
  },
  run: async ({ vcenter }, { provider, server, fingerprint, pem }) => {
    const { serverTrust } = vcenter.keyProviders
    if (pem !== undefined) await serverTrust.trust(provider, server, pem)
    const { certificate, info, trusted } = await serverTrust.fetch(provider, server)
    const matches = fingerprint?.replaceAll(':', '').toLowerCase() === info.keyHash
    if (fingerprint !== undefined && !matches)
      throw new VmsealError(
        'VMSEAL_CERTIFICATE_INVALID',
        `${addressText(server)} shows the key ${info.keyHash}, not the one of the fingerprint: nothing is trusted. Find out who answers there`,
        { details: { subject: addressText(server) } },
      )
    if (matches && !trusted) await serverTrust.trust(provider, server, certificate)
    return { server: addressText(server), trusted: trusted || matches, certificate: info }
  },
  holds: ({ trusted }) => trusted,
  show: ({ server, trusted, certificate }) =>
    facts({
      server,
      trusted: trusted ? 'yes' : 'no: compare the fingerprint at the KMS, then give it with --fingerprint',
      subject: certificate.subject,
      issuer: certificate.issuer,
      valid: validText(certificate),
      fingerprint: certificate.keyHash,
    }),
})

export const providerDistrust = verb<Values & { readonly server: Address }, { readonly server: string }>({
  name: 'provider distrust',
  summary: 'Forget every certificate that was trusted for a server.',
  declare: (command) =>
    command
      .argument('<provider>', 'id of the key provider')
      .argument('<server>', 'host:port of one of its servers', address),
  run: async ({ vcenter }, { provider, server }) => {
    await vcenter.keyProviders.serverTrust.distrust(provider, server)
    return { server: addressText(server) }
  },
  show: ({ server }) => `no certificate of ${server} is trusted by itself any more`,
})

function validText({ daysToExpiry, notAfter }: CertificateInfo): string {
  return daysToExpiry < 0 ? `EXPIRED ${notAfter}` : `until ${notAfter} (${daysToExpiry} days)`
}

function yesNo(value: boolean | undefined): string {
  return value === undefined ? '?' : value ? 'yes' : 'NO'
}
