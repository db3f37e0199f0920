/** Locked VMs: what they still allow, and how they are unlocked. */
import { VmsealError, isVmsealError } from '../errors.js'
import type { VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import { sameKey } from './key-distribution.js'
import type { KeyFailure } from './missing-keys.js'
import type { Services } from './services.js'
import type { TaskContext } from './task.js'
import { referenceOf } from './vm-record.js'

/** vSphere's rule for a VM whose configuration key is missing. Every other task on it is refused. */
const allowedWhileLocked: ReadonlySet<string> = new Set([
  'VirtualMachine.unregister',
  'VirtualMachine.reload',
  'VirtualMachine.unlock',
])

type Step = TaskContext['step']

export class VmUnlocking {
  readonly #services: Services

  constructor(services: Services) {
    this.#services = services
  }

  /**
   * Lets a task begin on `host`. A VM that is locked there is first given its keys, if they can be had: only a VM whose
   * keys are neither on the host nor to be had refuses, with VMSEAL_ENCRYPTION_KEY_REQUIRED and the reason.
   */
  async refuseLocked(task: string, vm: VmRecord, host: HostConnection, step: Step): Promise<void> {
    if (allowedWhileLocked.has(task)) return
    const { inventory } = this.#services
    const seen = await inventory.read(vm, host)
    if (seen.config.cryptoState === 'unlocked') return
    const failures = await this.#push(vm, seen.config, host, [host], step)
    const now = await inventory.read(seen.record, host, failures)
    if (now.config.cryptoState !== 'locked') return
    throw lackedPrivilege(failures) ?? (await this.#locked(vm, now.config, host, failures))
  }

  /** Runs `act` on the host; when the host lacks keys for it, gets them and runs it once more. */
  async withKeys<Result>(
    vm: VmRecord,
    host: HostConnection,
    act: () => Promise<Result>,
    step: Step = () => {},
  ): Promise<Result> {
    try {
      return await act()
    } catch (error) {
      if (!isVmsealError(error, 'VMSEAL_ENCRYPTION_KEY_REQUIRED')) throw error
      const { config, record } = await this.#services.inventory.read(vm, host)
      const failures = await this.#push(vm, config, host, [host], step)
      const now = await this.#services.inventory.read(record, host, failures)
      // One key of each part is enough: what else is missing does no harm.
      const required = error.details.requiredKeys ?? []
      if (now.config.missingKeys.some((missing) => required.some((key) => sameKey(key, missing))))
        throw lackedPrivilege(failures) ?? explained(error, failures)
      return act()
    }
  }

  /**
   * Fetches the keys that the VM's host lacks and pushes them to the cluster (vSphere's CryptoUnlock_Task).
   * VMSEAL_INVALID_STATE if their provider is not registered, else why a key cannot be had.
   */
  async unlock(vm: VmRecord, host: HostConnection, step: Step): Promise<VmRecord> {
    const { connections, events, inventory } = this.#services
    const { record, config } = await inventory.read(vm, host)
    if (config.missingKeys.length === 0) return record
    await this.#requireProviders(config)
    const others = connections.ofCluster(vm.clusterId).filter(({ hostId }) => hostId !== host.hostId)
    const subject = { operation: 'unlock', vm: vm.name, host: host.name, keys: config.missingKeys } as const
    let failures: readonly KeyFailure[] = []
    try {
      await recordOperation(events, subject, async () => {
        failures = await this.#push(vm, config, host, [host, ...others], step)
        if (!failures[0]) return
        // One key of each part is enough.
        const { config: now } = await inventory.read(record, host, failures)
        if (now.missingKeys.length > 0) throw failures[0].error
      })
    } finally {
      // Also after a failure: the key of VM home may be there while that of a disk is not.
      await inventory.read(record, host, failures)
    }
    return inventory.require(vm.id, vm.name)
  }

  /**
   * Why `host`, one of `hosts`, did not get keys; the others are served as well as can be. Who has a VM's keys fetched needs
   * the privilege to register it, whatever he wants of it.
   */
  async #push(
    { id }: VmRecord,
    { missingKeys }: VmConfig,
    host: HostConnection,
    hosts: readonly HostConnection[],
    step: Step,
  ): Promise<KeyFailure[]> {
    if (missingKeys.length > 0)
      await this.#services.access.require('Cryptographer.RegisterVM', { type: 'vm', id })
    const failures: KeyFailure[] = []
    for (const key of missingKeys)
      failures.push(...(await this.#services.distribution.tryPush(key, host, hosts, step)))
    return failures
  }

  async #requireProviders({ missingKeys }: VmConfig): Promise<void> {
    const registered = new Set((await this.#services.store.keyProviders.list()).map(({ id }) => id))
    const unknown = missingKeys.find(({ providerId }) => !registered.has(providerId))
    if (!unknown) return
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `the VM names key provider '${unknown.providerId}', which is not registered. Add it under exactly this id`,
      { details: { subject: unknown.providerId } },
    )
  }

  async #locked(
    vm: VmRecord,
    config: VmConfig,
    host: HostConnection,
    failures: readonly KeyFailure[],
  ): Promise<VmsealError> {
    const reasons = await this.#services.inventory.missingKeys.reasons(vm.id, config)
    const home = reasons.find(({ parts }) => parts.includes('home'))
    return new VmsealError(
      'VMSEAL_ENCRYPTION_KEY_REQUIRED',
      `${vm.name} is locked on host ${host.name}: ${home?.message ?? 'the key of VM home is missing'}. Only unlock, reload and unregister are possible. ${home?.action ?? ''}`.trim(),
      {
        cause: failures[0]?.error,
        details: { requiredKeys: config.missingKeys, subject: labelOf(vm) },
      },
    )
  }
}

/** A key that did not come because of it: who asks is told which privilege he lacks. */
function lackedPrivilege(failures: readonly KeyFailure[]): VmsealError | undefined {
  return failures.find(({ error }) => error.code === 'VMSEAL_NO_PERMISSION')?.error
}

function explained(refusal: VmsealError, failures: readonly KeyFailure[]): VmsealError {
  const reasons = failures.map(({ error }) => error.message).join('; ')
  return new VmsealError(refusal.code, `${refusal.message}. ${reasons}`, {
    cause: failures[0]?.error,
    details: refusal.details,
  })
}

function labelOf(vm: VmRecord): string {
  const { datastore, vmx } = referenceOf(vm)
  return `[${datastore}] ${vmx}`
}
