/** What vCenter knows of VMs, kept in step with their files: the files are the truth, the store is a memory of them. */
import { isDeepStrictEqual } from 'node:util'
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import type { DiskConversion, MigrateEncryption, VmConfig, VmReference } from '../rpc/host-api.js'
import type { StoragePolicyRecord, Store, VmRecord } from '../store/store.js'
import type { EventLog } from './events.js'
import type { HostConnection, HostConnections } from './host-connections.js'
import { withoutKeys } from './key-distribution.js'
import { MissingKeys, type KeyFailure, type MissingKey } from './missing-keys.js'
import { notFound } from './names.js'
import { encryptionPolicyName, plainPolicyName } from './storage-policies.js'
import {
  keysOf,
  mergeConfig,
  noPolicies,
  recordOf,
  referenceOf,
  type AppliedPolicies,
  type BundledPolicies,
  type CommittedChange,
} from './vm-record.js'

export interface VirtualMachineDisk {
  readonly diskId: string
  /** Device node, for instance `scsi0:0`. */
  readonly device: string
  readonly file: string
  readonly capacityBytes: number
  /** Name of the storage policy. */
  readonly policy: string
  /** Absent: the disk is plain. */
  readonly key?: CryptoKeyId
  /** Its data is in two forms, so the VM stays off: `resumeConversion` ends that. Known while the host is connected. */
  readonly conversion?: DiskConversion
}

export interface VirtualMachineInfo extends VmReference {
  readonly id: string
  readonly name: string
  readonly cluster: string
  /** The host it is registered on. */
  readonly host?: string
  /** Name of the storage policy of VM home. */
  readonly policy: string
  /** Absent: VM home is plain. */
  readonly homeKey?: CryptoKeyId
  readonly disks: readonly VirtualMachineDisk[]
  /**
   * Further keys that open parts of the VM: a shallow recrypt was interrupted, which recrypting again ends, or only snapshots keep
   * files of theirs.
   */
  readonly formerKeys?: readonly CryptoKeyId[]
  readonly cryptoState: 'unlocked' | 'locked'
  /** Keys of the VM that its host lacks. Known while the host is connected. */
  readonly missingKeys: readonly CryptoKeyId[]
  /** The same, each with why it is missing, since when and what to do. */
  readonly missing: readonly MissingKey[]
  readonly powerState: 'poweredOn' | 'poweredOff'
  /** Whether live migrations encrypt its memory: always `required` while VM home is encrypted. Of a plain VM known while its host is connected. */
  readonly migrateEncryption?: MigrateEncryption
  /** `invalid`: locked. `disconnected`: what is told is from vCenter's memory. */
  readonly connectionState: 'connected' | 'disconnected' | 'invalid'
}

export interface VmInventoryServices {
  readonly store: Store
  readonly connections: HostConnections
  readonly events: EventLog
  readonly clock: () => Date
  /** A VM was found locked on a host that has restarted since it was brought up to date. */
  readonly onRestarted?: (host: HostConnection) => void
  /** A VM was read. */
  readonly onRead?: (record: VmRecord, config: VmConfig, host: HostConnection) => Promise<void>
  /** The files of a VM, known or just found, name keys that were not known to be its own, and no task of this vCenter brought them. */
  readonly onFoundKeys?: (keys: readonly CryptoKeyId[], clusterId: string) => void
}

export class VmInventory {
  readonly missingKeys: MissingKeys
  readonly #store: Store
  readonly #connections: HostConnections
  readonly #events: EventLog
  readonly #onRestarted: (host: HostConnection) => void
  readonly #onRead: NonNullable<VmInventoryServices['onRead']>
  readonly #onFoundKeys: (keys: readonly CryptoKeyId[], clusterId: string) => void

  constructor(services: VmInventoryServices) {
    const { store, connections, events, clock } = services
    const { onRestarted = () => {}, onRead = async () => {}, onFoundKeys = () => {} } = services
    this.#store = store
    this.#connections = connections
    this.#events = events
    this.#onRestarted = onRestarted
    this.#onRead = onRead
    this.#onFoundKeys = onFoundKeys
    this.missingKeys = new MissingKeys({
      table: store.missingKeys,
      providers: store.keyProviders,
      events,
      clock,
    })
  }

