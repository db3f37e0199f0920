/** Brings a host up to date after it joined, restarted or came back: the same keys by id, never a new one. */
import { isVmsealError, type CryptoKeyId, type VmsealError } from '../errors.js'
import type { VmRecord } from '../store/store.js'
import type { HostConnection } from './host-connections.js'
import { sameKey, withoutKeys } from './key-distribution.js'
import type { Services } from './services.js'

export interface HostSync {
  /** Name of the host. */
  readonly host: string
  /** It restarted since it was last brought up to date. */
  readonly restarted: boolean
  /** Keys that it lacked and has now. */
  readonly pushed: readonly CryptoKeyId[]
  /** Keys that it still lacks, and why. */
  readonly failed: readonly KeyFailure[]
  /** Names of its VMs that were locked and are not any more. */
  readonly unlocked: readonly string[]
  /** Names of its VMs that are locked. */
  readonly locked: readonly string[]
}

export interface KeyFailure {
  readonly key: CryptoKeyId
  readonly error: VmsealError
}

const filesReadAtOnce = 8

export async function synchroniseHost(services: Services, host: HostConnection): Promise<HostSync> {
  const { store } = services
  const { name, bootId, datastores } = await host.identify()
  const before = (await store.hosts.list()).find((record) => record.id === host.hostId)
  // The files first: after a crash of vCenter they may name other keys than the store.
  const found = await readAll(services, await store.virtualMachines.listByHost(host.hostId), host)

  const present = await host.call((api) => api.listKeys())
  const missing = withoutKeys(await store.virtualMachines.keysOfCluster(host.clusterId), present)
  const { pushed, failed } = await pushAll(services, missing, host)

  const wereLocked = found.filter((record) => record.cryptoState === 'locked')
  const after = await readAll(services, wereLocked, host)
  const locked = after.filter((record) => record.cryptoState === 'locked')
  for (const record of locked) await tellWhyLocked(services, record, failed, host)
  if (before) await store.hosts.save({ ...before, name, bootId, datastores })
  return {
    host: host.name,
    restarted: before !== undefined && before.bootId !== bootId,
    pushed,
    failed,
    unlocked: after.filter((record) => record.cryptoState === 'unlocked').map((record) => record.name),
    locked: locked.map((record) => record.name),
  }
}

/** The VMs as their files are now. One whose files cannot be read, or that is being worked on, stays as known. */
async function readAll(
  services: Services,
  records: readonly VmRecord[],
  host: HostConnection,
): Promise<VmRecord[]> {
  const result: VmRecord[] = []
  for (let start = 0; start < records.length; start += filesReadAtOnce)
    result.push(
      ...(await Promise.all(
        records.slice(start, start + filesReadAtOnce).map(async (record) => {
          try {
            return (await services.inventory.read(record, host)).record
          } catch (error) {
            if (!isVmsealError(error) || !host.reachable) throw error
            return record
          }
        }),
      )),
    )
  return result
}

async function pushAll(
  services: Services,
  keys: readonly CryptoKeyId[],
  host: HostConnection,
): Promise<{ pushed: CryptoKeyId[]; failed: KeyFailure[] }> {
  const pushed: CryptoKeyId[] = []
  const failed: KeyFailure[] = []
  const unreachable = new Map<string, VmsealError>()
  for (const key of keys) {
    const error = unreachable.get(key.providerId) ?? (await pushOne(services, key, host))
    if (!error) pushed.push(key)
    else {
      failed.push({ key, error })
      // Its other keys would wait for the same time-out.
      if (error.code === 'VMSEAL_KEY_PROVIDER_UNREACHABLE') unreachable.set(key.providerId, error)
    }
  }
  return { pushed, failed }
}

async function pushOne(
  services: Services,
  key: CryptoKeyId,
  host: HostConnection,
): Promise<VmsealError | undefined> {
  try {
    const [push] = await services.distribution.push(key, [host])
    return push?.error
  } catch (error) {
    if (isVmsealError(error)) return error
    throw error
  }
}

async function tellWhyLocked(
  services: Services,
  record: VmRecord,
  failed: readonly KeyFailure[],
  host: HostConnection,
): Promise<void> {
  const cause = failed.find(({ key }) => sameKey(key, record.homeKey))
  if (!cause) return
  const missing = cause.error.code === 'VMSEAL_KEY_MISSING_IN_KMS'
  await services.events.append(
    missing
      ? 'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnKMS'
      : 'com.vmware.vc.vm.Crypto.VMLocked.KMSClusterError',
    { vm: record.name, host: host.name, keys: [cause.key] },
  )
}
