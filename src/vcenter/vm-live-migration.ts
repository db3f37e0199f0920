/**
 * A VM that runs gets another host: its keys go there first, then its memory, piece by piece and sealed between the hosts, at last its
 * lock. vCenter passes on what it cannot open: the migration key is the hosts' own.
 */
import { randomUUID } from 'node:crypto'
import { VmsealError, isVmsealError } from '../errors.js'
import type { HostCapability, HostIdentity, MigrateEncryption, VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import { withoutKeys } from './key-distribution.js'
import type { Services } from './services.js'
import { refuseCancelled, type TaskContext } from './task.js'
import { endMigration } from './vm-migration-outcome.js'
import { giveKeys } from './vm-migration.js'
import { keysOf, referenceOf } from './vm-record.js'
import { VmUnlocking } from './vm-unlocking.js'

export interface LiveMigrateOptions {
  /** Name of a host of the VM's cluster that has its datastore. */
  readonly host: string
  /** A file, or a pipe that the hypervisor writes to, on the host that the VM leaves. The guest is to stop by its end. */
  readonly memory: string
  /** A new file (mode 0600), or a pipe that the hypervisor reads, on the host that the VM goes to. */
  readonly memoryTarget: string
  readonly signal?: AbortSignal
}

interface Hosts {
  readonly source: HostConnection
  readonly target: HostConnection
}

export class VmLiveMigration {
  readonly #services: Services

  constructor(services: Services) {
    this.#services = services
  }

  async migrate(vm: VmRecord, options: LiveMigrateOptions, context: TaskContext): Promise<VmRecord> {
    const { access, connections, inventory, events, hostEncryption } = this.#services
    checkOptions(options)
    const target = connections.placeNew(vm.clusterId, vm.datastore, { name: options.host })
    if (keysOf(vm).length > 0) await access.require('Cryptographer.Migrate', { type: 'vm', id: vm.id })
    const source = await this.#source(vm)
    const seen = await inventory.read(vm, source)
    if (seen.config.powerState === 'poweredOff')
      await new VmUnlocking(this.#services).refuseLocked(
        'VirtualMachine.liveMigrate',
        vm,
        source,
        context.step,
      )
    requireOn(seen.config, source)
    if (source === target) {
      context.step({ actor: 'vcenter', action: 'nothing to change' })
      return seen.record
    }
    await Promise.all([source.identify(), target.identify()])
    const encrypted = isEncrypted(seen.config, source.identity, target.identity)
    // Another directory under the same datastore name is found out here.
    const { record } = await inventory.read(seen.record, target)
    const keys = withoutKeys(keysOf(record), [])
    if (keys.length > 0) {
      await access.require('Cryptographer.Migrate', { type: 'vm', id: vm.id })
      await hostEncryption.requireMaySafe(target)
    }
    refuseCancelled(context.signal)
    const names = { vm: record.name, host: target.name, sourceHost: source.name }
    const subject = { operation: 'migrate', vm: record.name, host: target.name, keys } as const
    const moved = await recordOperation(events, subject, async () => {
      if (encrypted)
        await events.append('com.vmware.vc.vm.VmHotMigratingWithEncryptionEvent', { ...names, keys })
      if (keys.length > 0) await giveKeys(this.#services, record, target, context)
      refuseCancelled(context.signal)
      return this.#services.intents.during(intentOf(record, keys), () =>
        this.#move(record, { source, target }, options, encrypted, context),
      )
    })
    await events.append('vim.event.VmMigratedEvent', names)
    return moved
  }

  /** The host that runs the VM: without it nobody has its memory. */
  async #source(vm: VmRecord): Promise<HostConnection> {
    const { connections, store } = this.#services
    const host = (await store.hosts.list()).find(({ id }) => id === vm.hostId)
    if (host) return connections.require(host)
    throw new VmsealError('VMSEAL_INVALID_POWER_STATE', `${vm.name} is on no host`, {
      details: { subject: vm.name },
    })
  }

  async #move(
    record: VmRecord,
    hosts: Hosts,
    options: LiveMigrateOptions,
    encrypted: boolean,
    context: TaskContext,
  ): Promise<VmRecord> {
    const { inventory } = this.#services
    const { source, target } = hosts
    try {
      const config = await this.#stream(record, hosts, options, encrypted, context)
      const moved = await inventory.absorb(record, config, target, { moved: true })
      // It only forgets: when it cannot be told, the lock keeps it from running the VM.
      await source.call((api) => api.endMigration(referenceOf(record), 'moved')).catch(tolerate)
      context.step({ actor: 'host', action: 'work committed', host: target.name })
      return moved
    } catch (error) {
      if (!isVmsealError(error)) throw error
      return await this.#afterFailure(record, hosts, error)
    }
  }

  async #stream(
    record: VmRecord,
    { source, target }: Hosts,
    { memory, memoryTarget }: LiveMigrateOptions,
    encrypted: boolean,
    { signal, step, onProgress }: TaskContext,
  ): Promise<VmConfig> {
    const migrationId = randomUUID()
    const vm = referenceOf(record)
    const { hostId, publicKey } = source.identity
    const { key, lock } = await target.call((api) =>
      api.prepareMigration(vm, {
        migrationId,
        memory: memoryTarget,
        ...(encrypted && { sealTo: { hostId, publicKey } }),
      }),
    )
    const spec = { migrationId, targetHostId: target.hostId, memory, ...(key && { key }) }
    const { memoryBytes } = await source.call((api) => api.beginMigration(vm, spec))
    const work = `memory of ${record.name}`
    step({ actor: 'host', action: 'work started', host: source.name, work })
    const read = (number: number) =>
      source.call((api) => api.readMigrationPiece(vm, migrationId, number, { signal }))
    let doneBytes = 0
    let next = read(0)
    for (let number = 0; ; number += 1) {
      const piece = await next
      refuseCancelled(signal)
      if (!piece.last) {
        next = read(number + 1)
        // It is waited for in its turn, unless the piece before fails.
        next.catch(() => {})
      }
      await target.call((api) => api.writeMigrationPiece(vm, migrationId, number, piece, { signal }))
      doneBytes += Math.floor((piece.data.length * 3) / 4)
      onProgress({ step: work, doneBytes, totalBytes: Math.max(doneBytes, memoryBytes) })
      if (piece.last) break
    }
    // The last moment: from here on it goes on to its end.
    refuseCancelled(signal)
    await source.call((api) => api.handOverMigration(vm, migrationId, lock))
    return target.call((api) => api.takeOverMigration(vm, migrationId))
  }

  /** Returns when the VM did move, and only the answer was lost. */
  async #afterFailure(record: VmRecord, { source, target }: Hosts, error: VmsealError): Promise<VmRecord> {
    const { events, inventory } = this.#services
    const outcome = await endMigration(record, source, [target])
    const absorbed =
      outcome.ran === 'unknown'
        ? record
        : await inventory.absorb(record, outcome.config, outcome.host, { moved: true })
    if (outcome.ran === 'target') return absorbed
    await events.append('vim.event.VmFailedMigrateEvent', {
      vm: record.name,
      host: target.name,
      sourceHost: source.name,
      error: error.code,
      powerState: outcome.ran === 'unknown' ? 'unknown' : outcome.config.powerState,
    })
    if (outcome.ran === 'unknown')
      throw new VmsealError(
        'VMSEAL_HOST_UNREACHABLE',
        `${record.name} runs on ${source.name} or ${target.name}, or is off and whole: which of it is seen when both answer. ${error.message}`,
        { cause: error, details: { subject: record.name } },
      )
    throw error
  }
}

