/** Changes of what is encrypted on an existing VM: by storage policy, and by adding disks. */
import { randomUUID } from 'node:crypto'
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import type { ReconfigureSpec, VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import { planDiskAttachment, type AttachDiskSpec } from './disk-attachment.js'
import type { HostConnection } from './host-connections.js'
import { tolerateKnown, withoutKeys } from './key-distribution.js'
import { changesNothing, planCryptoChange, refuseMismatch, type CryptoPlan } from './policy-plan.js'
import type { Services } from './services.js'
import type { StoragePolicy } from './storage-policies.js'
import { refuseCancelled, type TaskContext } from './task.js'
import { describeWork, disksThat, keyChoice, reconfigureSpec } from './reconfigure-spec.js'
import { TaskKeys, homePart, type KeyName } from './task-keys.js'
import { newDisk, requireContent, requireSectors, type DiskPlan } from './vm-creation.js'
import { refuseIdleKeys, refuseKey, refuseShared, requireDisk } from './vm-part-rules.js'
import { VmConversion, checkConversion, type ConversionOptions } from './vm-conversion.js'
import { findDisk, keysOf, referenceOf, type AppliedPolicies } from './vm-record.js'
import { refuseChain, refuseSnapshots } from './vm-snapshots.js'

/** Policy names. Parts that are absent keep theirs. */
export interface PolicyWish {
  readonly home?: string
  /** One policy for all disks, or policies by device node or disk id. */
  readonly disks?: string | Readonly<Record<string, string>>
}

export interface ApplyPolicyOptions extends ConversionOptions {
  /** The host that does the work; default: the one the VM is registered on. */
  readonly host?: string
  /** A new key for VM home and each disk instead of one for all. */
  readonly perDiskKeys?: boolean
  /** Existing keys to use instead of new ones; disks by device node or disk id. */
  readonly keyIds?: { readonly home?: KeyName; readonly disks?: Readonly<Record<string, KeyName>> }
  /** Where new keys are made and bare key ids are looked for; default: the default provider of the cluster. */
  readonly keyProvider?: string
  /** Data unit of disks that become encrypted, default 512. */
  readonly sectorSize?: 512 | 4096
  readonly signal?: AbortSignal
}

export class VmReconfiguration {
  readonly #services: Services
  readonly #keys: TaskKeys

  constructor(services: Services) {
    this.#services = services
    this.#keys = new TaskKeys(services)
  }

  /** Makes the crypto state follow the policies. Every refusal comes before a key is made. */
  async applyPolicy(
    vm: VmRecord,
    wish: PolicyWish,
    options: ApplyPolicyOptions,
    context: TaskContext,
  ): Promise<VmRecord> {
    checkConversion(options)
    const { host, ...seen } = await this.#open(vm, options.host)
    const { home, disks } = await this.#resolve(wish, seen.config)
    const conversion = new VmConversion(this.#services)
    const { record, config } = await conversion.endAll(seen, host, options, context)
    const plan = planCryptoChange(
      {
        home: config.homeKey !== undefined,
        disks: new Map(config.disks.map((d) => [d.diskId, d.key !== undefined])),
      },
      { home: home?.encryption, disks: new Map([...disks].map(([id, policy]) => [id, policy.encryption])) },
    )
    const policies = { home: home?.id, disks: new Map([...disks].map(([id, policy]) => [id, policy.id])) }
    const choice = keyChoice(options, config)
    refuseIdleKeys(choice, plan, config, { home, disks })
    if (changesNothing(plan)) {
      context.step({ actor: 'vcenter', action: 'nothing to change' })
      return this.#services.inventory.absorb(record, config, host, { policies })
    }
    await this.#requirePrivileges(plan, record)
    await this.#services.inventory.requireNotRunning(record)
    refuseSnapshots(config)
    refuseChain(config, 'deep')
    for (const id of disksThat('encrypt', plan)) {
      const { device, capacityBytes, shared } = findDisk(config.disks, id)
      if (shared) throw refuseShared(device, record.name)
      requireSectors(capacityBytes, options.sectorSize)
    }

    const parts = [...(plan.home === 'encrypt' ? [homePart] : []), ...disksThat('encrypt', plan)]
    const named = await conversion.keysOf(parts, choice.named ?? new Map(), config, host, context)
    const keyPlan = await this.#keys.plan(parts, { ...choice, named }, record.clusterId)
    await this.#ensurePresentKeys(config, plan, host, context)
    refuseCancelled(context.signal)
    const keys = await this.#keys.provide(keyPlan, record, host, context)
    try {
      const spec = reconfigureSpec(plan, keys, options)
      const changed = await this.#reconfigure(record, spec, host, keys, context)
      return await this.#finish(record, changed, host, policies, context)
    } catch (error) {
      conversion.noteFailed(record, keys.values())
      if (options.conversion === 'inPlace') await conversion.remember(record, host)
      throw error
    }
  }

  /** Adds an empty disk or a copy of an image. Without a policy it gets that of VM home. */
  async addDisk(
    vm: VmRecord,
    spec: DiskPlan & { readonly host?: string | undefined },
    context: TaskContext,
  ): Promise<VmRecord> {
    requireContent(spec)
    const { record, config, host } = await this.#open(vm, spec.host)
    const policy = await this.#policyOf(spec.policy, record)
    const diskId = randomUUID()
    const encrypt = policy.encryption
    if (!encrypt && spec.keyId !== undefined) throw refuseKey('the new disk', policy.name)
    refuseMismatch({ home: config.homeKey !== undefined, disks: new Map([['to be added', encrypt]]) })
    if (encrypt)
      await this.#services.access.require('Cryptographer.EncryptNew', { type: 'vm', id: record.id })
    await this.#services.inventory.requireNotRunning(record)
    const named = new Map(spec.keyId === undefined ? [] : [[diskId, spec.keyId]])
    const keyPlan = await this.#keys.plan(encrypt ? [diskId] : [], { named }, record.clusterId)
    await this.#ensurePresentKeys(config, { disks: new Map() }, host, context)
    refuseCancelled(context.signal)
    const keys = await this.#keys.provide(keyPlan, record, host, context)
    const addDisks = [newDisk(diskId, spec, keys.get(diskId))]
    const changed = await this.#reconfigure(record, { addDisks }, host, keys, context)
    const policies = { disks: new Map([[diskId, policy.id]]) }
    return this.#finish(record, changed, host, policies, context)
  }

  /** Takes a disk in that lies on the VM's datastore. No key is made. */
  async attachDisk(
    vm: VmRecord,
    spec: AttachDiskSpec & { readonly host?: string | undefined },
    context: TaskContext,
  ): Promise<VmRecord> {
    const { record, config, host } = await this.#open(vm, spec.host)
    const { disk, policy, key } = await planDiskAttachment(this.#services, spec, record, config, host)
    await this.#services.inventory.requireNotRunning(record)
    const known = await this.#services.store.virtualMachines.retiredGenerations(record.id)
    const generation = known.get(disk.diskId)
    await this.#ensureKeys([config.homeKey, key], config, host, context)
    refuseCancelled(context.signal)
    const changed = await this.#reconfigure(record, { attachDisks: [disk] }, host, new Map(), context, {
      keys: key ? [key] : [],
      ...(generation !== undefined && { knownGenerations: { [disk.diskId]: generation } }),
    })
    if (key) await this.#reachOthers(key, record, host, context)
    return this.#finish(record, changed, host, { disks: new Map([[disk.diskId, policy.id]]) }, context)
  }

  async detachDisk(
    vm: VmRecord,
    selector: string,
    hostName: string | undefined,
    context: TaskContext,
  ): Promise<VmRecord> {
    const { record, config, host } = await this.#open(vm, hostName)
    const { diskId } = findDisk(config.disks, selector)
    await this.#services.inventory.requireNotRunning(record)
    await this.#ensurePresentKeys(config, { disks: new Map() }, host, context)
    const changed = await this.#reconfigure(record, { removeDisks: [diskId] }, host, new Map(), context)
    return this.#services.inventory.absorb(record, changed, host, { moved: true })
  }

  /** Whoever may encrypt may not therefore decrypt, and the other way round. */
  async #requirePrivileges(plan: CryptoPlan, record: VmRecord): Promise<void> {
    const vm = { type: 'vm', id: record.id } as const
    const changes = new Set([plan.home, ...plan.disks.values()])
    if (changes.has('encrypt')) await this.#services.access.require('Cryptographer.Encrypt', vm)
    if (changes.has('decrypt')) await this.#services.access.require('Cryptographer.Decrypt', vm)
  }

  async #finish(
    record: VmRecord,
    config: VmConfig,
    host: HostConnection,
    policies: AppliedPolicies,
    context: TaskContext,
  ): Promise<VmRecord> {
    const written = await this.#services.inventory.absorb(record, config, host, { moved: true, policies })
    await this.#keys.reachLateHosts(record.clusterId, context)
    return written
  }

  async #open(
    vm: VmRecord,
    hostName: string | undefined,
  ): Promise<{ record: VmRecord; config: VmConfig; host: HostConnection }> {
    const { connections, inventory } = this.#services
    const host = connections.place(vm.clusterId, vm.datastore, { name: hostName, preferred: vm.hostId })
    return { ...(await inventory.read(vm, host)), host }
  }

  async #resolve(
    wish: PolicyWish,
    config: VmConfig,
  ): Promise<{ home: StoragePolicy | undefined; disks: Map<string, StoragePolicy> }> {
    const { storagePolicies } = this.#services
    const home = wish.home === undefined ? undefined : await storagePolicies.get(wish.home)
    const disks = new Map<string, StoragePolicy>()
    if (typeof wish.disks === 'string') {
      const policy = await storagePolicies.get(wish.disks)
      for (const disk of config.disks) disks.set(disk.diskId, policy)
    } else
      for (const [selector, name] of Object.entries(wish.disks ?? {}))
        disks.set(requireDisk(config.disks, selector).diskId, await storagePolicies.get(name))
    return { home, disks }
  }

  async #policyOf(name: string | undefined, record: VmRecord): Promise<StoragePolicy> {
    if (name !== undefined) return this.#services.storagePolicies.get(name)
    const policies = await this.#services.storagePolicies.list()
    const found = policies.find((policy) => policy.id === record.homePolicyId)
    if (!found) throw new VmsealError('VMSEAL_POLICY_UNKNOWN')
    return found
  }

  /** The host opens VM home to change the VM, and each disk that it decrypts. */
  async #ensurePresentKeys(
    config: VmConfig,
    plan: CryptoPlan,
    host: HostConnection,
    context: TaskContext,
  ): Promise<void> {
    const decrypted = disksThat('decrypt', plan).map((id) => findDisk(config.disks, id).key)
    await this.#ensureKeys([config.homeKey, ...decrypted], config, host, context)
  }

  /** Every host of the cluster can run the VM; one that cannot be reached now gets the key when it is back. */
  async #reachOthers(
    key: CryptoKeyId,
    { clusterId }: VmRecord,
    host: HostConnection,
    { step }: TaskContext,
  ): Promise<void> {
    const { connections, distribution } = this.#services
    const others = connections.ofCluster(clusterId).filter(({ hostId }) => hostId !== host.hostId)
    if (others.length > 0) await distribution.push(key, others, step).catch(tolerateKnown)
  }

  async #ensureKeys(
    keys: readonly (CryptoKeyId | undefined)[],
    config: VmConfig,
    host: HostConnection,
    context: TaskContext,
  ): Promise<void> {
    const needed = keys.filter((key) => key !== undefined)
    try {
      await this.#services.distribution.ensure(needed, host, context.step)
    } catch (cause) {
      if (!isVmsealError(cause)) throw cause
      const ids = needed.map((key) => `${key.providerId}/${key.keyId}`).join(', ')
      throw new VmsealError(
        'VMSEAL_ENCRYPTION_KEY_REQUIRED',
        `host ${host.name} needs key ${ids} and could not be given it: ${cause.message}`,
        { cause, details: { requiredKeys: needed, subject: config.name } },
      )
    }
  }

  async #reconfigure(
    record: VmRecord,
    spec: ReconfigureSpec,
    host: HostConnection,
    keys: ReadonlyMap<string, CryptoKeyId>,
    { signal, onProgress, step }: TaskContext,
    attached: {
      readonly keys: readonly CryptoKeyId[]
      readonly knownGenerations?: Readonly<Record<string, number>>
    } = { keys: [] },
  ): Promise<VmConfig> {
    refuseCancelled(signal)
    const subject = {
      vm: record.name,
      host: host.name,
      keys: withoutKeys([...keysOf(record), ...keys.values(), ...attached.keys], []),
    }
    const reference = referenceOf(record)
    const knownGenerations = { ...reference.knownGenerations, ...attached.knownGenerations }
    return recordOperation(this.#services.events, { operation: 'reconfigure', ...subject }, async () => {
      step({ actor: 'host', action: 'work started', host: host.name, work: describeWork(spec, record) })
      const config = await host.call((api) =>
        api.reconfigureVirtualMachine({ ...reference, knownGenerations }, spec, { signal, onProgress }),
      )
      step({ actor: 'host', action: 'work committed', host: host.name })
      return config
    })
  }
}
