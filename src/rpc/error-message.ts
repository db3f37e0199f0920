/** An error as JSON: what is in it is safe to show. */
import { VmsealError, isErrorCode, isVmsealError, type ErrorDetails } from '../errors.js'

export interface ErrorMessage {
  readonly code: string
  readonly message: string
  readonly details: ErrorDetails
}

export function toErrorMessage(error: unknown): ErrorMessage {
  if (isVmsealError(error)) return { code: error.code, message: error.message, details: error.details }
  return {
    code: 'VMSEAL_INTERNAL',
    message: error instanceof Error ? error.message : String(error),
    details: {},
  }
}

/** A code that this version does not know becomes VMSEAL_INTERNAL; the message still tells. */
export function fromErrorMessage({ code, message, details }: ErrorMessage): VmsealError {
  return new VmsealError(isErrorCode(code) ? code : 'VMSEAL_INTERNAL', message, { details })
}
