/** Finding VMs in a large inventory: from the store alone, by its indexes. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { VmQuery } from '../store/store.js'
import { notFound } from './names.js'
import type { Services } from './services.js'

/** What VMs are looked for by; names where a person has names. */
export interface VirtualMachineQuery {
  /** Part of the name, in any case. */
  readonly name?: string
  readonly cluster?: string
  readonly host?: string
  readonly datastore?: string
  /** Of VM home or of any disk. */
  readonly policy?: string
  /** Any part is wrapped with it. */
  readonly key?: CryptoKeyId
  /** Any part is wrapped with a key of it. */
  readonly keyProvider?: string
  /** VM home is. */
  readonly encrypted?: boolean
  readonly cryptoState?: 'unlocked' | 'locked'
  readonly powerState?: 'poweredOn' | 'poweredOff'
  /** The last name of the page before. */
  readonly after?: string
  readonly limit?: number
}

export interface VirtualMachineSummary {
  readonly id: string
  readonly name: string
  readonly clusterId: string
  readonly cluster: string
  readonly host?: string
  readonly datastore: string
  /** Name of the storage policy of VM home. */
  readonly policy: string
  /** Absent: VM home is plain. */
  readonly homeKey?: CryptoKeyId
  readonly disks: number
  readonly encryptedDisks: number
  readonly cryptoState: 'unlocked' | 'locked'
  readonly powerState: 'poweredOn' | 'poweredOff'
}

export async function searchVirtualMachines(
  { store, storagePolicies }: Pick<Services, 'store' | 'storagePolicies'>,
  query: VirtualMachineQuery,
): Promise<VirtualMachineSummary[]> {
  checkQuery(query)
  const [clusters, hosts, policies] = await Promise.all([
    store.clusters.list(),
    store.hosts.list(),
    store.storagePolicies.list(),
  ])
  const { cluster, host, policy, key, keyProvider, ...same } = query
  const idOf = (kind: string, list: readonly { id: string; name: string }[], name: string): string => {
    const found = list.find((one) => one.name === name)
    if (!found) throw notFound(kind, name)
    return found.id
  }
  const providerId = key?.providerId ?? keyProvider
  const record: VmQuery = {
    ...same,
    ...(cluster !== undefined && { clusterId: idOf('cluster', clusters, cluster) }),
    ...(host !== undefined && { hostId: idOf('host', hosts, host) }),
    ...(policy !== undefined && { policyId: (await storagePolicies.get(policy)).id }),
    ...(providerId !== undefined && { key: { providerId, ...(key && { keyId: key.keyId }) } }),
  }
  const nameOf = (list: readonly { id: string; name: string }[]): ReadonlyMap<string, string> =>
    new Map(list.map(({ id, name }) => [id, name]))
  const names = { clusters: nameOf(clusters), hosts: nameOf(hosts), policies: nameOf(policies) }
  return (await store.virtualMachines.search(record)).map(({ hostId, homePolicyId, homeKey, ...vm }) => {
    const hostName = hostId === null ? undefined : names.hosts.get(hostId)
    return {
      ...vm,
      cluster: names.clusters.get(vm.clusterId) ?? vm.clusterId,
      ...(hostName === undefined ? {} : { host: hostName }),
      policy: names.policies.get(homePolicyId) ?? homePolicyId,
      ...(homeKey ? { homeKey } : {}),
    }
  })
}

const texts = ['name', 'cluster', 'host', 'datastore', 'policy', 'keyProvider', 'after'] as const
const states: Readonly<Record<string, readonly unknown[]>> = {
  encrypted: [true, false],
  cryptoState: ['unlocked', 'locked'],
  powerState: ['poweredOn', 'poweredOff'],
}

function checkQuery(query: VirtualMachineQuery): void {
  const refuse = (what: string): never => {
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `a search has no such ${what}`, {
      details: { subject: what },
    })
  }
  if (typeof query !== 'object' || query === null) refuse('form')
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined) continue
    if ((texts as readonly string[]).includes(name)) {
      if (typeof value !== 'string' || value.length > 1000) refuse(name)
    } else if (name === 'key') {
      const { keyId, providerId } = value as Partial<CryptoKeyId>
      if (typeof keyId !== 'string' || typeof providerId !== 'string') refuse(name)
    } else if (name === 'limit') {
      if (!Number.isSafeInteger(value) || (value as number) < 1) refuse(name)
    } else if (!states[name]?.includes(value)) refuse(name)
  }
}
