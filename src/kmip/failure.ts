/** KMIP failures as errors, and errors as KMIP failures. */
import { VmsealError } from '../errors.js'
import { isResultReason } from './result-reason.js'
import type { ResultReason } from './result-reason.js'

/** The error of an operation that the server refuses. A version without the reason is told the nearest it has. */
export function kmipFailure(reason: ResultReason, message: string): VmsealError {
  return new VmsealError('VMSEAL_KMIP_OPERATION_FAILED', message, { details: { resultReason: reason } })
}

/** What the server tells the client about an error: its reason, and a text that is safe to show. */
export function toFailure(error: unknown): Failure {
  const { reason, message } = describe(error)
  if (message.length <= longestMessage) return { reason, message }
  // Without half of a surrogate pair at the cut.
  return { reason, message: `${message.slice(0, longestMessage).replace(/\p{Surrogate}/u, '')}...` }
}

export interface Failure {
  readonly reason: ResultReason
  readonly message: string
}

/** A message may quote what the client sent. */
const longestMessage = 300

function describe(error: unknown): Failure {
  if (!(error instanceof VmsealError))
    return { reason: 'GeneralFailure', message: 'internal error of the server' }
  const { resultReason } = error.details
  switch (error.code) {
    case 'VMSEAL_KMIP_OPERATION_FAILED':
    case 'VMSEAL_KMIP_MALFORMED':
      return {
        reason: isResultReason(resultReason) ? resultReason : 'InvalidMessage',
        message: error.message,
      }
    case 'VMSEAL_KMIP_TOO_LARGE':
    case 'VMSEAL_KMIP_VERSION':
      return { reason: 'InvalidMessage', message: error.message }
    case 'VMSEAL_SEALED_RECORD_INVALID':
      return { reason: 'CryptographicFailure', message: error.message }
    default:
      return { reason: 'GeneralFailure', message: `internal error of the server: ${error.code}` }
  }
}
