/** Recrypt of a VM: another KEK for the same DEKs (shallow), or another KEK and other DEKs (deep). */
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import type { CryptoSpec, ReconfigureSpec, VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import { sameKey, tolerateKnown, withoutKeys } from './key-distribution.js'
import { takeUnusedFromHosts } from './key-provider/key-use.js'
import type { Services } from './services.js'
import { refuseCancelled, type TaskContext } from './task.js'
import { TaskKeys, homePart, type KeyName } from './task-keys.js'
import { requireSectors } from './vm-creation.js'
import { VmConversion, checkConversion, conversionOf, type ConversionOptions } from './vm-conversion.js'
import { findDisk, keysOf, referenceOf } from './vm-record.js'
import { refuseChain, refuseSnapshots } from './vm-snapshots.js'

export interface RecryptOptions extends ConversionOptions {
  /**
   * `shallow`: another KEK; no data is touched and the VM may be on. `deep`: another KEK and other DEKs; the data is written anew,
   * with the VM off.
   */
  readonly depth: 'shallow' | 'deep'
  /** The provider of the new key; default: that of the cluster. */
  readonly keyProvider?: string
  /** An existing key instead of a new one. */
  readonly key?: KeyName
  /** Default true. */
  readonly home?: boolean
  /** Default true: all that are encrypted. Or some, by device node or disk id. */
  readonly disks?: boolean | readonly string[]
  /** Deep: data unit of the disks, default as it is. */
  readonly sectorSize?: 512 | 4096
  /** The host that does the work; default: the one the VM is registered on. */
  readonly host?: string
  readonly signal?: AbortSignal
}

/** A part that gets another key, with the keys that open it now. */
interface Part {
  /** `home` or a disk id. */
  readonly id: string
  readonly keys: readonly CryptoKeyId[]
  /** The same by file, of each of which one is needed: those of a chain may be under different keys. */
  readonly files: readonly (readonly CryptoKeyId[])[]
}

export class VmRecrypt {
  readonly #services: Services
  readonly #keys: TaskKeys

  constructor(services: Services) {
    this.#services = services
    this.#keys = new TaskKeys(services)
  }

  /**
   * Every refusal comes before a key is made. When it fails in the middle the VM opens with the old keys and the new one, and
   * doing it again ends the work.
   */
  async run(vm: VmRecord, options: RecryptOptions, context: TaskContext): Promise<VmRecord> {
    checkOptions(options)
    const { connections, inventory } = this.#services
    const host = connections.place(vm.clusterId, vm.datastore, {
      name: options.host,
      preferred: vm.hostId,
    })
    const seen = await inventory.read(vm, host)
    const conversion = new VmConversion(this.#services)
    const { record, config } = await conversion.endAll(seen, host, options, context)
    const begun = options.key === undefined ? keyOfEnded(seen.config, config, options) : undefined
    const parts = partsOf(config, options).filter((part) => begun === undefined || !isUnderKey(part, begun))
    if (parts.length === 0) return record
    if (options.depth === 'deep') {
      await inventory.requireNotRunning(record)
      refuseSnapshots(config)
    }

    refuseChain(config, options.depth)
    const ids = parts.map(({ id }) => id)
    const key = options.key ?? begun
    const chosen = new Map(key === undefined ? [] : ids.map((id) => [id, key]))
    const named =
      options.depth === 'deep' ? await conversion.keysOf(ids, chosen, config, host, context) : chosen
    const choice = { named, providerId: options.keyProvider }
    const keyPlan = await this.#keys.plan(ids, choice, record.clusterId)
    if (options.depth === 'shallow' && parts.every(isUnder(keyPlan.existing))) {
      context.step({ actor: 'vcenter', action: 'nothing to change' })
      return record
    }
    await this.#ensureOpenable(config, parts, host, context)
    refuseCancelled(context.signal)
    const keys = await this.#keys.provide(keyPlan, record, host, context)
    try {
      const spec = specOf(parts, keys, options)
      const changed = await this.#apply(record, spec, host, [...keys.values()], options, context)
      const written = await inventory.absorb(record, changed, host, { moved: true })
      await this.#keys.reachLateHosts(record.clusterId, context)
      await takeUnusedFromHosts(
        this.#services,
        parts.flatMap((part) => part.keys),
      )
      return written
    } catch (error) {
      if (options.depth === 'deep') conversion.noteFailed(record, keys.values())
      // What was done stays done: the store must name the keys that the files name.
      await inventory.read(record, host).catch(tolerateKnown)
      throw error
    }
  }

  async #apply(
    record: VmRecord,
    spec: ReconfigureSpec,
    host: HostConnection,
    newKeys: readonly CryptoKeyId[],
    { depth }: RecryptOptions,
    { signal, onProgress, step }: TaskContext,
  ): Promise<VmConfig> {
    refuseCancelled(signal)
    const keys = withoutKeys([...keysOf(record), ...newKeys], [])
    const subject = { operation: 'recrypt', vm: record.name, host: host.name, keys } as const
    try {
      return await recordOperation(this.#services.events, subject, async () => {
        step({ actor: 'host', action: 'work started', host: host.name, work: `${depth} recrypt` })
        const config = await host.call((api) =>
          api.reconfigureVirtualMachine(referenceOf(record), spec, { signal, onProgress }),
        )
        step({ actor: 'host', action: 'work committed', host: host.name })
        return config
      })
    } catch (error) {
      await this.#services.events.append('com.vmware.vc.vm.crypto.RekeyFail', {
        vm: record.name,
        host: host.name,
        keys,
        error: isVmsealError(error) ? error.code : 'VMSEAL_INTERNAL',
      })
      throw error
    }
  }

  /** The host opens VM home and each part: one of the keys of each of its files is enough. */
  async #ensureOpenable(
    config: VmConfig,
    parts: readonly Part[],
    host: HostConnection,
    context: TaskContext,
  ): Promise<void> {
    const home = partsOf(config, { depth: 'shallow', home: true, disks: false })
    for (const keys of [...home, ...parts.filter(({ id }) => id !== homePart)].flatMap(
      ({ files }) => files,
    )) {
      if (keys.some((key) => !config.missingKeys.some((missing) => sameKey(missing, key)))) continue
      await this.#ensureOneOf(keys, config, host, context)
    }
  }

  async #ensureOneOf(
    keys: readonly CryptoKeyId[],
    config: VmConfig,
    host: HostConnection,
    { step }: TaskContext,
  ): Promise<void> {
    let failure: VmsealError | undefined
    for (const key of keys)
      try {
        await this.#services.distribution.ensure([key], host, step)
        return
      } catch (cause) {
        if (!isVmsealError(cause)) throw cause
        failure ??= cause
      }
    const ids = keys.map((key) => `${key.providerId}/${key.keyId}`).join(' or ')
    throw new VmsealError(
      'VMSEAL_ENCRYPTION_KEY_REQUIRED',
      `host ${host.name} needs key ${ids} and could not be given it: ${failure?.message}`,
      { cause: failure, details: { requiredKeys: keys, subject: config.name } },
    )
  }
}

