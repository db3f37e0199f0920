/** A new key at a provider, with its making or its failure on record. */
import { isVmsealError, type CryptoKeyId } from '../errors.js'
import type { EventLog } from './events.js'
import { UnusedKeyError, type KeyPurpose } from './key-provider.js'
import type { KeyProviders } from './key-providers.js'

export async function makeKey(
  services: { readonly keyProviders: Pick<KeyProviders, 'open'>; readonly events: EventLog },
  providerId: string,
  purpose: KeyPurpose,
): Promise<CryptoKeyId> {
  const { keyProviders, events } = services
  try {
    const keyId = await (await keyProviders.open(providerId)).createKey(purpose)
    await events.append('vmseal.kms.crypto.KeyCreated', { keyId, providerId, context: purpose.name })
    return { keyId, providerId }
  } catch (error) {
    const unused = error instanceof UnusedKeyError ? { keyId: error.keyId } : {}
    const reason = error instanceof UnusedKeyError ? error.reason : error
    if (isVmsealError(reason))
      await events.append('com.vmware.vc.kms.crypto.KeyGenerateFail', {
        providerId,
        ...unused,
        error: reason.code,
        message: reason.message,
      })
    throw reason
  }
}
