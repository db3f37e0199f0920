/** Everything that needs a key: parts of VMs, hosts, and files on datastores, of which no VM need be registered. */
import type { CryptoKeyId } from '../../errors.js'
import { isVmsealError } from '../../errors.js'
import type { KeyPart, Store } from '../../store/store.js'
import type { HostConnections } from '../host-connections.js'
import { sameKey } from '../key-distribution.js'
import { heldByHosts } from './key-use.js'

/** A part of a VM that the key opens: `home`, a device node, or `former` for what an interrupted recrypt left. */
export type PartUsage = KeyPart

export interface KeyUsage {
  readonly key: CryptoKeyId
  readonly parts: readonly PartUsage[]
  /** Names of the hosts whose host key it is. */
  readonly hostKeyOf: readonly string[]
  /** Names of the connected hosts that have it in their key cache. */
  readonly heldBy: readonly string[]
  /**
   * Files on datastores of connected hosts that name it, as `[ds1] db01/db01.vmdk`: of registered VMs, detached disks, copies. Of very
   * many the first.
   */
  readonly files: readonly string[]
}

interface NamedKey {
  readonly key: CryptoKeyId
  readonly files: readonly string[]
}

interface KeyUsageServices {
  readonly store: Store
  readonly connections: HostConnections
}

export async function usageOf(services: KeyUsageServices, keys: readonly CryptoKeyId[]): Promise<KeyUsage[]> {
  const { store, connections } = services
  const [hosts, { held }, { named }] = await Promise.all([
    store.hosts.list(),
    heldByHosts(store.hosts, connections),
    keysInFiles(services),
  ])
  return Promise.all(
    keys.map(async (key) => ({
      key,
      parts: await store.virtualMachines.partsOfKey(key),
      hostKeyOf: hosts
        .filter(({ cryptoKey }) => sameKey(cryptoKey ?? undefined, key))
        .map(({ name }) => name),
      heldBy: held
        .filter((one) => one.keys.some((other) => sameKey(other, key)))
        .map(({ host }) => host.name),
      files: filesOf(named, key),
    })),
  )
}

/** What the datastores of all connected hosts name; a datastore that several hosts of a cluster have is read once. */
export async function keysInFiles({ store, connections }: KeyUsageServices): Promise<{
  /** A key may be there more than once, each time with the first files of a page that name it. */
  named: NamedKey[]
  /** Files that may name any key, and datastores that could not be read. */
  unknown: string[]
}> {
  const named: NamedKey[] = []
  const unknown: string[] = []
  const read = new Set<string>()
  for (const { id, clusterId, datastores } of await store.hosts.list()) {
    const host = connections.get(id)
    if (!host?.reachable) continue
    for (const datastore of datastores) {
      const place = `${clusterId} ${datastore}`
      if (read.has(place)) continue
      try {
        let after: string | undefined
        do {
          const { found, unreadable, next } = await host.call((api) => api.findKeys(datastore, after))
          for (const { files, key } of found)
            named.push({ key, files: files.map((file) => `[${datastore}] ${file}`) })
          for (const file of unreadable) unknown.push(`[${datastore}] ${file}`)
          after = next
        } while (after !== undefined)
        read.add(place)
      } catch (error) {
        if (!isVmsealError(error)) throw error
        unknown.push(`[${datastore}]`)
      }
    }
  }
  return { named, unknown }
}

/** Files that name a key, of all pages. */
export function filesOf(named: readonly NamedKey[], key: CryptoKeyId): string[] {
  return named.filter((one) => sameKey(one.key, key)).flatMap(({ files }) => files)
}
