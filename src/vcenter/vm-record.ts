/** VMs as the store keeps them, made from what a host shows. Pure. */
import type { CryptoKeyId } from '../errors.js'
import type { DiskConfig, VmConfig, VmReference } from '../rpc/host-api.js'
import type { DiskRecord, VmRecord } from '../store/store.js'
import { withoutKeys } from './key-distribution.js'
import { notFound } from './names.js'

/** Policy ids; disks by disk id. */
export interface AppliedPolicies {
  readonly home?: string | undefined
  readonly disks: ReadonlyMap<string, string>
}

export const noPolicies: AppliedPolicies = { disks: new Map() }

/** What a task did, besides what the VM's files show. */
export interface CommittedChange {
  /** The host did work on the VM: the VM is registered there from now on. */
  readonly moved?: boolean
  /** Where its files are now. */
  readonly place?: Pick<VmReference, 'datastore' | 'vmx'>
  readonly policies?: AppliedPolicies
}

/** The policy of a part that nobody gave one. */
export type BundledPolicies = (key: CryptoKeyId | undefined) => string

/** Whether a VM is on, and locked, is known by the host it is registered on; other hosts only show its files. */
export function mergeConfig(
  record: VmRecord,
  config: VmConfig,
  hostId: string,
  bundled: BundledPolicies,
  { moved = false, policies = noPolicies, place }: CommittedChange = {},
): VmRecord {
  const registered = moved || record.hostId === null || record.hostId === hostId
  const policyOf = new Map(record.disks.map((disk) => [disk.diskId, disk.policyId]))
  return {
    ...record,
    ...(place && { datastore: place.datastore, vmx: place.vmx }),
    homePolicyId: policies.home ?? record.homePolicyId,
    ...dekColumns(config),
    ...(registered ? { hostId, cryptoState: config.cryptoState, powerState: config.powerState } : {}),
    disks: config.disks.map((disk) =>
      diskRecord(disk, policies.disks.get(disk.diskId) ?? policyOf.get(disk.diskId) ?? bundled(disk.key)),
    ),
  }
}

/** The record of a VM that is new to vCenter. */
export function recordOf(
  config: VmConfig,
  clusterId: string,
  hostId: string,
  bundled: BundledPolicies,
  policies: AppliedPolicies,
): VmRecord {
  const { vmId, name, datastore, vmx, homeKey, cryptoState, powerState } = config
  return {
    id: vmId,
    revision: 1,
    name,
    clusterId,
    hostId,
    datastore,
    vmx,
    homePolicyId: policies.home ?? bundled(homeKey),
    ...dekColumns(config),
    cryptoState,
    powerState,
    disks: config.disks.map((disk) => diskRecord(disk, policies.disks.get(disk.diskId) ?? bundled(disk.key))),
  }
}

/** What a host is asked with: it refuses files that are older than what is known of the VM. */
export function referenceOf(
  record: VmReference & Partial<Pick<VmRecord, 'homeGeneration' | 'disks'>>,
): VmReference {
  const { datastore, vmx, homeGeneration = null, disks = [] } = record
  const known = [['home', homeGeneration] as const, ...disks.map((d) => [d.diskId, d.generation] as const)]
  const knownGenerations = Object.fromEntries(
    known.flatMap(([part, generation]) => (generation === null ? [] : [[part, generation]])),
  )
  return { datastore, vmx, ...(Object.keys(knownGenerations).length > 0 && { knownGenerations }) }
}

/** Every key of the VM, in the order home, disks, interrupted recrypts; a shared one more than once. */
export function keysOf(record: Pick<VmRecord, 'homeKey' | 'disks' | 'formerKeys'>): CryptoKeyId[] {
  const keys = [record.homeKey, ...record.disks.map((disk) => disk.key)].filter((key) => key !== null)
  return [...keys, ...record.formerKeys]
}

/** A disk by device node or disk id. VMSEAL_NOT_FOUND if the VM has none such. */
export function findDisk<Disk extends { readonly device: string; readonly diskId: string }>(
  disks: readonly Disk[],
  selector: string,
): Disk {
  const found = disks.find((disk) => disk.device === selector || disk.diskId === selector)
  if (!found) throw notFound('disk', selector)
  return found
}

function diskRecord(disk: DiskConfig, policyId: string): DiskRecord {
  const { diskId, device, file, capacityBytes, key, generation } = disk
  return { diskId, device, file, capacityBytes, policyId, key: key ?? null, generation: generation ?? null }
}

/** Keys and generations of VM home, and what a shallow recrypt left anywhere. */
function dekColumns(config: VmConfig): Pick<VmRecord, 'homeKey' | 'homeGeneration' | 'formerKeys'> {
  const former = [
    ...(config.homeFormerKeys ?? []),
    ...(config.keptKeys ?? []),
    ...config.disks.flatMap(({ formerKeys = [] }) => formerKeys),
  ]
  return {
    homeKey: config.homeKey ?? null,
    homeGeneration: config.homeGeneration ?? null,
    formerKeys: withoutKeys(former, []),
  }
}
