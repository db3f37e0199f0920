/** How a VM comes into the inventory: created empty, imported from images, or registered from its files. */
import { randomUUID } from 'node:crypto'
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import type { NewDisk, VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import { withoutKeys } from './key-distribution.js'
import type { KeyFailure } from './missing-keys.js'
import { requireVirtualMachineName } from './names.js'
import { refuseMismatch } from './policy-plan.js'
import type { Services } from './services.js'
import { plainPolicyName, type StoragePolicy } from './storage-policies.js'
import { refuseCancelled, type TaskContext } from './task.js'
import { TaskKeys, homePart, type KeyName, type KeyPlan } from './task-keys.js'
import { warnOfGenerations } from './vm-generations.js'
import { refuseKey } from './vm-part-rules.js'
import { keysOf, referenceOf } from './vm-record.js'

/** A VM to be made: `disks` are empty ones (`capacityBytes`) or copies of images (`source`). */
export interface VmPlan {
  readonly name: string
  readonly clusterId: string
  readonly datastore: string
  readonly disks: readonly DiskPlan[]
  /** Policy of VM home and of disks that name none; without it they are plain. */
  readonly policy?: string | undefined
  readonly settings?: Readonly<Record<string, string>> | undefined
  readonly host?: string | undefined
  readonly homeKeyId?: KeyName | undefined
  readonly perDiskKeys?: boolean | undefined
}

export interface DiskPlan {
  readonly source?: string | undefined
  readonly capacityBytes?: number | undefined
  readonly policy?: string | undefined
  readonly keyId?: KeyName | undefined
  readonly sectorSize?: 512 | 4096 | undefined
}

interface Prepared {
  readonly id: string
  readonly name: string
  readonly home: StoragePolicy
  readonly disks: readonly {
    readonly diskId: string
    readonly spec: DiskPlan
    readonly policy: StoragePolicy
  }[]
  readonly host: HostConnection
  readonly keys: KeyPlan
}

export class VmCreation {
  readonly #services: Services
  readonly #keys: TaskKeys

  constructor(services: Services) {
    this.#services = services
    this.#keys = new TaskKeys(services)
  }

  /** Everything that can be refused is refused before a key is made. */
  async create(plan: VmPlan, context: TaskContext): Promise<VmRecord> {
    const prepared = await this.#prepare(plan)
    refuseCancelled(context.signal)
    const vm = { id: prepared.id, name: prepared.name, clusterId: plan.clusterId }
    const keys = await this.#keys.provide(prepared.keys, vm, prepared.host, context)
    refuseCancelled(context.signal)

    const subject = { vm: vm.name, host: prepared.host.name, keys: [...new Set(keys.values())] }
    const policies = new Map(prepared.disks.map(({ diskId, policy }) => [diskId, policy.id]))
    const intent = {
      vmId: vm.id,
      kind: 'create',
      clusterId: plan.clusterId,
      datastore: plan.datastore,
      vmx: `${vm.name}/${vm.name}.vmx`,
      keys: subject.keys,
      homePolicyId: prepared.home.id,
      diskPolicyIds: Object.fromEntries(policies),
    } as const
    const record = await this.#services.intents.during(intent, async () => {
      const config = await recordOperation(this.#services.events, { operation: 'create', ...subject }, () =>
        this.#createOnHost(plan, prepared, keys, context),
      )
      context.step({ actor: 'host', action: 'work committed', host: prepared.host.name })
      const applied = { home: prepared.home.id, disks: policies }
      return this.#services.inventory.adopt(config, plan.clusterId, prepared.host, applied)
    })
    await this.#keys.reachLateHosts(plan.clusterId, context)
    return record
  }

  /**
   * Takes a VM over as its files describe it. If its keys cannot be had, or the user lacks Cryptographer.RegisterVM, it is
   * registered all the same, locked.
   */
  async register(
    plan: { clusterId: string; datastore: string; vmx: string; host?: string | undefined },
    context: TaskContext,
  ): Promise<VmRecord> {
    const { connections, distribution, inventory, events } = this.#services
    const host = connections.placeNew(plan.clusterId, plan.datastore, { name: plan.host })
    const config = await host.call((api) => api.readVirtualMachine(referenceOf(plan)))
    await this.#refuseKnown(config.vmId, config.name)
    const record = await inventory.adopt(config, plan.clusterId, host)
    await warnOfGenerations(this.#services, record, host)
    const keys = withoutKeys(keysOf(record), [])
    const folder = { type: 'cluster', id: plan.clusterId } as const
    if (keys.length > 0 && !(await this.#services.access.holds('Cryptographer.RegisterVM', folder)))
      return record
    const hosts = connections.ofCluster(plan.clusterId)
    const subject = { operation: 'register', vm: record.name, host: host.name, keys } as const
    const failures: KeyFailure[] = []
    await recordOperation(events, subject, async () => {
      for (const key of keys) failures.push(...(await distribution.tryPush(key, host, hosts, context.step)))
    })
    return (await inventory.read(record, host, failures)).record
  }

  async #prepare(plan: VmPlan): Promise<Prepared> {
    const { storagePolicies, connections } = this.#services
    const id = randomUUID()
    const name = requireVirtualMachineName(plan.name)
    await this.#refuseKnown(id, name)
    const home = await storagePolicies.get(plan.policy ?? plainPolicyName)
    const disks = []
    for (const spec of plan.disks)
      disks.push({
        diskId: randomUUID(),
        spec: requireContent(spec),
        policy: spec.policy === undefined ? home : await storagePolicies.get(spec.policy),
      })
    refuseMismatch({
      home: home.encryption,
      disks: new Map(disks.map(({ policy }, index) => [`number ${index}`, policy.encryption])),
    })
    refuseBadPolicies(plan, home, disks)
    if (home.encryption)
      await this.#services.access.require('Cryptographer.EncryptNew', { type: 'cluster', id: plan.clusterId })
    const host = connections.placeNew(plan.clusterId, plan.datastore, { name: plan.host })
    await refuseTaken(host, plan.datastore, name)

    const encrypted = disks.filter(({ policy }) => policy.encryption)
    const named = new Map<string, KeyName>()
    if (plan.homeKeyId !== undefined) named.set(homePart, plan.homeKeyId)
    for (const { diskId, spec } of encrypted) if (spec.keyId !== undefined) named.set(diskId, spec.keyId)
    const parts = [...(home.encryption ? [homePart] : []), ...encrypted.map(({ diskId }) => diskId)]
    const keys = await this.#keys.plan(parts, { perDiskKeys: plan.perDiskKeys, named }, plan.clusterId)
    return { id, name, home, disks, host, keys }
  }

  #createOnHost(
    plan: VmPlan,
    prepared: Prepared,
    keys: ReadonlyMap<string, CryptoKeyId>,
    { signal, onProgress, step }: TaskContext,
  ): Promise<VmConfig> {
    const homeKey = keys.get(homePart)
    const spec = {
      vmId: prepared.id,
      name: prepared.name,
      datastore: plan.datastore,
      disks: prepared.disks.map(({ diskId, spec: disk }) => newDisk(diskId, disk, keys.get(diskId))),
      ...(homeKey ? { homeKey } : {}),
      ...(plan.settings ? { settings: plan.settings } : {}),
    }
    step({ actor: 'host', action: 'work started', host: prepared.host.name, work: `create ${plan.name}` })
    return prepared.host.call((api) => api.createVirtualMachine(spec, { signal, onProgress }))
  }

  async #refuseKnown(id: string, name: string): Promise<void> {
    const { virtualMachines } = this.#services.store
    if ((await virtualMachines.findById(id)) ?? (await virtualMachines.findByName(name)))
      throw new VmsealError('VMSEAL_ALREADY_EXISTS', `there is a virtual machine ${name} in the inventory`, {
        details: { subject: name },
      })
  }
}

