/** What a caller is told when no server of a provider served it: one error for all servers. */
import { VmsealError } from '../../errors.js'
import type { NoAnswerError } from './replicas.js'
import type { ServerFailure } from './server.js'

export class ProviderErrors {
  readonly #providerId: string
  readonly #onUnreachable: (message: string) => Promise<void>

  /** `onUnreachable` is told before anybody gets the error. */
  constructor(providerId: string, onUnreachable: (message: string) => Promise<void>) {
    this.#providerId = providerId
    this.#onUnreachable = onUnreachable
  }

  missing(keyId: string, { cause }: ServerFailure): VmsealError {
    const text = `key provider ${this.#providerId} does not know key ${keyId}. Restore it at the KMS under this id`
    return new VmsealError('VMSEAL_KEY_MISSING_IN_KMS', text, { cause, details: { subject: keyId } })
  }

  notActive(keyId: string, state: unknown): VmsealError {
    const text = `key ${keyId} of key provider ${this.#providerId} is ${String(state)}, not Active`
    return new VmsealError('VMSEAL_KEY_NOT_ACTIVE', text, { details: { subject: keyId } })
  }

  async unreachable({ failures, message: reasons }: NoAnswerError): Promise<VmsealError> {
    const message = `no server of key provider ${this.#providerId} can be used. ${reasons}`
    await this.#onUnreachable(message)
    const lost = failures.find((failure) => !failure.refused)
    return new VmsealError('VMSEAL_KEY_PROVIDER_UNREACHABLE', message, {
      cause: lost?.cause,
      details: { subject: this.#providerId },
    })
  }

  /** The first refusal of a server that answers, else unreachable. */
  async refusalOrUnreachable(none: NoAnswerError): Promise<VmsealError> {
    return none.failures.find((failure) => failure.refused)?.cause ?? (await this.unreachable(none))
  }
}
