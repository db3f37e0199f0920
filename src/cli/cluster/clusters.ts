/** `vmseal cluster create`, `list`, `rename` and `remove`. */
import { tableOr } from '../output.js'
import { verb } from '../verb/verb.js'

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
      })),
    )
  },
  show: (clusters) =>
    tableOr(
      'no clusters: vmseal cluster create',
      ['NAME', 'HOSTS', 'VMS', 'KEY PROVIDER'],
      clusters.map(({ name, hosts, virtualMachines, keyProvider }) => [
        name,
        String(hosts),
        String(virtualMachines),
        keyProvider ?? 'none',
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
