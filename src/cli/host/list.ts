/** `vmseal host list`. */
import type { HostInfo } from '../../vcenter/hosts.js'
import { tableOr } from '../output.js'
import { verb } from '../verb/verb.js'
import { keyText } from '../vm/describe.js'

interface Values {
  readonly cluster?: string
}

export const hostList = verb<Values, readonly HostInfo[]>({
  name: 'host list',
  summary: 'List the hosts with connection, encryption mode and host key.',
  cmdlets: ['Get-VMHost'],
  declare: (command) => command.option('--cluster <cluster>', 'of this cluster'),
  run: async ({ vcenter }, { cluster }) =>
    cluster === undefined ? vcenter.hosts.list() : (await vcenter.clusters.get(cluster)).hosts(),
  show: (hosts) =>
    tableOr(
      'no hosts: vmseal host add',
      ['NAME', 'CLUSTER', 'CONNECTION', 'ENCRYPTION MODE', 'HOST KEY', 'DATASTORES'],
      hosts.map(({ name, cluster, connectionState, cryptoState, cryptoKeyId, datastores }) => [
        name,
        cluster,
        connectionState,
        cryptoState ?? 'unknown',
        cryptoKeyId ? keyText(cryptoKeyId) : '',
        datastores.join(', '),
      ]),
    ),
})
