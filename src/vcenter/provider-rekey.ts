/** Shallow recrypt of everything under the keys of one provider: durable, at a limited rate, and goes on after a restart. */
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { VmsealError, isVmsealError, type CryptoKeyId, type ErrorCode } from '../errors.js'
import type { RekeyRecord, RekeyVmRecord, VmRecord } from '../store/store.js'
import { makeKey } from './new-key.js'
import type { Services } from './services.js'
import { refuseCancelled, type TaskContext } from './task.js'
import { VmRecrypt } from './vm-recrypt.js'

export interface RekeyOptions {
  /** The provider whose keys are to be replaced. It need not be registered any more, as long as hosts hold its keys. */
  readonly provider: string
  /** Where the new keys are made; default: the same provider. */
  readonly newProvider?: string
  /** Tells what would be done, and does nothing. */
  readonly dryRun?: boolean
  /** Virtual machines a minute at most; default: as fast as it goes. */
  readonly rateLimit?: number
  readonly signal?: AbortSignal
}

export interface RekeyOutcome {
  /** Name of the VM or host. */
  readonly name: string
  /** `waiting`: would be, or will be, recrypted. */
  readonly state: 'waiting' | 'done' | 'failed'
  /** Its new key, once there is one. */
  readonly key?: CryptoKeyId
  readonly error?: { readonly code: ErrorCode; readonly message: string }
}

export interface RekeyResult {
  readonly provider: string
  readonly newProvider: string
  readonly dryRun: boolean
  /** An earlier rekey of the provider, which was interrupted or had failures, goes on. */
  readonly resumed: boolean
  readonly virtualMachines: readonly RekeyOutcome[]
  /** Hosts whose host key moves to the new provider. */
  readonly hosts: readonly RekeyOutcome[]
}

/** VMs that are worked on at the same moment: each waits for a KMS and for the disks of its host. */
const atOnce = 4
const rateLimitMost = 100_000

export class ProviderRekey {
  readonly #services: Services

  constructor(services: Services) {
    this.#services = services
  }

  /** Failures of single VMs are in the result; the same call tries those again. */
  async run(options: RekeyOptions, context: TaskContext): Promise<RekeyResult> {
    const { provider, newProvider, dryRun = false, rateLimit } = checkOptions(options)
    const { keyProviders, store, clock } = this.#services
    const found = await store.rekeys.find(provider)
    if (found && newProvider !== undefined && found.newProviderId !== newProvider)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `a rekey of ${provider} to ${found.newProviderId} began at ${found.beganAt}: end that one first`,
        { details: { subject: provider } },
      )
    const target = found?.newProviderId ?? newProvider ?? provider
    await keyProviders.open(target)
    const begun = {
      id: randomUUID(),
      providerId: provider,
      newProviderId: target,
      beganAt: clock().toISOString(),
    }
    const rekey = found ?? begun
    const vms = await this.#vmsOf(rekey, found !== undefined)
    const hosts = await this.#hostsOf(rekey)
    const result = { provider, newProvider: target, dryRun, resumed: found !== undefined }
    if (dryRun)
      return {
        ...result,
        virtualMachines: vms.map(outcomeOf),
        hosts: hosts.map(({ name }) => ({ name, state: 'waiting' })),
      }
    if (!found) await store.rekeys.begin(rekey)
    for (const vm of vms) await store.rekeys.saveVm(rekey.id, vm)

    const done = await this.#recryptAll(rekey, vms, rateLimit, context)
    const moved: RekeyOutcome[] = []
    for (const host of hosts) {
      refuseCancelled(context.signal)
      moved.push(await this.#moveHostKey(host, target))
    }
    if ([...done, ...moved].every(({ state }) => state === 'done')) await store.rekeys.end(rekey.id)
    return { ...result, virtualMachines: done.map(outcomeOf), hosts: moved }
  }

