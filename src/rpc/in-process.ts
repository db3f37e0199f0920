/**
 * A host in this process behind the same wall as one across a network: arguments, results, progress
 * and errors cross as JSON text, so nothing but JSON can cross.
 */
import { fromErrorMessage, toErrorMessage } from './error-message.js'
import type { HostApi, Work, WorkProgress } from './host-api.js'
import { callHost, hostApiOf } from './host-methods.js'

export function connectInProcess(host: HostApi): HostApi {
  return hostApiOf(async (name, values, work) => {
    const crossed = throughJson(values)
    let outcome: unknown
    try {
      outcome = await callHost(host, name, crossed, cross(work))
    } catch (error) {
      throw fromErrorMessage(throughJson(toErrorMessage(error)))
    }
    return throughJson(outcome)
  })
}

/** Callbacks go alongside; what they carry is JSON too. */
function cross({ onProgress, signal }: Work): Work {
  return {
    ...(onProgress && { onProgress: (progress: WorkProgress) => onProgress(throughJson(progress)) }),
    ...(signal && { signal }),
  }
}

function throughJson<T>(value: T): T {
  return value === undefined ? value : (JSON.parse(JSON.stringify(value)) as T)
}
