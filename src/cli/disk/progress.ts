/** A long native task on a terminal: bytes, rate and time left; Ctrl-C asks it to stop. */
import type { NativeTask } from '../../native/load.js'
import { ProgressRate } from '../../vcenter/progress-rate.js'
import { output } from '../output.js'

const signals = ['SIGINT', 'SIGTERM'] as const
const lineMilliseconds = 200
const eventMilliseconds = 1000

/** What people call a finished conversion. */
export interface TaskOutcome {
  readonly bytes: number
  readonly allocatedBytes: number
  readonly seconds: number
  readonly holes: 'dense' | 'zero' | null
}

/** Runs the task to its end. The first SIGINT or SIGTERM cancels it, a second one ends the process. */
export async function follow(label: string, task: NativeTask): Promise<string> {
  const report = new ProgressReport(label)
  const cancel = (): void => {
    for (const signal of signals) process.removeListener(signal, cancel)
    task.cancel()
  }
  for (const signal of signals) process.once(signal, cancel)
  const timer = setInterval(() => report.show(task), lineMilliseconds)
  try {
    const outcome = await task.done()
    report.show(task, true)
    return outcome
  } finally {
    clearInterval(timer)
    report.end()
    for (const signal of signals) process.removeListener(signal, cancel)
  }
}

/** One line that changes on a terminal; a JSON event a second for machines; nothing elsewhere. */
class ProgressReport {
  readonly #label: string
  readonly #rate = new ProgressRate(performance.now())
  #eventAt = 0
  #shown = false

  constructor(label: string) {
    this.#label = label
  }

  show({ doneBytes, totalBytes }: NativeTask, last = false): void {
    if (totalBytes === 0) return
    const now = performance.now()
    const bytesPerSecond = Math.round(this.#rate.update(doneBytes, now))
    const secondsLeft = bytesPerSecond > 0 ? Math.ceil((totalBytes - doneBytes) / bytesPerSecond) : undefined
    const facts = { step: this.#label, doneBytes, totalBytes, bytesPerSecond, secondsLeft }
    if (output.isJson) {
      if (!last && now - this.#eventAt < eventMilliseconds) return
      this.#eventAt = now
      output.event('progress', facts, '')
    } else if (process.stderr.isTTY) {
      this.#shown = true
      process.stderr.write(`\r\u001b[K${progressLine(facts)}`)
    }
  }

  end(): void {
    if (this.#shown) process.stderr.write('\n')
  }
}

/** `encrypting  42.0 %  1.23 GiB of 2.93 GiB  812 MiB/s  2 s left` */
function progressLine(facts: {
  readonly step: string
  readonly doneBytes: number
  readonly totalBytes: number
  readonly bytesPerSecond: number
  readonly secondsLeft: number | undefined
}): string {
  const { step, doneBytes, totalBytes, bytesPerSecond, secondsLeft } = facts
  return [
    step,
    `${((doneBytes / totalBytes) * 100).toFixed(1).padStart(5)} %`,
    `${sizeText(doneBytes)} of ${sizeText(totalBytes)}`,
    `${sizeText(bytesPerSecond)}/s`,
    ...(secondsLeft === undefined ? [] : [`${timeText(secondsLeft)} left`]),
  ].join('  ')
}

export function sizeText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const
  const power = Math.min(units.length - 1, bytes < 1 ? 0 : Math.floor(Math.log2(bytes) / 10))
  const value = bytes / 1024 ** power
  return `${power === 0 || value >= 100 ? value.toFixed(0) : value.toPrecision(3)} ${units[power] ?? 'B'}`
}

function timeText(seconds: number): string {
  if (seconds < 60) return `${seconds} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
