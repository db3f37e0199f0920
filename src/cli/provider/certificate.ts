/** `vmseal provider certificate`: how a KMS comes to trust vCenter. */
import { resolve } from 'node:path'
import { readText } from '../arguments.js'
import { verb } from '../verb/verb.js'

interface Values {
  readonly provider: string
  readonly commonName?: string
}

interface Pem {
  readonly pem: string | null
}

const commonName = ['--common-name <name>', 'subject of the certificate (default: vmseal vCenter)'] as const
const theProvider = ['<provider>', 'id of the key provider'] as const
const named = ({ commonName: name }: Values): { commonName?: string } =>
  name === undefined ? {} : { commonName: name }
const showPem = ({ pem }: Pem): string => pem?.trim() ?? 'no certificate yet'

export const certificateShow = verb<Values, Pem>({
  name: 'provider certificate show',
  summary: 'Print the certificate (PEM) that is shown to the KMS now.',
  declare: (command) => command.argument(...theProvider),
  run: async ({ vcenter }, { provider }) => ({
    pem: await vcenter.keyProviders.clientCertificates.get(provider),
  }),
  show: showPem,
})

export const certificateRequest = verb<Values, Pem>({
  name: 'provider certificate request',
  summary: 'Make a key, which stays here, and print a signing request (PEM) for the authority of the KMS.',
  help: 'Then: vmseal kms enrol vcenter --request FILE, or what other KMS have for it, and vmseal provider certificate install.',
  declare: (command) => command.argument(...theProvider).option(...commonName),
  run: async ({ vcenter }, values) => ({
    pem: await vcenter.keyProviders.clientCertificates.generateRequest(values.provider, named(values)),
  }),
  show: showPem,
})

export const certificateInstall = verb<Values & { readonly file: string; readonly pem?: string }, Values>({
  name: 'provider certificate install',
  summary: 'Take the answer to the last request into use.',
  declare: (command) => command.argument(...theProvider).argument('<file>', 'the signed certificate (PEM)'),
  prepare: (values) => ({ ...values, pem: readText(values.file) }),
  run: async ({ vcenter }, { provider, pem = '' }) => {
    await vcenter.keyProviders.clientCertificates.installSigned(provider, pem)
    return { provider }
  },
  show: inUse,
})

export const certificateSelfSigned = verb<Values, Pem>({
  name: 'provider certificate self-signed',
  summary: 'Make a key, which stays here, and print its self-signed certificate (PEM) for the KMS to pin.',
  help: 'Then: vmseal kms enrol vcenter --certificate FILE, or what other KMS have for it, and vmseal provider certificate use.',
  declare: (command) => command.argument(...theProvider).option(...commonName),
  run: async ({ vcenter }, values) => ({
    pem: await vcenter.keyProviders.clientCertificates.generateSelfSigned(values.provider, named(values)),
  }),
  show: showPem,
})

export const certificateUse = verb<Values, Values>({
  name: 'provider certificate use',
  summary: 'Take the last self-signed certificate into use.',
  declare: (command) => command.argument(...theProvider),
  run: async ({ vcenter }, { provider }) => {
    await vcenter.keyProviders.clientCertificates.useSelfSigned(provider)
    return { provider }
  },
  show: inUse,
})

interface UploadValues extends Values {
  readonly certificate: string
  readonly key: string
  readonly pem?: string
}

export const certificateUpload = verb<UploadValues, Values>({
  name: 'provider certificate upload',
  summary: 'Use a pair that the KMS issued; vCenter makes its own copy of the key file.',
  declare: (command) =>
    command
      .argument(...theProvider)
      .requiredOption('--certificate <file>', 'certificate of the client (PEM)')
      .requiredOption('--key <file>', 'private key of the client'),
  prepare: (values) => ({ ...values, pem: readText(values.certificate), key: resolve(values.key) }),
  run: async ({ vcenter }, { provider, pem = '', key }) => {
    await vcenter.keyProviders.clientCertificates.upload(provider, { certificate: pem, privateKeyFile: key })
    return { provider }
  },
  show: inUse,
})

export const certificateAuthority = verb<object, Pem>({
  name: 'provider certificate authority',
  summary: 'Print the authority (PEM) of this vCenter for its own client certificates, for the KMS to trust.',
  help: 'Then: vmseal kms trust-authority FILE, or what other KMS have for it, and vmseal provider certificate issue.',
  run: async ({ vcenter }) => ({ pem: await vcenter.keyProviders.clientCertificates.authority() }),
  show: showPem,
})

export const certificateIssue = verb<Values, Pem>({
  name: 'provider certificate issue',
  summary: 'Make a key and its certificate under the authority of this vCenter, and take them into use.',
  declare: (command) => command.argument(...theProvider).option(...commonName),
  run: async ({ vcenter }, values) => ({
    pem: await vcenter.keyProviders.clientCertificates.useIssued(values.provider, named(values)),
  }),
  show: showPem,
})

function inUse({ provider }: Values): string {
  return `${provider} is shown the new certificate from now on: vmseal provider status ${provider}`
}
