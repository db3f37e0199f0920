/**
 * Host encryption mode, from vCenter's side: a host gets its host key and becomes safe when a task needs it to be, when
 * it comes back after a restart, or by hand. Of a host key vCenter keeps the id.
 */
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import type { HostApi, HostKeyChange, SealedKey } from '../rpc/host-api.js'
import type { ClusterRecord, HostRecord, Store } from '../store/store.js'
import type { EventLog } from './events.js'
import type { HostConnection } from './host-connections.js'
import { sameKey } from './key-distribution.js'
import { Turns } from './key-provider/turns.js'
import type { KeyProviders } from './key-providers.js'
import type { KeySealing } from './key-sealing.js'
import { makeKey } from './new-key.js'

export interface HostEncryptionServices {
  readonly store: Pick<Store, 'clusters' | 'hosts'>
  readonly events: EventLog
  readonly keyProviders: Pick<KeyProviders, 'open' | 'requireDefault'>
  readonly sealing: KeySealing
  /** Cryptographer.RegisterHost: rejects if the present user may not switch the host to safe. */
  readonly authorize: (host: HostConnection) => Promise<void>
}

export class HostEncryption {
  readonly #services: HostEncryptionServices
  readonly #turns = new Turns()

  constructor(services: HostEncryptionServices) {
    this.#services = services
  }

  /**
   * Switches the host to safe if it is not. Rejects with what `authorize` says, VMSEAL_INVALID_STATE while it waits for
   * a restart, VMSEAL_NO_DEFAULT_KEY_PROVIDER, or why its host key cannot be had.
   */
  async ensureSafe(host: HostConnection): Promise<void> {
    if (host.identity.cryptoState === 'safe') return
    await this.requireMaySafe(host)
    await this.restore(host)
  }

  /** What `ensureSafe` refuses for who asks, before anything is done. */
  async requireMaySafe(host: HostConnection): Promise<void> {
    if (host.identity.cryptoState === 'safe') return
    // What it was before its restart needs nobody's leave.
    if ((await this.#record(host)).cryptoKey === null) await this.authorize(host)
  }

  /** Rejects if the present user may not switch the host to safe (Cryptographer.RegisterHost). */
  authorize(host: HostConnection): Promise<void> {
    return this.#services.authorize(host)
  }

  /** As `ensureSafe`, whoever asks: for a host that was safe before it restarted. */
  restore(host: HostConnection): Promise<void> {
    return this.#turns.take(host.hostId, async () => {
      const { cryptoState, cryptoKeyId } = await host.identify()
      const record = await this.#record(host)
      if (cryptoState === 'safe') {
        // vCenter may have ended between the change at the host and its note of it.
        if (cryptoKeyId && !sameKey(cryptoKeyId, record.cryptoKey)) await this.#note(host, cryptoKeyId)
        return
      }
      await this.#enable(host, record)
    })
  }

