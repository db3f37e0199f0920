/** How long the client side of a KMS cluster waits. All times are milliseconds. */

export interface KeyProviderTiming {
  /** For name resolution, TCP, TLS and the choice of the KMIP version. */
  readonly connectTimeoutMs: number
  /** For one request on an open connection. */
  readonly requestTimeoutMs: number
  /** For one call of the provider, whatever it has to try. */
  readonly operationTimeoutMs: number
  /** A read that has no answer after this time is asked of the next server too. */
  readonly hedgeDelayMs: number
  /** How long a server rests after its first failure; twice as long after each further one. */
  readonly firstBackoffMs: number
  readonly longestBackoffMs: number
  /** A Create that no server knows of after this time did not happen. */
  readonly lateCreateMs: number
}

export const defaultTiming: KeyProviderTiming = {
  connectTimeoutMs: 3000,
  requestTimeoutMs: 10_000,
  operationTimeoutMs: 30_000,
  hedgeDelayMs: 1000,
  firstBackoffMs: 1000,
  longestBackoffMs: 60_000,
  lateCreateMs: 10 * 60_000,
}