/** VMSEAL_MIGRATION_NOT_SUPPORTED names the host that cannot do what the VM asks for. */
function isEncrypted(config: VmConfig, source: HostIdentity, target: HostIdentity): boolean {
  const can = (host: HostIdentity, what: HostCapability) => host.capabilities?.includes(what) === true
  const requireBoth = (what: HostCapability, reason: string): void => {
    for (const host of [source, target])
      if (!can(host, what))
        throw new VmsealError('VMSEAL_MIGRATION_NOT_SUPPORTED', `host ${host.name} ${reason}`, {
          details: { subject: host.name },
        })
  }
  requireBoth('liveMigration', 'cannot take part in the migration of a VM that runs')
  const usual: MigrateEncryption = config.homeKey ? 'required' : 'opportunistic'
  const mode = config.migrateEncryption ?? usual
  if (mode === 'required')
    requireBoth(
      'encryptedMigration',
      `takes no part in encrypted migrations, and migrateEncryption of ${config.name} is required`,
    )
  return mode !== 'disabled' && can(source, 'encryptedMigration') && can(target, 'encryptedMigration')
}

function checkOptions(options: LiveMigrateOptions): void {
  for (const name of ['host', 'memory', 'memoryTarget'] as const)
    if (typeof options?.[name] !== 'string' || options[name] === '')
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        `${name} is ${name === 'host' ? 'the name of a host' : 'a path'}`,
      )
}

function requireOn({ powerState, name }: VmConfig, host: HostConnection): void {
  if (powerState === 'poweredOn') return
  throw new VmsealError(
    'VMSEAL_INVALID_POWER_STATE',
    `${name} is off at host ${host.name}: there is no memory to move. Migrate it without`,
    { details: { subject: name } },
  )
}

function intentOf(record: VmRecord, keys: ReturnType<typeof keysOf>) {
  const { id: vmId, clusterId, datastore, vmx, homePolicyId } = record
  const kind = 'migrate' as const
  return { vmId, kind, clusterId, datastore, vmx, keys, homePolicyId, diskPolicyIds: {} }
}

function tolerate(error: unknown): void {
  if (!isVmsealError(error)) throw error
}
