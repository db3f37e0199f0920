/**
 * The crypto mode of a cluster (vSphere's SetCryptoMode): whether its hosts become safe when a task needs it, or at once and
 * always; and where their host keys come from.
 */
import { VmsealError, isVmsealError, type CryptoKeyId, type ErrorCode } from '../errors.js'
import type { HostCryptoState } from '../rpc/host-api.js'
import type { ClusterRecord, Store } from '../store/store.js'
import type { HostConnection } from './host-connections.js'
import { synchroniseHost } from './host-sync.js'
import { notFound } from './names.js'
import type { Services } from './services.js'

/** `onDemand`: a host is switched to safe when a task needs it. `forceEnable`: every host is safe, also those that join later. */
export type ClusterCryptoMode = 'onDemand' | 'forceEnable'

/** Where a host that becomes safe gets its host key from. Default: a new one of the default key provider. */
export interface CryptoModePolicy {
  /** This key for every host. */
  readonly keyId?: CryptoKeyId
  /** A new key of this provider for each host. */
  readonly providerId?: string
}

export interface ClusterCryptoModeInfo extends CryptoModePolicy {
  readonly mode: ClusterCryptoMode
}

/** Of one host that was connected. */
export interface HostCryptoOutcome {
  readonly host: string
  readonly cryptoState: HostCryptoState
  /** Why it is not safe although the mode forces it. It is tried again when the host is brought up to date. */
  readonly error?: ErrorCode
  readonly message?: string
}

export interface CryptoModeChange extends ClusterCryptoModeInfo {
  readonly hosts: readonly HostCryptoOutcome[]
}

export async function cryptoModeOf(
  store: Pick<Store, 'clusters'>,
  clusterId: string,
): Promise<ClusterCryptoModeInfo> {
  const record = (await store.clusters.list()).find(({ id }) => id === clusterId)
  if (!record) throw notFound('cluster', clusterId)
  return infoOf(record)
}

/** What is asked for, checked: VMSEAL_INVALID_ARGUMENT, VMSEAL_NOT_FOUND, VMSEAL_NO_DEFAULT_KEY_PROVIDER. Nothing is done. */
export async function checkCryptoMode(
  { keyProviders }: Pick<Services, 'keyProviders'>,
  clusterId: string,
  mode: unknown,
  policy: CryptoModePolicy,
): Promise<ClusterCryptoModeInfo> {
  const { keyId, providerId } = policy
  // vSphere: the empty string means the default.
  const wanted = mode === '' ? 'onDemand' : mode
  if (wanted !== 'onDemand' && wanted !== 'forceEnable')
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'the crypto mode of a cluster is onDemand or forceEnable',
    )
  if (keyId !== undefined && providerId !== undefined)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'a crypto mode has either a key or a key provider, not both',
    )
  if (keyId !== undefined && (typeof keyId.keyId !== 'string' || keyId.keyId === ''))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'keyId must be { keyId, providerId }')
  const named = keyId?.providerId ?? providerId
  if (named !== undefined) await keyProviders.get(named)
  else if (wanted === 'forceEnable') await keyProviders.requireDefault(clusterId)
  return {
    mode: wanted,
    ...(keyId ? { keyId: { keyId: keyId.keyId, providerId: keyId.providerId } } : {}),
    ...(providerId === undefined ? {} : { providerId }),
  }
}

/** The mode is on record first, so that a host that joins in the middle follows it. Hosts that are safe keep their host keys. */
export async function setCryptoMode(
  services: Services,
  cluster: { readonly id: string; readonly name: string },
  wanted: ClusterCryptoModeInfo,
): Promise<CryptoModeChange> {
  const { store, events, connections } = services
  const { mode, keyId, providerId } = wanted
  await store.clusters.setCryptoMode(cluster.id, {
    cryptoMode: mode,
    cryptoProviderId: keyId?.providerId ?? providerId ?? null,
    cryptoKeyId: keyId?.keyId ?? null,
  })
  await events.append('vmseal.cluster.crypto.ModeChanged', { cluster: cluster.name, ...wanted })
  const hosts = await Promise.all(
    connections.ofCluster(cluster.id).map((host) => follow(services, host, mode)),
  )
  return { ...wanted, hosts }
}

/** One host that fails does not hold up the others. */
async function follow(
  services: Services,
  host: HostConnection,
  mode: ClusterCryptoMode,
): Promise<HostCryptoOutcome> {
  const { name } = host
  try {
    if (mode === 'forceEnable' && (await host.identify()).cryptoState !== 'safe') {
      await services.hostEncryption.configureKey(host)
      await synchroniseHost(services, host)
    }
    return { host: name, cryptoState: host.identity.cryptoState }
  } catch (error) {
    if (!isVmsealError(error)) throw error
    const { code, message } = error
    return { host: name, cryptoState: host.identity.cryptoState, error: code, message }
  }
}

function infoOf({ cryptoMode, cryptoProviderId, cryptoKeyId }: ClusterRecord): ClusterCryptoModeInfo {
  if (cryptoProviderId === null) return { mode: cryptoMode }
  return cryptoKeyId === null
    ? { mode: cryptoMode, providerId: cryptoProviderId }
    : { mode: cryptoMode, keyId: { keyId: cryptoKeyId, providerId: cryptoProviderId } }
}
