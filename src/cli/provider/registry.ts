/** `vmseal provider add`, `list`, `status`, `default`, `remove`, `add-server`, `remove-server` and `login`. */
import { resolve } from 'node:path'
import { VmsealError } from '../../errors.js'
import type { KmsServerAddress } from '../../store/store.js'
import type { KeyProviderInfo } from '../../vcenter/key-providers.js'
import type { KeyProviderCredentials } from '../../vcenter/key-provider/spec.js'
import { address, readFirstLine, type Address } from '../arguments.js'
import { clientCredentials } from '../client-credentials.js'
import { facts, tableOr } from '../output.js'
import { given, verb } from '../verb/verb.js'
import { addressText, collectServers } from './server.js'

interface AddValues {
  readonly id: string
  readonly server: readonly KmsServerAddress[]
  readonly serverName?: string
  readonly credentials?: string
  readonly ca?: string
  readonly certificate?: string
  readonly key?: string
  /** What is in the files. */
  readonly pair?: KeyProviderCredentials
}

export const providerAdd = verb<AddValues, KeyProviderInfo>({
  name: 'provider add',
  summary: 'Register a key provider: its servers, and how vCenter and they trust each other.',
  cmdlets: ['New-KeyProvider', 'Add-KeyProvider'],
  help: `The id is written into the files of VMs: it never changes. The first provider becomes the default. Without certificates
the trust is set up step by step: vmseal provider trust, vmseal provider certificate.

Examples:
  vmseal kms enrol vcenter --directory ./kms --output ./issued              at the KMS of vmseal
  vmseal provider add kms-1 --server kms.example.com:5696 --credentials ./issued
  vmseal provider doctor kms-1                                              the way to a key, hop by hop`,
  declare: (command) =>
    command
      .argument('<id>', 'name of the new key provider')
      .requiredOption(
        '--server <host:port>',
        'a server of it, in order of preference (may be repeated)',
        collectServers,
      )
      .option('--server-name <name>', 'name in the certificate of the servers, when it is not their host')
      .option('--credentials <dir>', 'folder with the files that `vmseal kms enrol` writes')
      .option('--ca <file>', 'authority, or certificate, of the servers (PEM)')
      .option('--certificate <file>', 'certificate of the client (PEM)')
      .option('--key <file>', 'private key of the client; vCenter makes its own copy'),
  prepare: ({ credentials, ca, certificate, key, serverName: name, ...values }) => {
    const pair = clientCredentials(given({ credentials, ca, certificate, key }))
    const server = values.server.map((entry) => (name === undefined ? entry : { ...entry, serverName: name }))
    return { ...values, server, ...(pair ? { pair } : {}) }
  },
  run: ({ vcenter }, { id, server, pair }) =>
    vcenter.keyProviders.add({ id, servers: server, ...given({ credentials: pair }) }),
  show: describe,
})

interface Values {
  readonly provider: string
}

export const providerList = verb<object, readonly KeyProviderInfo[]>({
  name: 'provider list',
  summary: 'List the key providers.',
  cmdlets: ['Get-KeyProvider', 'Get-KmsCluster'],
  run: ({ vcenter }) => vcenter.keyProviders.list(),
  show: (providers) =>
    tableOr(
      'no key provider: vmseal provider add',
      ['ID', 'DEFAULT', 'SERVERS'],
      providers.map((provider) => [
        provider.id,
        defaultText(provider),
        provider.servers.map(addressText).join(', '),
      ]),
    ),
})

interface DefaultValues {
  readonly provider?: string
  readonly cluster?: string
  readonly none?: true
}

