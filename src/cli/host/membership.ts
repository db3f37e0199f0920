/** `vmseal host add`, `remove` and `reconnect`. */
import type { RenewedCertificate } from '../../vcenter/host-certificates.js'
import type { HostSync } from '../../vcenter/host-sync.js'
import { addressOr, readFirstLine, type Address } from '../arguments.js'
import { verb } from '../verb/verb.js'
import { describeSync } from './describe.js'

interface AddValues {
  readonly address: Address
  readonly cluster: string
  readonly tokenFile: string
  /** What is in the file. */
  readonly token?: string
}

const usualPort = 7443

export const hostAdd = verb<AddValues, HostSync>({
  name: 'host add',
  summary:
    'Take a host agent into a cluster, by its address and the join token that it shows at its first start.',
  help: `The token is good once; from then on vCenter and host know each other by certificates. If VMs of the cluster are encrypted
the host is switched to encryption mode safe and gets every key that they use.

Example:
  vmseal host start --name esx-1 --datastore ds1=/srv/ds1 --directory ./esx-1      on the host
  vmseal host add 192.0.2.11:${usualPort} --cluster prod --token-file -                   and paste the token`,
  declare: (command) =>
    command
      .argument('<address>', 'host:port of the host agent', addressOr(usualPort))
      .requiredOption('--cluster <cluster>', 'cluster that gets the host')
      .requiredOption('--token-file <file>', 'its first line is the token; -: standard input'),
  prepare: (values) => ({ ...values, token: readFirstLine(values.tokenFile) }),
  run: async ({ vcenter }, { address, cluster, token = '' }) =>
    (await vcenter.clusters.get(cluster)).addHost({ address, token }),
  show: describeSync,
})

interface Values {
  readonly host: string
}

export const hostRemove = verb<Values, Values>({
  name: 'host remove',
  summary:
    'Take a host out of its cluster, and the keys of the cluster from it. Its VMs stay in the cluster.',
  declare: (command) => command.argument('<host>', 'name of the host'),
  hosts: 'needed',
  run: async ({ vcenter }, { host }) => {
    const { cluster } = await vcenter.hosts.get(host)
    await (await vcenter.clusters.get(cluster)).removeHost(host)
    return { host }
  },
  show: ({ host }) => `${host} is removed. To join again: vmseal host leave, on the host`,
})

export const hostReconnect = verb<Values, HostSync>({
  name: 'host reconnect',
  summary: 'Try a host that is away at once, and give it the keys that it lacks; its locked VMs unlock.',
  declare: (command) => command.argument('<host>', 'name of the host'),
  run: ({ vcenter }, { host }) => vcenter.hosts.reconnect(host),
  show: describeSync,
})

export const hostRenewCertificate = verb<Values, RenewedCertificate>({
  name: 'host renew-certificate',
  summary: 'Give a host another key and certificate for its link with vCenter.',
  help: `vCenter does it by itself when a third of the time of a certificate is left. By hand: when the host was away for so long that its
certificate expired, or when its key may be known to others; the old key counts no more. Requests that are under way go on.`,
  declare: (command) => command.argument('<host>', 'name of the host'),
  hosts: 'needed',
  run: ({ vcenter }, { host }) => vcenter.hosts.renewCertificate(host),
  show: ({ host, expires }) => `${host} has a certificate until ${expires}`,
})
