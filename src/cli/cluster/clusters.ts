/** `vmseal cluster create`, `list`, `rename`, `remove` and `set-crypto-mode`. */
import { Argument, Option } from 'commander'
import { VmsealError, type CryptoKeyId } from '../../errors.js'
import type { ClusterCryptoMode, CryptoModeChange } from '../../vcenter/cluster-crypto-mode.js'
import { keyName, keyNameHelp } from '../key/key-name.js'
import { tableOr } from '../output.js'
import { verb, type VerbCall } from '../verb/verb.js'

interface Values {
  readonly name: string
}

interface ClusterFacts {
  readonly id: string
  readonly name: string
  readonly hosts: number
  readonly virtualMachines: number
  /** The key provider that makes its keys. */
  readonly keyProvider: string | null
  /** Whether its hosts are in encryption mode on demand or always. */
  readonly cryptoMode: ClusterCryptoMode
}

export const clusterCreate = verb<Values, Pick<ClusterFacts, 'id' | 'name'>>({
  name: 'cluster create',
  summary: 'Make a cluster. Its hosts have the keys of all its VMs.',
  cmdlets: ['New-Cluster'],
  declare: (command) => command.argument('<name>', 'name of the new cluster'),
  run: async ({ vcenter }, { name }) => {
    const { id } = await vcenter.clusters.create(name)
    return { id, name }
  },
  show: ({ name }) => `cluster ${name} is made; add hosts: vmseal host add HOST:PORT --cluster ${name}`,
})

export const clusterList = verb<object, readonly ClusterFacts[]>({
  name: 'cluster list',
  summary: 'List the clusters, with the key provider that makes their keys.',
  cmdlets: ['Get-Cluster'],
  run: async ({ vcenter }) => {
    const [clusters, hosts, vms] = await Promise.all([
      vcenter.clusters.list(),
      vcenter.hosts.list(),
      vcenter.virtualMachines.search(),
    ])
    return Promise.all(
      clusters.map(async (cluster) => ({
        id: cluster.id,
        name: cluster.name,
        hosts: hosts.filter(({ clusterId }) => clusterId === cluster.id).length,
        virtualMachines: vms.filter(({ clusterId }) => clusterId === cluster.id).length,
        keyProvider: (await vcenter.keyProviders.getDefault(cluster.id))?.id ?? null,
        cryptoMode: (await cluster.cryptoMode()).mode,
      })),
    )
  },
  show: (clusters) =>
    tableOr(
      'no clusters: vmseal cluster create',
      ['NAME', 'HOSTS', 'VMS', 'KEY PROVIDER', 'CRYPTO MODE'],
      clusters.map(({ name, hosts, virtualMachines, keyProvider, cryptoMode }) => [
        name,
        String(hosts),
        String(virtualMachines),
        keyProvider ?? 'none',
        cryptoMode,
      ]),
    ),
})

export const clusterRename = verb<
  { readonly cluster: string; readonly name: string },
  { readonly id: string; readonly name: string }
>({
  name: 'cluster rename',
  summary: 'Give a cluster another name; its hosts, VMs, keys and permissions stay.',
  cmdlets: ['Set-Cluster'],
  declare: (command) =>
    command.argument('<cluster>', 'name of the cluster').argument('<name>', 'its name from now on'),
  run: async ({ vcenter }, { cluster, name }) => {
    const renamed = await vcenter.clusters.rename(cluster, name)
    return { id: renamed.id, name: renamed.name }
  },
  show: ({ name }, { cluster }) => `cluster ${cluster} is ${name} now`,
})

export const clusterRemove = verb<{ readonly cluster: string }, null>({
  name: 'cluster remove',
  summary: 'Remove a cluster that no host and no VM is in any more.',
  cmdlets: ['Remove-Cluster'],
  help: `Before it: vmseal vm unregister (or destroy), and vmseal host remove. The keys of its VMs stay at the KMS.`,
  declare: (command) => command.argument('<cluster>', 'name of the cluster'),
  run: async ({ vcenter }, { cluster }) => {
    await vcenter.clusters.remove(cluster)
    return null
  },
  show: (_, { cluster }) => `cluster ${cluster} is removed`,
})

interface ModeValues {
  readonly cluster: string
  readonly mode: ClusterCryptoMode
  readonly keyId?: string
  readonly provider?: string
}

export const clusterSetCryptoMode = verb<ModeValues, CryptoModeChange>({
  name: 'cluster set-crypto-mode',
  summary: 'Say whether the hosts of a cluster are in encryption mode on demand or always.',
  help: `onDemand (the default): a host is switched to safe when a task needs it. forceEnable: every host is safe now, and every
other one when it joins. A host that becomes safe gets the named key, or a new one of the named provider, else of the default one;
one that is safe keeps its host key.`,
  declare: (command) =>
    command
      .argument('<cluster>', 'name of the cluster')
      .addArgument(new Argument('<mode>', 'onDemand or forceEnable').choices(['onDemand', 'forceEnable']))
      .addOption(
        new Option('--key-id <key>', `one host key for all of them: ${keyNameHelp}`).conflicts('provider'),
      )
      .option('--provider <provider>', 'key provider that makes their host keys'),
  hosts: 'needed',
  run: async ({ vcenter }, { cluster, mode, keyId, provider }) => {
    const named = await vcenter.clusters.get(cluster)
    return named.setCryptoMode(mode, {
      ...(keyId === undefined ? {} : { keyId: await wholeKey(vcenter, keyId, named.id) }),
      ...(provider === undefined ? {} : { providerId: provider }),
    })
  },
  holds: ({ hosts }) => hosts.every(({ error }) => error === undefined),
  show: ({ mode, hosts }, { cluster }) =>
    [
      `the crypto mode of cluster ${cluster} is ${mode}`,
      ...hosts.map(({ host, cryptoState, message }) =>
        message === undefined ? `  ${host}: ${cryptoState}` : `  ${host}: ${cryptoState}: ${message}`,
      ),
    ].join('\n'),
})

async function wholeKey(vcenter: VerbCall['vcenter'], text: string, clusterId: string): Promise<CryptoKeyId> {
  const name = keyName(text)
  if (typeof name !== 'string') return name
  const provider = await vcenter.keyProviders.getDefault(clusterId)
  if (!provider) throw new VmsealError('VMSEAL_NO_DEFAULT_KEY_PROVIDER')
  return { keyId: name, providerId: provider.id }
}
