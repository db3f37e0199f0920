/** Brings a host up to date after it joined, restarted or came back: the same keys by id, never a new one. */
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import type { HostCryptoState } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import type { HostConnection } from './host-connections.js'
import { sameKey, withoutKeys } from './key-distribution.js'
import type { KeyFailure } from './missing-keys.js'
import type { Services } from './services.js'
import { keysOf } from './vm-record.js'

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

const filesReadAtOnce = 16

/** `joins`: the host is added, by somebody who may switch it to safe. */
export function synchroniseHost(
  services: Services,
  host: HostConnection,
  { joins = false } = {},
): Promise<HostSync> {
  return services.restoration.inTurn(host, () => synchronise(services, host, joins))
}

async function synchronise(services: Services, host: HostConnection, joins: boolean): Promise<HostSync> {
  const { store } = services
  const { name: hostName, bootId, datastores, cryptoState } = await host.identify()
  host.catchUp()
  const before = (await store.hosts.list()).find((record) => record.id === host.hostId)
  await services.intents.settle(host)
  // The files first: after a crash of vCenter they may name other keys than the store.
  const found = await readAll(services, await store.virtualMachines.listByHost(host.hostId), host)

  const keysOfCluster = () => store.virtualMachines.keysOfCluster(host.clusterId)
  const encrypted = found.some((record) => keysOf(record).length > 0)
  const forced = (await store.clusters.list()).some(
    ({ id, cryptoMode }) => id === host.clusterId && cryptoMode === 'forceEnable',
  )
  const wanted =
    forced ||
    encrypted ||
    (before?.cryptoKey ?? null) !== null ||
    (joins && (await keysOfCluster()).length > 0)
  const unsafe = await bringToSafe(services, host, wanted || cryptoState === 'safe')
  const present = await host.call((api) => api.listKeys())
  // Only now: what the files of other hosts named meanwhile counts.
  const missing = withoutKeys(await keysOfCluster(), present)
  // A host that nobody switched to safe gets no keys, and misses none until a task needs it.
  const safe = host.identity.cryptoState === 'safe'
  const push = async (lacking: readonly CryptoKeyId[]): Promise<Pick<HostSync, 'pushed' | 'failed'>> =>
    unsafe
      ? { pushed: [], failed: lacking.map((key) => ({ key, error: unsafe })) }
      : services.distribution.pushMany(safe ? lacking : [], host)

  // Its own VMs do not wait for the keys of all others, of which a large cluster has thousands.
  const ofOthers = withoutKeys(missing, found.flatMap(keysOf))
  const own = withoutKeys(missing, ofOthers)
  const first = await push(own)
  const lacked = found.filter((record) => record.cryptoState === 'locked' || missesKeys(record, own))
  const failures = safe ? first.failed : [...first.failed, ...notSafe(host, own)]
  const after = await readAll(services, lacked, host, failures)
  const rest = await push(ofOthers)
  const locked = after.filter((record) => record.cryptoState === 'locked')
  const wereLocked = new Set(found.filter(({ cryptoState: state }) => state === 'locked').map(({ id }) => id))
  const stillLocked = new Set(locked.map(({ id }) => id))
  if (before) await store.hosts.save({ ...before, name: hostName, bootId, datastores })
  return {
    host: host.name,
    cryptoState: host.identity.cryptoState,
    restarted: before !== undefined && before.bootId !== bootId,
    pushed: [...first.pushed, ...rest.pushed],
    failed: [...first.failed, ...rest.failed],
    unlocked: after.filter(({ id }) => wereLocked.has(id) && !stillLocked.has(id)).map(({ name }) => name),
    locked: locked.map((record) => record.name),
  }
}

/** The VMs as their files are now. One whose files cannot be read, or that is being worked on, stays as known. */
async function readAll(
  services: Services,
  records: readonly VmRecord[],
  host: HostConnection,
  failures: readonly KeyFailure[] = [],
): Promise<VmRecord[]> {
  const result: VmRecord[] = []
  for (let start = 0; start < records.length; start += filesReadAtOnce)
    result.push(
      ...(await Promise.all(
        records.slice(start, start + filesReadAtOnce).map(async (record) => {
          try {
            return (await services.inventory.read(record, host, failures)).record
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
 * A host that was safe, or that has encrypted VMs of its own, is safe again, with the same host key; one that joins is
 * switched to safe if its cluster has keys, and every one of a cluster that forces it.
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

function missesKeys(record: VmRecord, missing: readonly CryptoKeyId[]): boolean {
  return keysOf(record).some((key) => missing.some((other) => sameKey(key, other)))
}

function notSafe(host: HostConnection, missing: readonly CryptoKeyId[]): KeyFailure[] {
  const message = `host ${host.name} takes no keys: its encryption mode is ${host.identity.cryptoState}`
  return missing.map((key) => ({ key, error: new VmsealError('VMSEAL_INVALID_STATE', message) }))
}
