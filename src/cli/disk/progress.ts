/** A long native task on a terminal: bytes, rate and time left; Ctrl-C asks it to stop. */
import type { NativeTask } from '../../native/load.js'
import { ProgressRate } from '../../vcenter/progress-rate.js'
import { ProgressDisplay } from '../progress.js'
import { cancelOnSignal } from '../signal.js'

const lookMilliseconds = 200

export interface RateOption {
  /** Bytes per second. */
  readonly maxRate?: number
}

/** What people call a finished conversion. */
export interface TaskOutcome {
  readonly bytes: number
  readonly allocatedBytes: number
  readonly seconds: number
  readonly holes: 'dense' | 'zero' | null
}

/** The task, with that most bytes per second from the start on. */
export function atMost(bytesPerSecond: number | undefined, task: NativeTask): NativeTask {
  if (bytesPerSecond !== undefined) task.limit(bytesPerSecond)
  return task
}

/** Runs the task to its end. The first SIGINT or SIGTERM cancels it, a second one ends the process. */
export async function follow(label: string, task: NativeTask): Promise<string> {
  const display = new ProgressDisplay({ events: true })
  const rate = new ProgressRate(performance.now())
  const show = (last = false): void => {
    const { doneBytes, totalBytes } = task
    const bytesPerSecond = Math.round(rate.update(doneBytes, performance.now()))
    const secondsLeft = bytesPerSecond > 0 ? Math.ceil((totalBytes - doneBytes) / bytesPerSecond) : undefined
    display.show({ step: label, doneBytes, totalBytes, bytesPerSecond, secondsLeft }, last)
  }
  const forget = cancelOnSignal(() => task.cancel())
  const timer = setInterval(() => show(), lookMilliseconds)
  try {
    const outcome = await task.done()
    show(true)
    return outcome
  } finally {
    clearInterval(timer)
    display.end()
    forget()
  }
}
