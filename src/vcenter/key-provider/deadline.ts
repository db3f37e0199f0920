/** A point in time that a call with all its attempts must not pass. */
import { VmsealError } from '../../errors.js'

export class Deadline {
  readonly #end: number

  static after(milliseconds: number): Deadline {
    return new Deadline(performance.now() + milliseconds)
  }

  private constructor(end: number) {
    this.#end = end
  }

  /** Whole milliseconds; 0 when it has passed. */
  get remainingMs(): number {
    return Math.max(0, Math.floor(this.#end - performance.now()))
  }

  /** The earlier of this one and `milliseconds` from now. */
  within(milliseconds: number): Deadline {
    return new Deadline(Math.min(this.#end, performance.now() + milliseconds))
  }

  /**
   * Settles as `work` does, or rejects with VMSEAL_KMIP_TIMEOUT when the deadline comes first. The result of work that
   * is late goes to `late`: nobody else would dispose of it.
   */
  race<Result>(work: Promise<Result>, what: string, late: (result: Result) => void): Promise<Result> {
    return new Promise((resolve, reject) => {
      let over = false
      const timer = setTimeout(() => {
        over = true
        reject(new VmsealError('VMSEAL_KMIP_TIMEOUT', `${what} did not end in the time it was given`))
      }, this.remainingMs)
      const ended = (result: Result): void => {
        clearTimeout(timer)
        if (over) late(result)
        else resolve(result)
      }
      const failed = (error: unknown): void => {
        clearTimeout(timer)
        reject(error)
      }
      work.then(ended, failed)
    })
  }
}
