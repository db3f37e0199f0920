/** Which generations of DEKs are known of a VM that is registered from its files. */
import type { VmRecord } from '../store/store.js'
import type { HostConnection } from './host-connections.js'
import type { Services } from './services.js'

/** Its files are accepted; that they may be old ones is told. */
export async function warnOfGenerations(
  { store, events }: Services,
  record: VmRecord,
  host: HostConnection,
): Promise<void> {
  const parts = [
    { id: 'home', name: 'home', generation: record.homeGeneration },
    ...record.disks.map(({ diskId, device, generation }) => ({ id: diskId, name: device, generation })),
  ].flatMap(({ generation, ...part }) => (generation === null ? [] : [{ ...part, generation }]))
  const known = await store.virtualMachines.retiredGenerations(record.id)
  const tell = async (
    id: 'vmseal.vm.crypto.RolledBack' | 'vmseal.vm.crypto.GenerationUnverified',
    found: typeof parts,
  ): Promise<void> => {
    if (found.length === 0) return
    const generations = Object.fromEntries(found.map(({ name, generation }) => [name, generation]))
    await events.append(id, { vm: record.name, host: host.name, generations })
  }
  await tell(
    'vmseal.vm.crypto.RolledBack',
    parts.filter(({ id, generation }) => generation < (known.get(id) ?? 0)),
  )
  await tell(
    'vmseal.vm.crypto.GenerationUnverified',
    parts.filter(({ id }) => !known.has(id)),
  )
}
