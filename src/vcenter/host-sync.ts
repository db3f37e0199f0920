/** Brings a host up to date after it joined, restarted or came back: the same keys by id, never a new one. */
import { isVmsealError, type CryptoKeyId, type VmsealError } from '../errors.js'
import type { HostCryptoState } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import type { HostConnection } from './host-connections.js'
import { sameKey, withoutKeys } from './key-distribution.js'
import type { Services } from './services.js'

export interface HostSync {
  /** Name of the host. */
  readonly host: string
  /** Only a safe host has keys of VMs. */
  readonly cryptoState: HostCryptoState
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

/** `joins`: the host is added, by somebody who may switch it to safe. */
export async function synchroniseHost(
  services: Services,
  host: HostConnection,
  { joins = false } = {},
): Promise<HostSync> {
  const { store } = services
  const { name, bootId, datastores, cryptoState } = await host.identify()
  const before = (await store.hosts.list()).find((record) => record.id === host.hostId)
  // The files first: after a crash of vCenter they may name other keys than the store.
  const found = await readAll(services, await store.virtualMachines.listByHost(host.hostId), host)

  const keys = await store.virtualMachines.keysOfCluster(host.clusterId)
  const wanted = (before?.cryptoKey ?? null) !== null || (joins && keys.length > 0)
  const unsafe = await bringToSafe(services, host, wanted || cryptoState === 'safe')
  const present = await host.call((api) => api.listKeys())
  const missing = withoutKeys(keys, present)
  // A host that nobody switched to safe gets no keys, and misses none until a task needs it.
  const { pushed, failed } = unsafe
    ? { pushed: [], failed: missing.map((key) => ({ key, error: unsafe })) }
    : await services.distribution.pushMany(host.identity.cryptoState === 'safe' ? missing : [], host)

  const wereLocked = found.filter((record) => record.cryptoState === 'locked')
  const after = await readAll(services, wereLocked, host)
  const locked = after.filter((record) => record.cryptoState === 'locked')
  for (const record of locked) await tellWhyLocked(services, record, failed, host)
  if (before) await store.hosts.save({ ...before, name, bootId, datastores })
  return {
    host: host.name,
    cryptoState: host.identity.cryptoState,
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

/**
 * A host that was safe is safe again, with the same host key; one that joins is switched to safe if its cluster has keys.
 * Returns why it could not be.
 */
async function bringToSafe(
  services: Services,
  host: HostConnection,
  wanted: boolean,
): Promise<VmsealError | undefined> {
  try {
    if (wanted) await services.hostEncryption.restore(host)
    return undefined
  } catch (error) {
    if (isVmsealError(error) && host.reachable) return error
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
