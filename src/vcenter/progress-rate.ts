/** Bytes per second of a running task, smoothed so that a rate and a time left can be read by a person. */

const smoothingSeconds = 3
const shortestSampleSeconds = 0.05

export class ProgressRate {
  readonly #startedAt: number
  #sampledAt: number
  #sampledBytes = 0
  #rate: number | undefined

  /** `now` in milliseconds of a monotonic clock. */
  constructor(now: number) {
    this.#startedAt = now
    this.#sampledAt = now
  }

  /** Takes the bytes done so far; returns bytes per second. */
  update(doneBytes: number, now: number): number {
    const seconds = (now - this.#sampledAt) / 1000
    if (seconds < shortestSampleSeconds) return this.#rate ?? this.#average(doneBytes, now)
    const sample = Math.max(0, doneBytes - this.#sampledBytes) / seconds
    const weight = 1 - Math.exp(-seconds / smoothingSeconds)
    this.#rate = this.#rate === undefined ? sample : this.#rate + weight * (sample - this.#rate)
    this.#sampledAt = now
    this.#sampledBytes = doneBytes
    return this.#rate
  }

  #average(doneBytes: number, now: number): number {
    const seconds = (now - this.#startedAt) / 1000
    return seconds > 0 ? doneBytes / seconds : 0
  }
}
