/** A VM made of another one: the same keys or new ones, encrypted or decrypted on the way, or linked to a snapshot. */
import { randomUUID } from 'node:crypto'
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { CloneSpec, VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import { tolerateKnown, withoutKeys } from './key-distribution.js'
import { requireVirtualMachineName } from './names.js'
import { refuseMismatch } from './policy-plan.js'
import type { Services } from './services.js'
import type { StoragePolicy } from './storage-policies.js'
import { refuseCancelled, type TaskContext } from './task.js'
import { TaskKeys, homePart, type KeyName } from './task-keys.js'
import { refuseTaken, requireSectors } from './vm-creation.js'
import type { PolicyWish } from './vm-reconfiguration.js'
import { findDisk, keysOf, referenceOf } from './vm-record.js'
import { VmSnapshots, findSnapshot } from './vm-snapshots.js'
import { VmUnlocking } from './vm-unlocking.js'

export interface CloneOptions {
  /** Of the clone. */
  readonly name: string
  /** Name or id of the snapshot that is cloned; default: the present state. A VM that is on is cloned by way of a snapshot. */
  readonly snapshot?: string
  /** Read the disks of the snapshot and write to children. The keys are those of the source, and stay. */
  readonly linked?: boolean
  /** Default: that of the source. */
  readonly datastore?: string
  /** Policies of the clone, which is encrypted or decrypted on the way; default: those of the source. */
  readonly policy?: PolicyWish
  /** `same`, the default: parts that are encrypted in the source keep their KEK. `new`: one new KEK for all. */
  readonly keys?: 'same' | 'new'
  /** With new keys: one for VM home and each disk. */
  readonly perDiskKeys?: boolean
  /** Existing keys; disks by device node or disk id of the source. */
  readonly keyIds?: { readonly home?: KeyName; readonly disks?: Readonly<Record<string, KeyName>> }
  /** Data unit of the clone's encrypted disks, default that of the source. */
  readonly sectorSize?: 512 | 4096
  /** The host that does the work; default: the one the VM is registered on. */
  readonly host?: string
  readonly signal?: AbortSignal
}

/** A part of the clone and where it comes from. */
interface Part {
  /** `home` or the disk id of the source. */
  readonly id: string
  readonly policy: StoragePolicy
  /** Of the source; absent: it is plain there. */
  readonly key?: CryptoKeyId
}

export class VmCloning {
  readonly #services: Services
  readonly #keys: TaskKeys

  constructor(services: Services) {
    this.#services = services
    this.#keys = new TaskKeys(services)
  }

  /** Every refusal comes before a key is made. */
  async clone(vm: VmRecord, options: CloneOptions, context: TaskContext): Promise<VmRecord> {
    const { connections, inventory, access } = this.#services
    const name = requireVirtualMachineName(options.name)
    if (options.keys !== undefined && options.keys !== 'same' && options.keys !== 'new')
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'keys is same or new')
    const cluster = { type: 'cluster', id: vm.clusterId } as const
    await access.require('VirtualMachine.Inventory.CreateFromExisting', cluster)
    const datastore = options.datastore ?? vm.datastore
    await access.require('Datastore.AllocateSpace', { type: 'datastore', id: datastore })
    const host = connections.placeNew(vm.clusterId, datastore, { name: options.host, preferred: vm.hostId })
    if (!host.has(vm.datastore))
      throw new VmsealError('VMSEAL_NOT_FOUND', `host ${host.name} has no datastore ${vm.datastore}`)
    const { record, config } = await inventory.read(vm, host)
    if (await this.#services.store.virtualMachines.findByName(name))
      throw new VmsealError('VMSEAL_ALREADY_EXISTS', `there is a virtual machine ${name} in the inventory`)
    await refuseTaken(host, datastore, name)
    const snapshot = options.snapshot === undefined ? undefined : findSnapshot(config, options.snapshot)
    if (options.linked) refuseOtherKeys(options, snapshot !== undefined)
    const parts = await this.#parts(record, config, snapshot?.disks ?? config.disks, options)
    await this.#requirePrivileges(record, parts, options)

    const choice = { perDiskKeys: options.perDiskKeys, named: namedKeys(parts, config, options) }
    const encrypted = parts.filter(({ policy }) => policy.encryption)
    for (const { id } of encrypted.filter((part) => part.id !== homePart))
      requireSectors(config.disks.find(({ diskId }) => diskId === id)?.capacityBytes ?? 0, options.sectorSize)
    const plan = await this.#keys.plan(
      encrypted.map(({ id }) => id),
      choice,
      vm.clusterId,
    )
    refuseCancelled(context.signal)
    const clone = { id: randomUUID(), name, clusterId: vm.clusterId }
    const keys = await this.#keys.provide(plan, clone, host, context)
    refuseCancelled(context.signal)
    const disks = parts.filter(({ id }) => id !== homePart)
    const ids = new Map(disks.map(({ id }) => [id, randomUUID() as string]))
    const homeKey = keys.get(homePart)
    const spec = (snapshotId: string | undefined): CloneSpec => ({
      vmId: clone.id,
      name,
      datastore,
      ...(snapshotId === undefined ? {} : { snapshotId }),
      ...(options.linked ? { linked: true } : {}),
      ...(homeKey ? { homeKey } : {}),
      disks: disks.map(({ id }) => {
        const key = keys.get(id)
        return {
          diskId: id,
          newDiskId: ids.get(id) ?? '',
          ...(key ? { key } : {}),
          ...(key && options.sectorSize ? { sectorSize: options.sectorSize } : {}),
        }
      }),
    })
    const policyOf = new Map(disks.map(({ id, policy }) => [ids.get(id) ?? '', policy.id]))
    const homePolicy = parts[0]?.policy.id ?? record.homePolicyId
    const made = await this.#services.intents.during(
      {
        vmId: clone.id,
        kind: 'create',
        clusterId: vm.clusterId,
        datastore,
        vmx: `${name}/${name}.vmx`,
        keys: withoutKeys([...keys.values()], []),
        homePolicyId: homePolicy,
        diskPolicyIds: Object.fromEntries(policyOf),
      },
      async () => {
        const cloned = await this.#onHost(record, config, host, snapshot?.id, spec, keys, context)
        return inventory.adopt(cloned, vm.clusterId, host, { home: homePolicy, disks: policyOf })
      },
    )
    await this.#keys.reachLateHosts(vm.clusterId, context)
    return made
  }

  /** A VM that is on goes on writing: what is cloned is a snapshot, which goes afterwards; one that cannot is there to be seen. */
  async #onHost(
    record: VmRecord,
    config: VmConfig,
    host: HostConnection,
    snapshotId: string | undefined,
    specOf: (snapshotId: string | undefined) => CloneSpec,
    keys: ReadonlyMap<string, CryptoKeyId>,
    context: TaskContext,
  ): Promise<VmConfig> {
    const { signal, onProgress, step } = context
    const snapshots = new VmSnapshots(this.#services)
    let of = snapshotId
    const passing = of === undefined && config.powerState === 'poweredOn'
    if (passing) {
      const name = `for the clone ${specOf(undefined).name}`.slice(0, 80)
      await snapshots.create(record, { name }, context)
      of = (await snapshots.list(record)).at(-1)?.id
    }
    const subject = {
      operation: 'clone',
      vm: record.name,
      host: host.name,
      keys: withoutKeys([...keysOf(record), ...keys.values()], []),
    } as const
    try {
      return await recordOperation(this.#services.events, subject, async () => {
        step({ actor: 'host', action: 'work started', host: host.name, work: `clone ${record.name}` })
        const act = () =>
          host.call((api) => api.cloneVirtualMachine(referenceOf(record), specOf(of), { signal, onProgress }))
        const made = await new VmUnlocking(this.#services).withKeys(record, host, act, step)
        step({ actor: 'host', action: 'work committed', host: host.name })
        return made
      })
    } finally {
      if (passing && of !== undefined)
        await snapshots.remove(record, of, false, { ...context, signal: never }).catch(tolerateKnown)
    }
  }

  async #parts(
    record: VmRecord,
    config: VmConfig,
    disks: readonly { readonly diskId: string; readonly device: string }[],
    options: CloneOptions,
  ): Promise<Part[]> {
    const policies = await this.#services.storagePolicies.list()
    const byId = (id: string): StoragePolicy => {
      const found = policies.find((policy) => policy.id === id)
      if (!found) throw new VmsealError('VMSEAL_POLICY_UNKNOWN')
      return found
    }
    const wish = options.policy ?? {}
    const named = (name: string | undefined): Promise<StoragePolicy> | undefined =>
      name === undefined ? undefined : this.#services.storagePolicies.get(name)
    const home = (await named(wish.home)) ?? byId(record.homePolicyId)
    const parts: Part[] = [{ id: homePart, policy: home, ...(config.homeKey ? { key: config.homeKey } : {}) }]
    for (const { diskId, device } of disks) {
      const known = record.disks.find((disk) => disk.diskId === diskId)
      if (!known)
        throw new VmsealError(
          'VMSEAL_INVALID_STATE',
          `the disk ${device} of the snapshot is not one of the VM any more: revert to the snapshot first`,
        )
      const wished = wish.disks
      const name = typeof wished === 'string' ? wished : (wished?.[device] ?? wished?.[diskId])
      const policy = (await named(name)) ?? byId(known.policyId)
      const key = config.disks.find((disk) => disk.diskId === diskId)?.key
      parts.push({ id: diskId, policy, ...(key ? { key } : {}) })
    }
    const disksOf = parts.slice(1).map(({ id, policy }) => [id, policy.encryption] as const)
    refuseMismatch({ home: home.encryption, disks: new Map(disksOf) })
    return parts
  }

  /** Whoever may clone may not therefore decrypt, or give other keys. */
  async #requirePrivileges(
    record: VmRecord,
    parts: readonly Part[],
    { keys, keyIds }: CloneOptions,
  ): Promise<void> {
    const { access } = this.#services
    const vm = { type: 'vm', id: record.id } as const
    const becomes = (from: boolean, to: boolean): boolean =>
      parts.some(({ key, policy }) => (key !== undefined) === from && policy.encryption === to)
    if (parts.some(({ key }) => key !== undefined)) await access.require('Cryptographer.Clone', vm)
    if (becomes(false, true)) await access.require('Cryptographer.Encrypt', vm)
    if (becomes(true, false)) await access.require('Cryptographer.Decrypt', vm)
    if (becomes(true, true) && (keys === 'new' || keyIds !== undefined))
      await access.require('Cryptographer.Recrypt', vm)
  }
}

/** The removal of a passing snapshot is not cancelled with the clone. */
const never = new AbortController().signal

function namedKeys(
  parts: readonly Part[],
  config: VmConfig,
  { keys = 'same', keyIds }: CloneOptions,
): Map<string, KeyName> {
  const named = new Map<string, KeyName>()
  if (keys === 'same')
    for (const { id, key, policy } of parts) if (key && policy.encryption) named.set(id, key)
  if (keyIds?.home !== undefined) named.set(homePart, keyIds.home)
  for (const [selector, name] of Object.entries(keyIds?.disks ?? {}))
    named.set(findDisk(config.disks, selector).diskId, name)
  return named
}

function refuseOtherKeys({ keys, keyIds, policy, sectorSize }: CloneOptions, ofSnapshot: boolean): void {
  if (!ofSnapshot)
    throw new VmsealError('VMSEAL_DISK_CHAIN', 'a linked clone is made of a snapshot: name one')
  if (keys === 'new' || keyIds !== undefined || policy !== undefined || sectorSize !== undefined)
    throw new VmsealError('VMSEAL_DISK_CHAIN', 'a linked clone has the keys and policies of its source')
}
