/** A KEK on its way out of vCenter: fetched as a native handle, sealed to hosts, disposed of. */
import { randomBytes } from 'node:crypto'
import { isVmsealError, type CryptoKeyId, type VmsealError } from '../errors.js'
import { native, type KeyHandle } from '../native/load.js'
import { sealContext, type SealedKey } from '../rpc/host-api.js'
import type { HostConnection } from './host-connections.js'
import type { KeyProviders } from './key-providers.js'

const sealLifetimeMs = 2 * 60 * 1000
const nonceBytes = 16

export class KeySealing {
  readonly #providers: Pick<KeyProviders, 'open'>
  readonly #clock: () => Date

  constructor(providers: Pick<KeyProviders, 'open'>, clock: () => Date) {
    this.#providers = providers
    this.#clock = clock
  }

  /**
   * The key sealed to each host, as it identified itself last. The handle lives until every seal is made. Rejects if
   * the key cannot be had; the error of a single host stands in its place.
   */
  async fetchAndSeal(
    key: CryptoKeyId,
    hosts: readonly HostConnection[],
  ): Promise<(SealedKey | VmsealError)[]> {
    const handle = await (await this.#providers.open(key.providerId)).fetchKey(key.keyId)
    try {
      return hosts.map((host) => this.seal(key, handle, host))
    } finally {
      handle.dispose()
    }
  }

  seal(key: CryptoKeyId, handle: KeyHandle, host: HostConnection): SealedKey | VmsealError {
    const context = {
      keyId: key.keyId,
      providerId: key.providerId,
      hostId: host.hostId,
      nonce: randomBytes(nonceBytes).toString('base64'),
      expiresAt: new Date(this.#clock().getTime() + sealLifetimeMs).toISOString(),
    }
    try {
      const publicKey = Buffer.from(host.identity.publicKey, 'base64')
      const sealed = native.sealForHost(publicKey, sealContext(context), handle)
      return { ...context, sealed: sealed.toString('base64') }
    } catch (error) {
      if (isVmsealError(error)) return error
      throw error
    }
  }
}
