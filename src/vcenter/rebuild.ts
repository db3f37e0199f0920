/**
 * An inventory made from the files of the VMs alone, for a vCenter whose database is lost. The files name key ids and
 * providers; with the providers registered under the same ids everything opens, without them it is registered locked.
 */
import { VmsealError, isVmsealError, type CryptoKeyId, type ErrorCode } from '../errors.js'
import type { DiskConversion, HostApi, VmConfig, VmReference } from '../rpc/host-api.js'
import type { Store } from '../store/store.js'
import type { HostConnection } from './host-connections.js'
import { withoutKeys } from './key-distribution.js'
import { tellListeners } from './listeners.js'
import type { MissingKey } from './missing-keys.js'
import type { Services } from './services.js'
import type { VirtualMachines } from './virtual-machines.js'
import { referenceOf } from './vm-record.js'

export interface RebuildOptions {
  /** Name of the cluster that takes the VMs; its connected hosts show their datastores. */
  readonly cluster: string
  /** Only these datastores; default: all of the hosts. */
  readonly datastores?: readonly string[]
  /** Looks and changes nothing. */
  readonly dryRun?: boolean
  /** Told of each VM as it is done. */
  readonly onVirtualMachine?: (vm: RebuiltVm) => void
  readonly signal?: AbortSignal
}

/** What became of one VM. */
export interface RebuiltVm extends VmReference {
  /**
   * `found`: it would be registered (dry run). `known`: it is in the inventory already. `failed`: it cannot be registered,
   * see `error`.
   */
  readonly outcome: 'found' | 'registered' | 'known' | 'failed'
  readonly name?: string
  /** Name of the host that showed it. */
  readonly host: string
  /** The keys that its files name. */
  readonly keys: readonly CryptoKeyId[]
  /** Providers that its files name and that are not registered. */
  readonly unknownProviders: readonly string[]
  /** Its disks that are in conversion in place: it stays off until `resumeConversion` ends them. */
  readonly inConversion: readonly (DiskConversion & { readonly device: string })[]
  /** Once it is registered. */
  readonly cryptoState?: 'unlocked' | 'locked'
  /** Why it is locked, or a disk of it cannot be opened. */
  readonly missing: readonly MissingKey[]
  readonly error?: { readonly code: ErrorCode; readonly message: string }
}

export interface RebuildReport {
  readonly dryRun: boolean
  readonly virtualMachines: readonly RebuiltVm[]
}

/** What the inventory has already. */
interface KnownInventory {
  readonly virtualMachines: ReadonlyMap<string, VmReference>
  readonly providers: ReadonlySet<string>
}

/** Every VM on the datastores of a host, as its files show it. Changes nothing. */
async function survey(
  host: { readonly name: string; readonly api: Pick<HostApi, 'findVirtualMachines' | 'readVirtualMachine'> },
  datastores: readonly string[],
  known: KnownInventory,
): Promise<RebuiltVm[]> {
  const found: RebuiltVm[] = []
  for (const datastore of datastores)
    for (const reference of await host.api.findVirtualMachines(datastore))
      found.push(await look(host, reference, known))
  return found
}

async function look(
  host: { readonly name: string; readonly api: Pick<HostApi, 'readVirtualMachine'> },
  reference: VmReference,
  known: KnownInventory,
): Promise<RebuiltVm> {
  try {
    const config = await host.api.readVirtualMachine(reference)
    const keys = keysOfConfig(config)
    const providers = [...new Set(keys.map(({ providerId }) => providerId))]
    const place = known.virtualMachines.get(config.vmId)
    const same = place?.datastore === reference.datastore && place.vmx === reference.vmx
    return {
      ...reference,
      outcome: place === undefined ? 'found' : same ? 'known' : 'failed',
      name: config.name,
      host: host.name,
      keys,
      unknownProviders: providers.filter((id) => !known.providers.has(id)),
      missing: [],
      inConversion: config.disks.flatMap(({ device, conversion }) =>
        conversion ? [{ device, ...conversion }] : [],
      ),
      ...(place && !same
        ? {
            error: {
              code: 'VMSEAL_ALREADY_EXISTS',
              message: `[${place.datastore}] ${place.vmx} in the inventory has the same id: one is a copy of the other`,
            } as const,
          }
        : {}),
    }
  } catch (error) {
    return failed(
      { ...reference, host: host.name, keys: [], unknownProviders: [], missing: [], inConversion: [] },
      error,
    )
  }
}