  /**
   * vSphere's ConfigureCryptoKey: makes the host safe with this key, or with the host key that it had, or with a new one
   * of the default provider. A safe host changes its key to the given one.
   */
  async configureKey(host: HostConnection, key?: CryptoKeyId): Promise<HostKeyChange> {
    await this.authorize(host)
    return this.#turns.take(host.hostId, async () => {
      const { cryptoState, cryptoKeyId } = await host.identify()
      if (cryptoState === 'safe' && (!key || sameKey(key, cryptoKeyId))) return noChange
      if (cryptoState === 'safe') return this.#change(host, key as CryptoKeyId)
      const record = await this.#record(host)
      await this.#enable(host, record, key)
      return noChange
    })
  }

  /** vSphere's ChangeKey_Task: another host key, by default a new one, and the dumps wrapped anew. */
  async changeKey(host: HostConnection, key?: CryptoKeyId): Promise<HostKeyChange> {
    await this.authorize(host)
    return this.#turns.take(host.hostId, async () => {
      const { cryptoState } = await host.identify()
      if (cryptoState !== 'safe')
        throw new VmsealError('VMSEAL_INVALID_STATE', `host ${host.name} is ${cryptoState}, not safe`, {
          details: { subject: host.name },
        })
      return this.#change(host, key ?? (await this.#newKey(host)))
    })
  }

  /** Takes the host out of encryption mode; complete after its restart. VMSEAL_INVALID_STATE while it holds keys of VMs. */
  async disable(host: HostConnection): Promise<void> {
    await this.authorize(host)
    await this.#turns.take(host.hostId, async () => {
      await host.call((api) => api.disableCrypto())
      await host.identify()
      await this.#services.store.hosts.setCryptoKey(host.hostId, null)
      await this.#services.events.append('com.vmware.vc.host.Crypto.HostCryptoDisabled', { host: host.name })
    })
  }

  async #enable(host: HostConnection, record: HostRecord, given?: CryptoKeyId): Promise<void> {
    const { cryptoState } = host.identity
    if (cryptoState === 'pendingIncapable')
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `encryption mode of host ${host.name} was switched off. Restart the host, then it can be switched on`,
        { details: { subject: host.name } },
      )
    const [key, sealed] = given
      ? [given, await this.#seal(given, host)]
      : await this.#obtain(host, record.cryptoKey)
    if (cryptoState === 'incapable') await host.call((api) => api.prepareCrypto())
    await host.call((api) => api.enableCrypto(sealed))
    await host.identify()
    await this.#note(host, key)
    await this.#services.events.append('com.vmware.vc.host.Crypto.Enabled', { host: host.name, ...key })
  }

  /** The host key that the host had, or a new one if it had none or that one is gone. */
  async #obtain(host: HostConnection, had: CryptoKeyId | null): Promise<[CryptoKeyId, SealedKey]> {
    const { events } = this.#services
    try {
      const key = had ?? (await this.#keyOfCluster(host)) ?? (await this.#newKey(host))
      return [key, await this.#seal(key, host)]
    } catch (error) {
      if (!isVmsealError(error)) throw error
      const lost = error.code === 'VMSEAL_KEY_MISSING_IN_KMS' || error.code === 'VMSEAL_KEY_NOT_ACTIVE'
      if (had && lost) {
        // Only old dumps need it: the host gets another one, and they open again when the old key is back.
        const key = await this.#newKey(host)
        const sealed = await this.#seal(key, host)
        const details = { host: host.name, lost: had, key }
        await events.append('com.vmware.vc.host.Crypto.HostKey.NewKey.KeyMissingOnKMS', details)
        return [key, sealed]
      }
      await events.append(
        lost
          ? 'com.vmware.vc.host.Crypto.ReqEnable.KeyMissingOnKMS'
          : 'com.vmware.vc.host.Crypto.ReqEnable.KMSClusterError',
        { host: host.name, error: error.code, message: error.message },
      )
      throw error
    }
  }

  async #change(host: HostConnection, key: CryptoKeyId): Promise<HostKeyChange> {
    const sealed = await this.#seal(key, host)
    const change = await host.call((api: HostApi) => api.changeHostKey(sealed))
    await host.identify()
    await this.#note(host, key)
    await this.#services.events.append('com.vmware.vc.crypto.HostKeyUpdatedEvent', {
      host: host.name,
      key,
      rewrapped: change.rewrapped,
      failed: change.failed.map(({ dump }) => dump),
    })
    return change
  }

  /** The key that the crypto mode of the cluster gives to every host, if it names one. */
  async #keyOfCluster(host: HostConnection): Promise<CryptoKeyId | undefined> {
    const { cryptoProviderId: providerId, cryptoKeyId: keyId } = (await this.#cluster(host)) ?? {}
    return keyId && providerId ? { keyId, providerId } : undefined
  }

  async #newKey(host: HostConnection): Promise<CryptoKeyId> {
    const { store, keyProviders } = this.#services
    const named = (await this.#cluster(host))?.cryptoProviderId
    const providerId = named ?? (await keyProviders.requireDefault(host.clusterId))
    const key = await makeKey(this.#services, providerId, { name: host.name, identifier: host.hostId })
    // Before the host has it: after a crash it is still known whose key this is.
    await store.hosts.setCryptoKey(host.hostId, key)
    return key
  }

  async #seal(key: CryptoKeyId, host: HostConnection): Promise<SealedKey> {
    const [sealed] = await this.#services.sealing.fetchAndSeal(key, [host])
    if (sealed instanceof VmsealError || !sealed) throw sealed
    return sealed
  }

  #note(host: HostConnection, key: CryptoKeyId): Promise<void> {
    return this.#services.store.hosts.setCryptoKey(host.hostId, key)
  }

  async #cluster(host: HostConnection): Promise<ClusterRecord | undefined> {
    return (await this.#services.store.clusters.list()).find(({ id }) => id === host.clusterId)
  }

  async #record(host: HostConnection): Promise<HostRecord> {
    const record = (await this.#services.store.hosts.list()).find(({ id }) => id === host.hostId)
    if (record) return record
    throw new VmsealError('VMSEAL_NOT_FOUND', `host ${host.name} belongs to no cluster`, {
      details: { subject: host.name },
    })
  }
}

const noChange: HostKeyChange = { rewrapped: [], failed: [] }
