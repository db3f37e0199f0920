/**
 * Why a VM lacks keys on its host: one structured reason for each key, from the moment it is missed until it is there.
 * What locks a VM is the key of its home alone; a missing key of a disk keeps it from being powered on.
 */
import { isDeepStrictEqual } from 'node:util'
import type { CryptoKeyId, ErrorCode, VmsealError } from '../errors.js'
import type { VmConfig } from '../rpc/host-api.js'
import type { KeyHop, MissingKeyRecord, MissingKeyTable, VmRecord } from '../store/store.js'
import type { EventLog, VCenterEventId } from './events.js'
import { sameKey } from './key-distribution.js'

/** One key that a VM needs and its host does not have. */
export interface MissingKey {
  readonly key: CryptoKeyId
  /** What it opens: `home`, and disks by device node. */
  readonly parts: readonly string[]
  /** Where the way of the key to the host ends. */
  readonly hop: KeyHop
  /** ISO 8601, UTC: since when it ends there. */
  readonly since: string
  readonly message: string
  /** The next step. */
  readonly action: string
  /** What the last attempt to get the key failed with. */
  readonly code?: ErrorCode
}

export interface KeyFailure {
  readonly key: CryptoKeyId
  readonly error: VmsealError
}

const actions: Readonly<Record<KeyHop, string>> = {
  hostCache: 'Wait: vCenter fetches the key and sends it to the host. To do it now, unlock the VM.',
  hostNotSafe:
    'Switch the host to safe (configureCryptoKey), or restart it if its encryption mode was switched off.',
  hostRefused: 'See why the host refused the key (the message), then unlock the VM.',
  providerNotRegistered: 'Add the key provider under exactly the id that the VM names, then unlock the VM.',
  kmsUnreachable:
    'Check the servers of the key provider (provider doctor). The VM unlocks when they are back.',
  kmsRefused: 'Give the vCenter access to the key at the KMS. The VM unlocks then.',
  keyMissing: 'Restore the key at the KMS under the same id. The VM unlocks then.',
  keyNotActive: 'Activate the key at the KMS. The VM unlocks then.',
}

/** The event that goes with the lock of a VM, by the hop at which the key of its home is held up. */
const lockEvents = {
  hostCache: 'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost',
  hostNotSafe: 'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost',
  hostRefused: 'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost',
  providerNotRegistered: 'com.vmware.vc.vm.Crypto.VMLocked.KMSClusterError',
  kmsUnreachable: 'com.vmware.vc.vm.Crypto.VMLocked.KMSClusterError',
  kmsRefused: 'com.vmware.vc.vm.Crypto.VMLocked.KMSClusterError',
  keyMissing: 'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnKMS',
  keyNotActive: 'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnKMS',
} as const satisfies Record<KeyHop, VCenterEventId>

const hopOfCode: Partial<Record<ErrorCode, KeyHop>> = {
  VMSEAL_KEY_PROVIDER_UNREACHABLE: 'kmsUnreachable',
  VMSEAL_KEY_MISSING_IN_KMS: 'keyMissing',
  VMSEAL_KEY_NOT_ACTIVE: 'keyNotActive',
  VMSEAL_KMIP_OPERATION_FAILED: 'kmsRefused',
}

export interface MissingKeysServices {
  readonly table: MissingKeyTable
  readonly providers: { list(): Promise<readonly { readonly id: string }[]> }
  readonly events: EventLog
  readonly clock: () => Date
}

export class MissingKeys {
  readonly #services: MissingKeysServices

  constructor(services: MissingKeysServices) {
    this.#services = services
  }

  /** What is known of the keys that `config`, as the VM's host shows it, lacks. */
  async reasons(vmId: string, config: VmConfig): Promise<MissingKey[]> {
    if (config.missingKeys.length === 0) return []
    const known = await this.#services.table.list(vmId)
    return this.#recordsOf(known, config, []).map((record) => describe(record, config))
  }

  /**
   * Remembers what the VM lacks, and tells of a lock whose reason is a new one. `failures`: what became of an attempt to
   * give its host the keys just now.
   */
  async note(
    vm: VmRecord,
    config: VmConfig,
    host: string,
    failures: readonly KeyFailure[] = [],
  ): Promise<MissingKey[]> {
    const { table, events } = this.#services
    const before = await table.list(vm.id)
    if (before.length === 0 && config.missingKeys.length === 0) return []
    const after = this.#recordsOf(before, config, await this.#withHops(failures))
    if (!isDeepStrictEqual(after, before)) await table.replace(vm.id, after)
    const reasons = after.map((record) => describe(record, config))
    const home = after.find((record) => sameKey(record.key, config.homeKey))
    const told = before.find((record) => sameKey(record.key, config.homeKey))
    if (config.cryptoState === 'locked' && home && home.hop !== told?.hop)
      await events.append(lockEvents[home.hop], { vm: vm.name, host, keys: config.missingKeys, reasons })
    return reasons
  }

  #recordsOf(
    known: readonly MissingKeyRecord[],
    config: VmConfig,
    failures: readonly (KeyFailure & { readonly hop: KeyHop })[],
  ): MissingKeyRecord[] {
    const now = this.#services.clock().toISOString()
    return config.missingKeys.map((key) => {
      const before = known.find((record) => sameKey(record.key, key))
      const failure = failures.find((entry) => sameKey(entry.key, key))
      const { hop, code, message } = failure
        ? { hop: failure.hop, code: failure.error.code, message: failure.error.message }
        : (before ?? { hop: 'hostCache' as const, code: null, message: notOnHost(key) })
      const since = before && before.hop === hop ? before.since : now
      return { key: { keyId: key.keyId, providerId: key.providerId }, hop, code, message, since }
    })
  }

  async #withHops(failures: readonly KeyFailure[]) {
    if (failures.length === 0) return []
    const registered = new Set((await this.#services.providers.list()).map(({ id }) => id))
    return failures.map((failure) => ({ ...failure, hop: hopOf(failure, registered) }))
  }
}

function hopOf({ key, error }: KeyFailure, registered: ReadonlySet<string>): KeyHop {
  const hop = hopOfCode[error.code]
  if (hop === 'kmsUnreachable' && !registered.has(key.providerId)) return 'providerNotRegistered'
  return hop ?? (error.code === 'VMSEAL_INVALID_STATE' ? 'hostNotSafe' : 'hostRefused')
}

function describe({ key, hop, code, message, since }: MissingKeyRecord, config: VmConfig): MissingKey {
  const opens = (keys: readonly (CryptoKeyId | undefined)[]): boolean =>
    keys.some((other) => sameKey(other, key))
  const home = opens([config.homeKey, ...(config.homeFormerKeys ?? [])]) ? ['home'] : []
  const disks = config.disks
    .filter((disk) => opens([disk.key, ...(disk.formerKeys ?? [])]))
    .map(({ device }) => device)
  return {
    key,
    parts: [...home, ...disks],
    hop,
    since,
    message,
    action: actions[hop],
    ...(code ? { code } : {}),
  }
}

function notOnHost({ keyId, providerId }: CryptoKeyId): string {
  return `key ${keyId} of key provider ${providerId} is not in the key cache of the host`
}