  async require(id: string, name: string): Promise<VmRecord> {
    const record = await this.#store.virtualMachines.findById(id)
    if (!record) throw notFound('virtual machine', name)
    return record
  }

  /**
   * Reads the VM's files through `host` and remembers what they say. `failures`: what became of an attempt to give the
   * host the VM's keys just now.
   */
  async read(
    record: VmRecord,
    host: HostConnection,
    failures: readonly KeyFailure[] = [],
  ): Promise<{ record: VmRecord; config: VmConfig }> {
    const config = await host.call((api) => api.readVirtualMachine(referenceOf(record)))
    if (config.vmId !== record.id)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `[${record.datastore}] ${record.vmx} now belongs to VM ${config.vmId}, ${record.name} was ${record.id}`,
      )
    const absorbed = await this.absorb(record, config, host)
    if (absorbed.hostId === host.hostId) await this.missingKeys.note(absorbed, config, host.name, failures)
    await this.#onRead(absorbed, config, host)
    return { record: absorbed, config }
  }

  /** Remembers a VM as `host` shows it, which looked at it or, with `change`, worked on it. */
  async absorb(
    record: VmRecord,
    config: VmConfig,
    host: HostConnection,
    change?: CommittedChange,
  ): Promise<VmRecord> {
    const absorbed = await this.#absorb(record, config, host, change)
    if (change?.policies) await this.#noteApplied(absorbed.id, change.policies)
    return absorbed
  }

  async #absorb(
    record: VmRecord,
    config: VmConfig,
    host: HostConnection,
    change: CommittedChange | undefined,
  ): Promise<VmRecord> {
    const bundled = await this.#bundledPolicies()
    let known = record
    for (;;) {
      const next = mergeConfig(known, config, host.hostId, bundled, change)
      if (isDeepStrictEqual(next, known)) return known
      if (await this.#store.virtualMachines.update(next)) {
        const found = change ? [] : withoutKeys(keysOf(next), keysOf(known))
        if (found.length > 0) this.#onFoundKeys(found, next.clusterId)
        if (next.cryptoState === 'unlocked' && known.cryptoState === 'locked')
          await this.#tell('com.vmware.vc.vm.Crypto.VMUnlocked', next, host)
        if (next.formerKeys.length > 0 && known.formerKeys.length === 0)
          await this.#tell('com.vmware.vc.vm.crypto.DiskchainUsingMixedKeys', next, host)
        return { ...next, revision: next.revision + 1 }
      }
      // Somebody was faster: what was merely seen is out of date now, what was done still has to be written.
      known = await this.require(record.id, record.name)
      if (!change) return known
    }
  }

  /** Takes in a VM that vCenter does not have yet. */
  async adopt(
    config: VmConfig,
    clusterId: string,
    host: HostConnection,
    policies: AppliedPolicies = noPolicies,
  ): Promise<VmRecord> {
    const record = recordOf(config, clusterId, host.hostId, await this.#bundledPolicies(), policies)
    await this.#store.virtualMachines.insert(record)
    await this.#noteApplied(record.id, policies)
    return record
  }

  /** The same for one that a host made for a vCenter that ended: hosts that were brought up to date before lack its keys. */
  async adoptFound(
    config: VmConfig,
    clusterId: string,
    host: HostConnection,
    policies: AppliedPolicies,
  ): Promise<VmRecord> {
    const record = await this.adopt(config, clusterId, host, policies)
    const keys = withoutKeys(keysOf(record), [])
    if (keys.length > 0) this.#onFoundKeys(keys, clusterId)
    return record
  }

  /** VMSEAL_INVALID_POWER_STATE if the VM runs on the host it is registered on, as far as that can be known. */
  async requireNotRunning(record: VmRecord): Promise<void> {
    const host = record.hostId === null ? undefined : this.#connections.get(record.hostId)
    // A host that is gone runs nothing that its lock on the files would not show.
    if (!host?.reachable) return
    const powerState = await this.read(record, host).then(
      (read) => read.record.powerState,
      // What cannot be read cannot be on; whoever goes on to work on the files gets the reason.
      (error: unknown) => (isVmsealError(error) ? 'poweredOff' : Promise.reject(error)),
    )
    if (powerState === 'poweredOff') return
    throw new VmsealError('VMSEAL_INVALID_POWER_STATE', `${record.name} is powered on at host ${host.name}`, {
      details: { subject: record.name },
    })
  }

  /** The present state, from the VM's host if it answers, else from memory. */
  async describe(id: string, name: string): Promise<VirtualMachineInfo> {
    const record = await this.require(id, name)
    const host = record.hostId === null ? undefined : this.#connections.get(record.hostId)
    if (!host) return this.#view(record, undefined)
    try {
      const read = await this.read(record, host)
      if (read.config.missingKeys.length > 0) await this.#askWhetherRestarted(host)
      return await this.#view(read.record, read.config)
    } catch (error) {
      if (host.reachable) throw error
      return this.#view(record, undefined)
    }
  }

  async #view(record: VmRecord, config: VmConfig | undefined): Promise<VirtualMachineInfo> {
    const [policies, clusters, hosts] = await Promise.all([
      this.#store.storagePolicies.list(),
      this.#store.clusters.list(),
      this.#store.hosts.list(),
    ])
    const host = hosts.find((entry) => entry.id === record.hostId)?.name
    return {
      id: record.id,
      name: record.name,
      cluster: clusters.find((entry) => entry.id === record.clusterId)?.name ?? record.clusterId,
      ...(host === undefined ? {} : { host }),
      datastore: record.datastore,
      vmx: record.vmx,
      policy: policyName(policies, record.homePolicyId),
      ...(record.homeKey ? { homeKey: record.homeKey } : {}),
      ...(record.formerKeys.length > 0 ? { formerKeys: record.formerKeys } : {}),
      disks: record.disks.map(({ policyId, key, generation: _generation, ...disk }) => ({
        ...disk,
        policy: policyName(policies, policyId),
        ...(key ? { key } : {}),
        ...conversionsOf(config).get(disk.diskId),
      })),
      cryptoState: record.cryptoState,
      missingKeys: config?.missingKeys ?? [],
      missing: config ? await this.missingKeys.reasons(record.id, config) : [],
      powerState: record.powerState,
      ...migrateEncryptionOf(record, config),
      connectionState: !config ? 'disconnected' : record.cryptoState === 'locked' ? 'invalid' : 'connected',
    }
  }

  /** A crash before it leaves them out of date, until they are applied again. */
  async #noteApplied(vmId: string, { home, disks }: AppliedPolicies): Promise<void> {
    const parts = new Map([...(home === undefined ? [] : [['home', home] as const]), ...disks])
    if (parts.size > 0) await this.#store.storagePolicies.noteApplied(vmId, parts)
  }

  /** Its connection may not show it: a host of this process has none that breaks. */
  async #askWhetherRestarted(host: HostConnection): Promise<void> {
    const { bootId } = await host.identify()
    const known = (await this.#store.hosts.list()).find(({ id }) => id === host.hostId)
    if (known && known.bootId !== bootId) this.#onRestarted(host)
  }

  async #tell(
    id: 'com.vmware.vc.vm.Crypto.VMUnlocked' | 'com.vmware.vc.vm.crypto.DiskchainUsingMixedKeys',
    record: VmRecord,
    host: HostConnection,
  ): Promise<void> {
    await this.#events.append(id, { vm: record.name, host: host.name, keys: keysOf(record) })
  }

  async #bundledPolicies(): Promise<BundledPolicies> {
    const policies = await this.#store.storagePolicies.list()
    const idOf = (name: string): string => policies.find((policy) => policy.name === name)?.id ?? ''
    return (key) => idOf(key ? encryptionPolicyName : plainPolicyName)
  }
}

/** Of the disks that are in conversion, by id. */
function conversionsOf(config: VmConfig | undefined): Map<string, { readonly conversion: DiskConversion }> {
  const disks = config?.disks ?? []
  return new Map(disks.flatMap(({ diskId, conversion }) => (conversion ? [[diskId, { conversion }]] : [])))
}

/** Also of a host of an earlier release, which tells nothing. */
function migrateEncryptionOf(
  { homeKey }: Pick<VmRecord, 'homeKey'>,
  config: VmConfig | undefined,
): { readonly migrateEncryption?: MigrateEncryption } {
  if (homeKey) return { migrateEncryption: 'required' }
  return config?.migrateEncryption ? { migrateEncryption: config.migrateEncryption } : {}
}

function policyName(policies: readonly StoragePolicyRecord[], id: string): string {
  return policies.find((policy) => policy.id === id)?.name ?? id
}
