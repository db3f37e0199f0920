/** The objects that permissions stand on, and which object is above which. */
import { VmsealError } from '../../errors.js'
import type { InventoryEntity, Store } from '../../store/store.js'
import { notFound } from '../names.js'

/**
 * An object by name. `root` is above all others; clusters and datastores are below it, hosts and VMs below their cluster,
 * which is the folder of its VMs.
 */
export type InventoryObject =
  | 'root'
  | { readonly cluster: string }
  | { readonly host: string }
  | { readonly datastore: string }
  | { readonly virtualMachine: string }

export const rootEntity: InventoryEntity = { type: 'root', id: '' }

/** VMSEAL_NOT_FOUND, or VMSEAL_INVALID_ARGUMENT for what names no object. */
export async function resolveObject(store: Store, object: InventoryObject): Promise<InventoryEntity> {
  if (object === 'root') return rootEntity
  const [[kind, name] = [], ...more] =
    typeof object === 'object' && object !== null ? Object.entries(object) : []
  if (typeof name !== 'string' || name === '' || more.length > 0)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      "an inventory object is 'root', or { cluster }, { host }, { datastore } or { virtualMachine } with a name",
    )
  if (kind === 'cluster') return clusterEntity(store, name)
  if (kind === 'host') return hostEntity(store, name)
  if (kind === 'datastore') return { type: 'datastore', id: name }
  if (kind !== 'virtualMachine') throw notFound('kind of inventory object', String(kind))
  const found = await store.virtualMachines.findByName(name)
  if (!found) throw notFound('virtual machine', name)
  return { type: 'vm', id: found.id }
}

/** By name, or the id of a cluster. */
export async function clusterEntity(
  store: Store,
  cluster: string | { readonly id: string },
): Promise<InventoryEntity> {
  const found = (await store.clusters.list()).find((entry) =>
    typeof cluster === 'string' ? entry.name === cluster || entry.id === cluster : entry.id === cluster?.id,
  )
  if (!found) throw notFound('cluster', typeof cluster === 'string' ? cluster : cluster?.id)
  return { type: 'cluster', id: found.id }
}

async function hostEntity(store: Store, name: string): Promise<InventoryEntity> {
  const found = (await store.hosts.list()).find((entry) => entry.name === name)
  if (!found) throw notFound('host', name)
  return { type: 'host', id: found.id }
}

/** From the object up to the root, the object first. */
export async function pathOf(store: Store, entity: InventoryEntity): Promise<InventoryEntity[]> {
  const above = await clusterOf(store, entity)
  return [
    entity,
    ...(above === undefined ? [] : [{ type: 'cluster', id: above } as const]),
    ...(entity.type === 'root' ? [] : [rootEntity]),
  ]
}

/** For people, for instance `virtual machine db01`. */
export async function describeEntity(store: Store, { type, id }: InventoryEntity): Promise<string> {
  if (type === 'root') return 'the root of the inventory'
  if (type === 'datastore') return `datastore ${id}`
  if (type === 'vm') return `virtual machine ${(await store.virtualMachines.findById(id))?.name ?? id}`
  const entries = type === 'cluster' ? await store.clusters.list() : await store.hosts.list()
  return `${type} ${entries.find((entry) => entry.id === id)?.name ?? id}`
}

async function clusterOf(store: Store, { type, id }: InventoryEntity): Promise<string | undefined> {
  if (type === 'vm') return (await store.virtualMachines.findById(id))?.clusterId
  if (type === 'host') return (await store.hosts.list()).find((host) => host.id === id)?.clusterId
  return undefined
}