/** `vm` with what it failed with. */
function failed(vm: Omit<RebuiltVm, 'outcome'>, error: unknown): RebuiltVm {
  if (!isVmsealError(error)) throw error
  return { ...vm, outcome: 'failed', error: { code: error.code, message: error.message } }
}

function keysOfConfig({ homeKey, disks }: VmConfig): CryptoKeyId[] {
  const keys = [homeKey, ...disks.map(({ key }) => key)].filter((key) => key !== undefined)
  return withoutKeys(keys, [])
}

/** The connected hosts of a cluster, each datastore through the first one that has it. */
function placesOf(
  hosts: readonly HostConnection[],
  wanted: readonly string[] | undefined,
): Map<HostConnection, string[]> {
  const places = new Map<HostConnection, string[]>()
  const seen = new Set<string>()
  for (const host of hosts)
    for (const datastore of host.identity.datastores) {
      if (seen.has(datastore) || (wanted && !wanted.includes(datastore))) continue
      seen.add(datastore)
      places.set(host, [...(places.get(host) ?? []), datastore])
    }
  const missing = wanted?.find((datastore) => !seen.has(datastore))
  if (missing === undefined) return places
  throw new VmsealError('VMSEAL_NOT_FOUND', `no connected host of the cluster has datastore ${missing}`, {
    details: { subject: missing },
  })
}

/** Registers every VM of the datastores that is not in the inventory; one that cannot be does not hold up the others. */
export async function rebuildInventory(
  services: Services,
  virtualMachines: Pick<VirtualMachines, 'register'>,
  clusterId: string,
  options: RebuildOptions,
): Promise<RebuildReport> {
  const { store, connections } = services
  const { dryRun = false, onVirtualMachine = () => {}, signal } = options
  const known = await knownInventory(store)
  const done: RebuiltVm[] = []
  for (const [host, datastores] of placesOf(connections.ofCluster(clusterId), options.datastores)) {
    const api = {
      findVirtualMachines: (datastore: string) => host.call((far) => far.findVirtualMachines(datastore)),
      readVirtualMachine: (vm: VmReference) => host.call((far) => far.readVirtualMachine(vm)),
    }
    for (const found of await survey({ name: host.name, api }, datastores, known)) {
      if (signal?.aborted) throw new VmsealError('VMSEAL_CANCELLED')
      const vm = dryRun || found.outcome !== 'found' ? found : await register(found)
      done.push(vm)
      tellListeners(() => onVirtualMachine(vm))
    }
  }
  return { dryRun, virtualMachines: done }

  async function register(found: RebuiltVm): Promise<RebuiltVm> {
    try {
      const { datastore, vmx, host } = found
      const vm = await virtualMachines.register({ cluster: options.cluster, datastore, vmx, host })
      const { cryptoState, missing } = await vm.info()
      return { ...found, outcome: 'registered', cryptoState, missing }
    } catch (error) {
      return failed(found, error)
    }
  }
}

async function knownInventory(
  store: Pick<Store, 'virtualMachines' | 'keyProviders'>,
): Promise<KnownInventory> {
  const [vms, providers] = await Promise.all([store.virtualMachines.list(), store.keyProviders.list()])
  return {
    virtualMachines: new Map(vms.map((vm) => [vm.id, referenceOf(vm)])),
    providers: new Set(providers.map(({ id }) => id)),
  }
}
