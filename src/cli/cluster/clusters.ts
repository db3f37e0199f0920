/** `vmseal cluster create` and `list`. */
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
