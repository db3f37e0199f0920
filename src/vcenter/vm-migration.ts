/** A VM that is off gets another host of its cluster: its keys go there first, sealed, and its files stay where they are. */
import { VmsealError } from '../errors.js'
import type { VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import { heldOn, withoutKeys } from './key-distribution.js'
import type { Services } from './services.js'
import { refuseCancelled, type TaskContext } from './task.js'
import { keysOf } from './vm-record.js'
import { VmUnlocking } from './vm-unlocking.js'

export interface MigrateOptions {
  /** Name of a host of the VM's cluster that has its datastore. */
  readonly host: string
  readonly signal?: AbortSignal
}

export class VmMigration {
  readonly #services: Services

  constructor(services: Services) {
    this.#services = services
  }

  /** The VM stays where it is until the host opens every part of it. */
  async migrate(vm: VmRecord, options: MigrateOptions, context: TaskContext): Promise<VmRecord> {
    const { access, connections, inventory, events, hostEncryption } = this.#services
    if (typeof options.host !== 'string')
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'host is the name of a host')
    const host = connections.placeNew(vm.clusterId, vm.datastore, { name: options.host })
    if (keysOf(vm).length > 0) await access.require('Cryptographer.Migrate', { type: 'vm', id: vm.id })
    await this.#requireOff(vm)
    // Another directory under the same datastore name is found out here: these files, as new as they are known, are what it sees.
    const { record, config } = await inventory.read(vm, host)
    if (record.hostId === host.hostId) {
      await new VmUnlocking(this.#services).refuseLocked('VirtualMachine.migrate', record, host, context.step)
      context.step({ actor: 'vcenter', action: 'nothing to change' })
      return record
    }
    const keys = withoutKeys(keysOf(record), [])
    if (keys.length > 0) {
      await access.require('Cryptographer.Migrate', { type: 'vm', id: vm.id })
      await host.identify()
      await hostEncryption.requireMaySafe(host)
    }
    refuseCancelled(context.signal)
    const from = this.#hostName(record)
    const subject = { operation: 'migrate', vm: record.name, host: host.name, keys } as const
    const moved = await recordOperation(events, subject, async () => {
      if (keys.length > 0)
        await events.append('com.vmware.vc.vm.VmMigratingWithEncryptionEvent', {
          vm: record.name,
          host: host.name,
          keys,
          ...from,
        })
      const ready = keys.length > 0 ? await giveKeys(this.#services, record, host, context) : config
      refuseCancelled(context.signal)
      return inventory.absorb(record, ready, host, { moved: true })
    })
    await events.append('vim.event.VmMigratedEvent', { vm: record.name, host: host.name, ...from })
    return moved
  }

  /** Also of a host that is silent: it may run the VM, and no other host would know. */
  async #requireOff(vm: VmRecord): Promise<void> {
    const { connections, inventory } = this.#services
    await inventory.requireNotRunning(vm)
    const { hostId, powerState } = await inventory.require(vm.id, vm.name)
    if (powerState === 'poweredOff' || hostId === null || connections.get(hostId)?.reachable) return
    const { sourceHost = 'its host' } = this.#hostName(vm)
    throw new VmsealError(
      'VMSEAL_INVALID_POWER_STATE',
      `${vm.name} was on when ${sourceHost} was last heard of. Connect that host, or power the VM on at another one, which its lock allows when it runs nowhere`,
      { details: { subject: vm.name } },
    )
  }

  #hostName({ hostId }: VmRecord): { readonly sourceHost?: string } {
    const sourceHost = hostId === null ? undefined : this.#services.connections.get(hostId)?.name
    return sourceHost === undefined ? {} : { sourceHost }
  }
}

/** The VM as the host sees it once it has the keys. VMSEAL_ENCRYPTION_KEY_REQUIRED when it cannot be given what opens every part. */
export async function giveKeys(
  services: Services,
  record: VmRecord,
  host: HostConnection,
  { step }: Pick<TaskContext, 'step'>,
): Promise<VmConfig> {
  const { distribution, hostEncryption, inventory } = services
  await hostEncryption.ensureSafe(host)
  const keys = withoutKeys(keysOf(record), [])
  const { failed } = await distribution.pushMany(withoutKeys(keys, await heldOn(host, keys)), host, step)
  const { config } = await inventory.read(record, host)
  // One key of each part is enough: a former key that is gone holds nothing up.
  if (config.missingKeys.length === 0) return config
  const reasons = failed.map(({ error }) => error.message).join('; ')
  throw new VmsealError(
    'VMSEAL_ENCRYPTION_KEY_REQUIRED',
    `${record.name} stays where it is: host ${host.name} lacks keys of it. ${reasons}`.trim(),
    {
      cause: failed[0]?.error,
      details: { requiredKeys: config.missingKeys, subject: `[${record.datastore}] ${record.vmx}` },
    },
  )
}
