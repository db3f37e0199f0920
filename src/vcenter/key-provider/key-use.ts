/** Who uses a key: VMs by the inventory, hosts by what they hold now. */
import { isVmsealError, type CryptoKeyId } from '../../errors.js'
import type { Store } from '../../store/store.js'
import type { HostConnection, HostConnections } from '../host-connections.js'
import type { EventLog } from '../events.js'
import { heldOn, sameKey, tolerateKnown, withoutKeys } from '../key-distribution.js'

export interface KeyUse {
  /** Names of the VMs whose home or a disk is wrapped with it. */
  readonly virtualMachines: readonly string[]
  /** Names of the connected hosts that hold it. */
  readonly hosts: readonly string[]
}

export interface HeldKeys {
  readonly host: HostConnection
  readonly keys: readonly CryptoKeyId[]
}

/**
 * What each host holds that answers now, all or `among` some keys, and the names of those that do not: nobody knows what they
 * hold.
 */
export async function heldByHosts(
  hosts: Store['hosts'],
  connections: HostConnections,
  among?: readonly CryptoKeyId[],
): Promise<{ held: HeldKeys[]; silent: string[] }> {
  const held: HeldKeys[] = []
  const silent: string[] = []
  await Promise.all(
    (await hosts.list()).map(async ({ id, name }) => {
      const host = connections.get(id)
      if (!host) return void silent.push(name)
      try {
        const keys = among ? await heldOn(host, among) : await host.call((api) => api.listKeys())
        held.push({ host, keys })
      } catch (error) {
        if (!isVmsealError(error, 'VMSEAL_HOST_UNREACHABLE')) throw error
        silent.push(name)
      }
    }),
  )
  return { held: held.toSorted((a, b) => (a.host.name < b.host.name ? -1 : 1)), silent: silent.toSorted() }
}

/** Takes those of `keys` that no VM uses any more from the hosts that hold them. A host that does not answer is left alone. */
export async function takeUnusedFromHosts(
  services: { readonly store: Store; readonly connections: HostConnections; readonly events: EventLog },
  keys: readonly CryptoKeyId[],
): Promise<void> {
  const { store, connections, events } = services
  const unused: CryptoKeyId[] = []
  for (const key of withoutKeys(keys, []))
    if ((await store.virtualMachines.partsOfKey(key)).length === 0) unused.push(key)
  if (unused.length === 0) return
  const { held } = await heldByHosts(store.hosts, connections, unused)
  await Promise.all(
    held.map(async ({ host, keys: onHost }) => {
      for (const key of onHost) await takeFromHost(host, key, events).catch(tolerateKnown)
    }),
  )
}

/** Wipes a key on a host, and says so. */
export async function takeFromHost(host: HostConnection, key: CryptoKeyId, events: EventLog): Promise<void> {
  await host.call((api) => api.removeKey(key))
  await events.append('vmseal.host.crypto.KeyRemoved', { ...key, host: host.name })
}

export async function useOf(
  { virtualMachines }: Pick<Store, 'virtualMachines'>,
  key: CryptoKeyId,
  held: readonly HeldKeys[],
): Promise<KeyUse> {
  const parts = await virtualMachines.partsOfKey(key)
  return {
    virtualMachines: [...new Set(parts.map(({ virtualMachine }) => virtualMachine))],
    hosts: held.filter(({ keys }) => keys.some((other) => sameKey(other, key))).map(({ host }) => host.name),
  }
}
