/** What became of a live migration that failed or was interrupted. The lock of the VM says which host has it, and the hosts say that. */
import { isVmsealError } from '../errors.js'
import type { VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import type { HostConnection, HostConnections } from './host-connections.js'
import type { VmInventory } from './vm-inventory.js'
import { referenceOf } from './vm-record.js'

/** `unknown`: a host that may run the VM, or hold its lock, cannot be asked. */
export type MigrationOutcome =
  | {
      readonly ran: 'source' | 'target' | 'nowhere'
      readonly config: VmConfig
      readonly host: HostConnection
    }
  | { readonly ran: 'unknown' }

/**
 * Ends the migration at both hosts, so that one of them runs the VM, or none. The source first: when it still has the lock, what comes
 * late to it is refused from then on. Then the target, which runs the VM or gives the lock back; then the source takes it.
 */
export async function endMigration(
  record: VmRecord,
  source: HostConnection,
  targets: readonly HostConnection[],
): Promise<MigrationOutcome> {
  const first = await end(record, source)
  let isKnown = true
  for (const target of targets) {
    const there = await end(record, target)
    if (there?.powerState === 'poweredOn') return { ran: 'target', config: there, host: target }
    isKnown &&= there !== undefined
  }
  if (first?.powerState === 'poweredOn') return { ran: 'source', config: first, host: source }
  const second = isKnown ? await end(record, source) : undefined
  if (second === undefined) return { ran: 'unknown' }
  return { ran: second.powerState === 'poweredOn' ? 'source' : 'nowhere', config: second, host: source }
}

/** For the migration of a vCenter that ended: whether it is known now where the VM runs. */
export async function settleMigration(
  { connections, inventory }: { readonly connections: HostConnections; readonly inventory: VmInventory },
  record: VmRecord,
): Promise<boolean> {
  const source = record.hostId === null ? undefined : connections.get(record.hostId)
  const others = connections
    .ofCluster(record.clusterId)
    .filter((host) => host !== source && host.has(record.datastore))
  if (source === undefined) return false
  const outcome = await endMigration(record, source, others)
  if (outcome.ran === 'unknown') return false
  await inventory.absorb(record, outcome.config, outcome.host, { moved: true })
  // The host that it went to may be one that is not connected yet.
  return outcome.ran !== 'nowhere'
}

/** Undefined: the host cannot be asked, or another one has the lock. */
async function end(record: VmRecord, host: HostConnection): Promise<VmConfig | undefined> {
  try {
    return await host.call((api) => api.endMigration(referenceOf(record), 'abandoned'))
  } catch (error) {
    if (!isVmsealError(error)) throw error
    if (!host.reachable || isVmsealError(error, 'VMSEAL_FILE_LOCKED')) return undefined
  }
  // It cannot open the VM any more, for instance for want of a key: then it is off there, and its lock given back.
  try {
    return await host.call((api) => api.readVirtualMachine(referenceOf(record)))
  } catch (error) {
    if (isVmsealError(error)) return undefined
    throw error
  }
}