function checkOptions(options: RecryptOptions): void {
  const { depth, sectorSize, disks, conversion } = options
  checkConversion(options)
  if (depth !== 'shallow' && depth !== 'deep')
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'depth is shallow or deep')
  if (sectorSize !== undefined && depth === 'shallow')
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'a shallow recrypt leaves the data: no sectorSize')
  if (depth === 'shallow' && Object.keys(conversionOf(options)).length > 0)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'a shallow recrypt leaves the data: nothing is converted',
    )
  if (sectorSize !== undefined && conversion === 'inPlace')
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'a recrypt in place keeps the sector size; to change it, convert to a copy',
    )
  if (sectorSize !== undefined) requireSectors(0, sectorSize)
  if (disks !== undefined && typeof disks !== 'boolean' && !Array.isArray(disks))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'disks is true, false, or a list of disks')
}

/** What is named must be encrypted; what is not, is left out when it is plain. */
function partsOf(config: VmConfig, { home = true, disks = true }: RecryptOptions): Part[] {
  const parts: Part[] = []
  if (home && config.homeKey) {
    const keys = [config.homeKey, ...(config.homeFormerKeys ?? [])]
    parts.push({ id: homePart, keys, files: [keys] })
  }
  const selected = Array.isArray(disks)
    ? disks.map((name: string) => findDisk(config.disks, name))
    : undefined
  for (const { diskId, device, key, formerKeys = [], linkKeys } of selected ?? (disks ? config.disks : [])) {
    const keys = key ? [key, ...formerKeys] : []
    if (key) parts.push({ id: diskId, keys, files: linkKeys ?? [keys] })
    else if (selected)
      throw new VmsealError('VMSEAL_DISK_STATE', `the disk ${device} of ${config.name} is not encrypted`, {
        details: { subject: device },
      })
  }
  if (parts.length === 0)
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `nothing of ${config.name} is encrypted that could be recrypted`,
    )
  return [...new Map(parts.map((part) => [part.id, part])).values()]
}

/** Whether a part is wrapped by the wanted key alone. */
function isUnder(wanted: ReadonlyMap<string, CryptoKeyId>) {
  return (part: Part): boolean => isUnderKey(part, wanted.get(part.id))
}

function isUnderKey({ keys }: Part, key: CryptoKeyId | undefined): boolean {
  return keys.length === 1 && sameKey(keys[0], key)
}

/** The new key of a deep recrypt in place that was ended just now: the rest of the VM gets the same. */
function keyOfEnded(
  before: VmConfig,
  after: VmConfig,
  { depth, keyProvider }: RecryptOptions,
): CryptoKeyId | undefined {
  if (depth !== 'deep') return undefined
  const ended = before.disks.find(({ conversion }) => conversion?.mode === 'recrypt')
  const key = after.disks.find(({ diskId }) => diskId === ended?.diskId)?.key
  return keyProvider === undefined || keyProvider === key?.providerId ? key : undefined
}

function specOf(
  parts: readonly Part[],
  keys: ReadonlyMap<string, CryptoKeyId>,
  options: RecryptOptions,
): ReconfigureSpec {
  const { depth, sectorSize } = options
  const cryptoOf = (part: string): CryptoSpec => {
    const newKey = keys.get(part)
    if (!newKey) throw new VmsealError('VMSEAL_INTERNAL', `no key was provided for ${part}`)
    return { type: depth === 'shallow' ? 'shallowRecrypt' : 'deepRecrypt', newKey }
  }
  const disks = parts
    .filter(({ id }) => id !== homePart)
    .map(({ id }) => ({ diskId: id, crypto: cryptoOf(id), ...(sectorSize ? { sectorSize } : {}) }))
  return {
    ...conversionOf(options),
    ...(disks.length < parts.length ? { home: cryptoOf(homePart) } : {}),
    disks,
  }
}
