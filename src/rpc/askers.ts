/**
 * From whom a host takes new requests: who greeted it last. What an earlier one sent before it ended may be on its way
 * still, when a later one has looked at the host and drawn its conclusions. Whoever sends has greeted, so it cannot come back
 * by a greeting of its own that is late.
 */

/** Earlier askers that are remembered. */
const mostFollowed = 1000

export class Askers {
  #latest: string | undefined
  readonly #followed = new Set<string>()

  /** False: another has followed this one. Undefined: a vCenter of an earlier release, which says nothing of itself. */
  greet(asker: string | undefined): boolean {
    if (this.isFollowed(asker)) return false
    if (asker === undefined || asker === this.#latest) return true
    if (this.#latest !== undefined) this.#followed.add(this.#latest)
    this.#latest = asker
    const [oldest] = this.#followed
    if (this.#followed.size > mostFollowed && oldest !== undefined) this.#followed.delete(oldest)
    return true
  }

  isFollowed(asker: string | undefined): boolean {
    return asker !== undefined && this.#followed.has(asker)
  }
}