export const providerDefault = verb<DefaultValues, { readonly default: string | null }>({
  name: 'provider default',
  summary: 'Show or set the key provider that makes new keys, of the whole vCenter or of a cluster.',
  cmdlets: ['Set-KeyProvider', 'Set-KmsCluster'],
  declare: (command) =>
    command
      .argument('[provider]', 'id of the key provider (default: only show)')
      .option(
        '--cluster <cluster>',
        'of this cluster; without one of its own it has that of the whole vCenter',
      )
      .option('--none', 'no default of its own'),
  prepare: (values) => {
    if (values.none && values.provider !== undefined)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'give a provider or --none')
    return values
  },
  run: async ({ vcenter }, { provider, cluster: name, none }) => {
    const cluster = name === undefined ? undefined : { id: (await vcenter.clusters.get(name)).id }
    if (none || provider !== undefined) await vcenter.keyProviders.setDefault(provider ?? null, cluster)
    return { default: (await vcenter.keyProviders.getDefault(cluster))?.id ?? null }
  },
  show: ({ default: id }) => (id === null ? 'there is no default key provider: no key can be made' : id),
})

export const providerRemove = verb<Values, { readonly provider: string }>({
  name: 'provider remove',
  summary: 'Forget a key provider, also one in use: its keys stay at the KMS.',
  cmdlets: ['Remove-KeyProvider'],
  help: 'VMs under its keys run on, and lock at the next restart of their host. Added again under the same id they open.',
  declare: (command) => command.argument('<provider>', 'id of the key provider'),
  run: async ({ vcenter }, { provider }) => {
    await vcenter.keyProviders.remove(provider)
    return { provider }
  },
  show: ({ provider }) => `key provider ${provider} is forgotten; its keys stay at the KMS`,
})

interface ServerValues extends Values {
  readonly server: Address
}

export const providerAddServer = verb<ServerValues, KeyProviderInfo>({
  name: 'provider add-server',
  summary: 'Add a replica to a key provider, as the last in order.',
  cmdlets: ['Add-KeyManagementServer'],
  declare: (command) =>
    command.argument('<provider>', 'id of the key provider').argument('<server>', 'host:port', address),
  run: ({ vcenter }, { provider, server }) => vcenter.keyProviders.addServer(provider, server),
  show: describe,
})

export const providerRemoveServer = verb<ServerValues, KeyProviderInfo>({
  name: 'provider remove-server',
  summary: 'Take a server from a key provider.',
  cmdlets: ['Remove-KeyManagementServer'],
  declare: (command) =>
    command.argument('<provider>', 'id of the key provider').argument('<server>', 'host:port', address),
  run: ({ vcenter }, { provider, server }) => vcenter.keyProviders.removeServer(provider, server),
  show: describe,
})

interface LoginValues extends Values {
  readonly username?: string
  readonly passwordFile?: string
}

export const providerLogin = verb<
  LoginValues,
  { readonly provider: string; readonly username: string | null }
>({
  name: 'provider login',
  summary: 'Set user name and password that a KMS asks for beside the certificate; without --username: none.',
  declare: (command) =>
    command
      .argument('<provider>', 'id of the key provider')
      .option('--username <name>', 'user name at the KMS')
      .option('--password-file <file>', 'its first line is the password'),
  prepare: ({ passwordFile, ...values }) => {
    if ((passwordFile === undefined) !== (values.username === undefined))
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'give --username and --password-file, or neither')
    return passwordFile === undefined ? values : { ...values, passwordFile: resolve(passwordFile) }
  },
  run: async ({ vcenter }, { provider, username, passwordFile }) => {
    const login =
      username === undefined || passwordFile === undefined
        ? null
        : { username, password: readFirstLine(passwordFile) }
    await vcenter.keyProviders.setLogin(provider, login)
    return { provider, username: username ?? null }
  },
  show: ({ provider, username }) =>
    `${provider} is asked ${username === null ? 'without a login' : `as ${username}`}`,
})

function describe(provider: KeyProviderInfo): string {
  return facts({
    id: provider.id,
    default: defaultText(provider) || 'no',
    servers: provider.servers.map(addressText).join(', '),
  })
}

function defaultText({ isDefault, defaultOf }: KeyProviderInfo): string {
  const clusters = defaultOf.length === 0 ? [] : [`of ${defaultOf.length} clusters`]
  return [...(isDefault ? ['yes'] : []), ...clusters].join(', ')
}