/** A key without a policy that encrypts, and a virtual TPM in a plain home. */
function refuseBadPolicies(plan: VmPlan, home: StoragePolicy, disks: Prepared['disks']): void {
  if (plan.homeKeyId !== undefined && !home.encryption) throw refuseKey('VM home', home.name)
  for (const [index, { spec, policy }] of disks.entries())
    if (spec.keyId !== undefined && !policy.encryption) throw refuseKey(`disk number ${index}`, policy.name)
  const vtpm = Object.entries(plan.settings ?? {}).some(
    ([key, value]) => key.toLowerCase() === 'vtpm.present' && /^true$/i.test(value),
  )
  if (vtpm && !home.encryption)
    throw new VmsealError('VMSEAL_VTPM_PRESENT', `a virtual TPM needs an encryption policy for VM home`)
}

/** What the host is asked for. Also used for a disk that is added later. */
export function newDisk(diskId: string, spec: DiskPlan, key: CryptoKeyId | undefined): NewDisk {
  return {
    diskId,
    ...(spec.source === undefined ? {} : { source: spec.source }),
    ...(spec.capacityBytes === undefined ? {} : { capacityBytes: spec.capacityBytes }),
    ...(key ? { key } : {}),
    ...(key && spec.sectorSize ? { sectorSize: spec.sectorSize } : {}),
  }
}

/** VMSEAL_INVALID_ARGUMENT unless the disk is either an image or empty with a size in whole sectors. */
export function requireContent(spec: DiskPlan): DiskPlan {
  if ((spec.source === undefined) === (spec.capacityBytes === undefined))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'a disk needs either source or capacityBytes')
  if (spec.source !== undefined && (typeof spec.source !== 'string' || spec.source === ''))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'the source of a disk must be the path of an image')
  const { capacityBytes } = spec
  if (capacityBytes !== undefined && (!Number.isSafeInteger(capacityBytes) || capacityBytes <= 0))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'capacityBytes must be a positive whole number')
  requireSectors(capacityBytes ?? 0, spec.sectorSize)
  return spec
}

/** VMSEAL_SECTOR_ALIGNMENT if the capacity is not a whole number of data units. */
export function requireSectors(capacityBytes: number, sectorSize: number = 512): void {
  if (sectorSize !== 512 && sectorSize !== 4096)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'the sector size of a disk is 512 or 4096')
  if (capacityBytes % sectorSize !== 0)
    throw new VmsealError(
      'VMSEAL_SECTOR_ALIGNMENT',
      `${capacityBytes} bytes are no multiple of ${sectorSize}`,
    )
}

/** A folder of this name on the datastore would only be found by the host, after a key was made. */
export async function refuseTaken(host: HostConnection, datastore: string, name: string): Promise<void> {
  try {
    await host.call((api) => api.readVirtualMachine({ datastore, vmx: `${name}/${name}.vmx` }))
  } catch (error) {
    if (isVmsealError(error, 'VMSEAL_NOT_FOUND')) return
    throw error
  }
  throw new VmsealError(
    'VMSEAL_ALREADY_EXISTS',
    `[${datastore}] ${name} exists. Register it, or choose another name`,
    {
      details: { subject: name },
    },
  )
}
