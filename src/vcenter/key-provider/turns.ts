/** Changes of one provider follow one another: each begins with what the one before it left. */

export class Turns {
  readonly #last = new Map<string, Promise<unknown>>()

  /** Runs `change` when those of the same provider before it have ended, well or not. */
  take<Result>(providerId: string, change: () => Promise<Result>): Promise<Result> {
    const before = this.#last.get(providerId) ?? Promise.resolve()
    const turn = before.then(change, change)
    const ended: Promise<void> = turn.then(
      () => this.#leave(providerId, ended),
      () => this.#leave(providerId, ended),
    )
    this.#last.set(providerId, ended)
    return turn
  }

  #leave(providerId: string, ended: Promise<void>): void {
    if (this.#last.get(providerId) === ended) this.#last.delete(providerId)
  }
}
