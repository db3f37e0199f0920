/** What both hosts of a live migration bind its memory to, and how its requests wait for each other. */
import { VmsealError } from '../errors.js'

/** The migration that a stream belongs to: the memory of another one is refused. */
export interface MigrationPath {
  readonly migrationId: string
  readonly vmId: string
  readonly sourceHostId: string
  readonly targetHostId: string
}

/** Associated data of the stream. */
export function streamContext(path: MigrationPath): Buffer {
  const { migrationId, vmId, sourceHostId, targetHostId } = path
  return Buffer.from(
    JSON.stringify(['vmseal migration stream 1', migrationId, vmId, sourceHostId, targetHostId]),
  )
}

/** Requests to one side of a migration, one after another; its end cuts short what waits for a pipe. */
export class MigrationTurns {
  readonly #ending = new AbortController()
  #last: Promise<unknown> = Promise.resolve()

  /** `stop` throws when the migration ends, or `signal` asks for it. */
  take<T>(act: (stop: () => void) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const stop = (): void => {
      if (this.#ending.signal.aborted || signal?.aborted) throw new VmsealError('VMSEAL_CANCELLED')
    }
    return this.#next(async () => {
      stop()
      return act(stop)
    })
  }

  /** Every other request after it is VMSEAL_CANCELLED. */
  end<T>(act: () => Promise<T>): Promise<T> {
    this.#ending.abort()
    return this.#next(act)
  }

  #next<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(act)
    this.#last = turn.catch(() => {})
    return turn
  }
}

export function pieceOutOfOrder(number: number, next: number): VmsealError {
  return new VmsealError(
    'VMSEAL_INVALID_ARGUMENT',
    `piece ${number} of the memory is not the next one, which is ${next}`,
  )
}