  /** Those of an earlier call that are not done, and those under the provider's keys that it does not know. */
  async #vmsOf({ id, providerId, newProviderId }: RekeyRecord, resumed: boolean): Promise<RekeyVmRecord[]> {
    const { rekeys, virtualMachines } = this.#services.store
    const known = await rekeys.listVms(id)
    const rest = known
      .filter(({ state }) => state !== 'done')
      .map((vm) => ({ ...vm, state: 'waiting' as const, errorCode: null, errorMessage: null }))
    // With keys of the same provider, VMs that are new since the beginning have new keys.
    if (resumed && providerId === newProviderId) return rest
    const affected = (await virtualMachines.list()).filter((vm) => partsUnder(vm, providerId) !== undefined)
    const fresh = affected
      .filter((vm) => !known.some(({ vmId, state }) => vmId === vm.id && state !== 'done'))
      .map(({ id: vmId, name }) => newEntry(vmId, name))
    return [...rest, ...fresh].toSorted((a, b) => (a.name < b.name ? -1 : 1))
  }

  /** The host keys go along when the provider changes: without them no host takes keys after a restart. */
  async #hostsOf({ providerId, newProviderId }: RekeyRecord): Promise<{ id: string; name: string }[]> {
    if (providerId === newProviderId) return []
    const hosts = await this.#services.store.hosts.list()
    return hosts.filter(({ cryptoKey }) => cryptoKey?.providerId === providerId)
  }

  async #recryptAll(
    rekey: RekeyRecord,
    vms: readonly RekeyVmRecord[],
    rateLimit: number | undefined,
    context: TaskContext,
  ): Promise<RekeyVmRecord[]> {
    const results: RekeyVmRecord[] = []
    const waiting = [...vms.entries()]
    const began = performance.now()
    const work = async (): Promise<void> => {
      for (let next; (next = waiting.shift()) !== undefined;) {
        const [index, vm] = next
        await pause(rateLimit, began, index, context.signal)
        results[index] = await this.#recrypt(rekey, vm, context.signal)
        const doneBytes = results.filter((one) => one !== undefined).length
        context.onProgress({
          step: `recrypt ${vm.name}`,
          doneBytes,
          totalBytes: vms.length,
          unit: 'virtualMachines',
        })
      }
    }
    const outcomes = await Promise.allSettled(Array.from({ length: atOnce }, work))
    refuseCancelled(context.signal)
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
    return results
  }

  /** Never rejects for the VM; the key is on record before it is used, so that a second try takes the same. */
  async #recrypt(rekey: RekeyRecord, entry: RekeyVmRecord, signal: AbortSignal): Promise<RekeyVmRecord> {
    const { store, tasks, connections } = this.#services
    let current = entry
    try {
      const vm = await store.virtualMachines.findById(entry.vmId)
      const parts = vm && partsUnder(vm, rekey.providerId)
      if (vm && parts) {
        // No key is made for a VM that nobody can work on now.
        connections.place(vm.clusterId, vm.datastore, { preferred: vm.hostId })
        const purpose = { name: vm.name, identifier: vm.id }
        const key = entry.key ?? (await makeKey(this.#services, rekey.newProviderId, purpose))
        current = { ...entry, key }
        await store.rekeys.saveVm(rekey.id, current)
        const task = tasks.start({
          name: 'VirtualMachine.recrypt',
          entity: vm.name,
          lane: vm.id,
          signal,
          run: async (context) => {
            const present = await this.#services.inventory.require(vm.id, vm.name)
            return new VmRecrypt(this.#services).run(present, { depth: 'shallow', key, ...parts }, context)
          },
        })
        await task.done
      }
      current = { ...current, state: 'done' }
    } catch (error) {
      if (!isVmsealError(error)) throw error
      if (error.code === 'VMSEAL_CANCELLED') throw error
      current = { ...current, state: 'failed', errorCode: error.code, errorMessage: error.message }
    }
    await store.rekeys.saveVm(rekey.id, current)
    return current
  }

  async #moveHostKey(host: { id: string; name: string }, newProviderId: string): Promise<RekeyOutcome> {
    const { connections, hostEncryption } = this.#services
    const { id, name } = host
    try {
      const connection = connections.require(host)
      const key = await makeKey(this.#services, newProviderId, { name, identifier: id })
      await hostEncryption.configureKey(connection, key)
      return { name, state: 'done', key }
    } catch (error) {
      if (!isVmsealError(error)) throw error
      return { name, state: 'failed', error: { code: error.code, message: error.message } }
    }
  }
}

function checkOptions(options: RekeyOptions): RekeyOptions {
  const { provider, newProvider, rateLimit } = options
  for (const id of newProvider === undefined ? [provider] : [provider, newProvider])
    if (typeof id !== 'string' || id === '')
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'provider and newProvider are ids of key providers')
  checkRateLimit(rateLimit)
  return options
}

/** VMSEAL_INVALID_ARGUMENT unless absent or virtual machines a minute. */
export function checkRateLimit(rateLimit: number | undefined): void {
  const inRange = typeof rateLimit === 'number' && rateLimit > 0 && rateLimit <= rateLimitMost
  if (rateLimit !== undefined && !inRange)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `rateLimit is a number of virtual machines a minute, above 0 and up to ${rateLimitMost}`,
    )
}

/** The parts of a VM that are under a provider's keys; undefined: none. */
function partsUnder(vm: VmRecord, providerId: string): { home: boolean; disks: string[] } | undefined {
  // Which part a key of an interrupted recrypt belongs to is not in the store: all of them.
  const interrupted = vm.formerKeys.some((key) => key.providerId === providerId)
  const isUnder = (key: CryptoKeyId | null) => key !== null && (interrupted || key.providerId === providerId)
  const home = isUnder(vm.homeKey)
  const disks = vm.disks.filter(({ key }) => isUnder(key)).map(({ diskId }) => diskId)
  return home || disks.length > 0 ? { home, disks } : undefined
}

function newEntry(vmId: string, name: string): RekeyVmRecord {
  return { vmId, name, state: 'waiting', key: null, errorCode: null, errorMessage: null }
}

function outcomeOf({ name, state, key, errorCode, errorMessage }: RekeyVmRecord): RekeyOutcome {
  return {
    name,
    state,
    ...(key ? { key } : {}),
    ...(errorCode === null ? {} : { error: { code: errorCode, message: errorMessage ?? '' } }),
  }
}

/** The n-th VM begins not before its share of the minute. */
async function pause(
  rateLimit: number | undefined,
  began: number,
  index: number,
  signal: AbortSignal,
): Promise<void> {
  const wait = rateLimit === undefined ? 0 : began + (index * 60_000) / rateLimit - performance.now()
  if (wait > 0) await delay(wait, undefined, { signal }).catch(() => {})
  refuseCancelled(signal)
}
