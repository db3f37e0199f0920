/** The VMs of a vCenter as its memory has them: the view for lists and searches of a large inventory. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { Store, VmRecord } from '../store/store.js'
import { keysOf } from './vm-record.js'

/** All that are given must hold. Names are matched as a whole; `*` stands for any text. */
export interface VirtualMachineFilter {
  readonly name?: string
  readonly cluster?: string
  readonly host?: string
  readonly datastore?: string
  readonly encrypted?: boolean
  readonly cryptoState?: 'unlocked' | 'locked'
  readonly powerState?: 'poweredOn' | 'poweredOff'
  /** Id of a key that VM home or a disk is under. */
  readonly keyId?: string
}

export interface VirtualMachineSummary {
  readonly id: string
  readonly name: string
  readonly cluster: string
  readonly clusterId: string
  readonly host?: string
  readonly datastore: string
  readonly vmx: string
  /** Name of the storage policy of VM home. */
  readonly policy: string
  readonly powerState: 'poweredOn' | 'poweredOff'
  readonly cryptoState: 'unlocked' | 'locked'
  readonly disks: number
  readonly capacityBytes: number
  /** What is encrypted, `home` and disks by device node, with the key of each. */
  readonly encrypted: readonly { readonly part: string; readonly key: CryptoKeyId }[]
}

/** By name. */
export async function searchVirtualMachines(
  store: Store,
  filter: VirtualMachineFilter,
): Promise<VirtualMachineSummary[]> {
  requireTexts(filter)
  const [records, clusters, hosts, policies] = await Promise.all([
    store.virtualMachines.list(),
    store.clusters.list(),
    store.hosts.list(),
    store.storagePolicies.list(),
  ])
  const clusterNames = namesById(clusters)
  const hostNames = namesById(hosts)
  const policyNames = namesById(policies)
  const isWanted = matcherOf(filter)
  return records
    .map((record) => ({
      record,
      cluster: clusterNames.get(record.clusterId) ?? record.clusterId,
      host: record.hostId === null ? undefined : hostNames.get(record.hostId),
    }))
    .filter(isWanted)
    .map(({ record, cluster, host }) => ({
      id: record.id,
      name: record.name,
      cluster,
      clusterId: record.clusterId,
      ...(host === undefined ? {} : { host }),
      datastore: record.datastore,
      vmx: record.vmx,
      policy: policyNames.get(record.homePolicyId) ?? record.homePolicyId,
      powerState: record.powerState,
      cryptoState: record.cryptoState,
      disks: record.disks.length,
      capacityBytes: record.disks.reduce((sum, { capacityBytes }) => sum + capacityBytes, 0),
      encrypted: encryptedParts(record),
    }))
}

interface Placed {
  readonly record: VmRecord
  readonly cluster: string
  readonly host: string | undefined
}

function matcherOf(filter: VirtualMachineFilter): (placed: Placed) => boolean {
  const name = patternOf(filter.name)
  const cluster = patternOf(filter.cluster)
  const host = patternOf(filter.host)
  const datastore = patternOf(filter.datastore)
  const { encrypted, cryptoState, powerState, keyId } = filter
  return ({ record, cluster: itsCluster, host: itsHost }) =>
    name(record.name) &&
    cluster(itsCluster) &&
    host(itsHost ?? '') &&
    datastore(record.datastore) &&
    (cryptoState === undefined || record.cryptoState === cryptoState) &&
    (powerState === undefined || record.powerState === powerState) &&
    (encrypted === undefined || keysOf(record).length > 0 === encrypted) &&
    (keyId === undefined || keysOf(record).some((key) => key.keyId === keyId))
}

/** Without backtracking over the pieces: a pattern of many stars is no trap. */
function patternOf(pattern: string | undefined): (text: string) => boolean {
  if (pattern === undefined) return () => true
  const [first = '', ...rest] = pattern.split('*')
  const last = rest.pop()
  if (last === undefined) return (text) => text === first
  return (text) => {
    if (!text.startsWith(first) || text.length < first.length + last.length || !text.endsWith(last))
      return false
    let at = first.length
    const end = text.length - last.length
    for (const piece of rest) {
      const found = text.indexOf(piece, at)
      if (found < 0 || found + piece.length > end) return false
      at = found + piece.length
    }
    return true
  }
}

function encryptedParts({ homeKey, disks }: VmRecord): VirtualMachineSummary['encrypted'] {
  return [
    ...(homeKey ? [{ part: 'home', key: homeKey }] : []),
    ...disks.flatMap(({ device, key }) => (key ? [{ part: device, key }] : [])),
  ]
}

function namesById(
  records: readonly { readonly id: string; readonly name: string }[],
): ReadonlyMap<string, string> {
  return new Map(records.map(({ id, name }) => [id, name]))
}

function requireTexts({ name, cluster, host, datastore, keyId }: VirtualMachineFilter): void {
  for (const text of [name, cluster, host, datastore, keyId])
    if (text !== undefined && typeof text !== 'string')
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'what is searched for must be text')
}
