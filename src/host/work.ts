/** The live side of a long request: progress over all of its steps, and cancellation. */
import { VmsealError } from '../errors.js'
import { named } from './io-error.js'
import type { NativeTask } from '../native/load.js'
import type { ConversionPace, Work } from '../rpc/host-api.js'

/** One long native operation of a request. */
export interface WorkStep {
  /** `encrypt scsi0:0` */
  readonly label: string
  /** What the step counts for in the progress of the request, in bytes. */
  readonly bytes: number
  start(): NativeTask
}

/** A request's live side, and how fast its steps may go. */
export type PacedWork = Work & ConversionPace

/** What a request says of its pace, alone. */
export function paceOf({ maxBytesPerSecond }: ConversionPace): ConversionPace {
  return maxBytesPerSecond === undefined ? {} : { maxBytesPerSecond }
}

const pollMilliseconds = 100

/** Runs steps one after the other and reports their progress as one. */
export class WorkMeter {
  readonly #work: PacedWork
  readonly #totalBytes: number
  #finishedBytes = 0
  #reportedBytes = -1

  constructor(work: PacedWork, steps: readonly Pick<WorkStep, 'bytes'>[]) {
    this.#work = work
    this.#totalBytes = steps.reduce((sum, { bytes }) => sum + bytes, 0)
  }

  /** Rejects with VMSEAL_CANCELLED if the request was cancelled. */
  throwIfCancelled(): void {
    if (this.#work.signal?.aborted) throw new VmsealError('VMSEAL_CANCELLED')
  }

  /** The outcome of the step, as the native task describes it. */
  async run(step: WorkStep): Promise<string> {
    this.throwIfCancelled()
    const task = step.start()
    if (this.#work.maxBytesPerSecond !== undefined) task.limit(this.#work.maxBytesPerSecond)
    let observerFailure: VmsealError | undefined
    const cancel = () => task.cancel()
    const poll = () => {
      try {
        this.#report(step.label, this.#finishedBytes + partOf(step, task))
      } catch (error) {
        observerFailure = error as VmsealError
        task.cancel()
      }
    }
    const timer = setInterval(poll, pollMilliseconds).unref()
    this.#work.signal?.addEventListener('abort', cancel, { once: true })
    try {
      const outcome = await task.done()
      this.#finishedBytes += step.bytes
      if (this.#finishedBytes < this.#totalBytes) this.#report(step.label, this.#finishedBytes)
      return outcome
    } catch (error) {
      throw observerFailure ?? named(step.label, error)
    } finally {
      clearInterval(timer)
      this.#work.signal?.removeEventListener('abort', cancel)
    }
  }

  /** The last report, at 100 %. Call it once what was worked for holds: an observer that throws changes nothing then. */
  finish(step: string): void {
    this.#reportedBytes = -1
    try {
      this.#report(step, this.#totalBytes)
    } catch {
      return
    }
  }

  #report(step: string, bytes: number): void {
    const doneBytes = Math.min(bytes, this.#totalBytes)
    if (doneBytes <= this.#reportedBytes) return
    this.#reportedBytes = doneBytes
    try {
      this.#work.onProgress?.({ step, doneBytes, totalBytes: this.#totalBytes })
    } catch (cause) {
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        `onProgress threw, so the request was given up: ${String(cause)}`,
        {
          cause,
        },
      )
    }
  }
}

/** A task may count other bytes than the step stands for (holes): its share is what matters. */
function partOf(step: WorkStep, task: NativeTask): number {
  const { doneBytes, totalBytes } = task
  return totalBytes > 0 ? Math.floor(step.bytes * Math.min(1, doneBytes / totalBytes)) : 0
}
