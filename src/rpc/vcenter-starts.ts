/**
 * From which start of vCenter a host takes new requests: the latest that greeted it. What an earlier one had sent may be
 * on its way still, and the later one has looked at the host and drawn its conclusions.
 */
import { VmsealError } from '../errors.js'

/** Earlier starts that are remembered. */
const mostFollowed = 1000

export class VCenterStarts {
  #latest: string | undefined
  readonly #followed = new Set<string>()

  /** VMSEAL_INVALID_STATE for a start that a later one has followed. Undefined: a vCenter of an earlier release. */
  greet(start: string | undefined): void {
    if (start === undefined || start === this.#latest) return
    this.require(start)
    if (this.#latest !== undefined) this.#followed.add(this.#latest)
    this.#latest = start
    const [oldest] = this.#followed
    if (this.#followed.size > mostFollowed && oldest !== undefined) this.#followed.delete(oldest)
  }

  /** VMSEAL_INVALID_STATE as above. */
  require(start: string | undefined): void {
    if (start === undefined || !this.#followed.has(start)) return
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      'vCenter was started again since, and this host takes nothing new from the earlier start: end its process',
    )
  }
}
