/** Progress of long work: one line that changes on a terminal, or a line a second for logs and machines. */
import { output } from './output.js'
import { printable } from './printable.js'

const lineMilliseconds = 200
const eventMilliseconds = 1000

export interface ProgressFacts {
  readonly step: string
  readonly doneBytes: number
  readonly totalBytes: number
  /** What they count; default: bytes. */
  readonly unit?: 'virtualMachines'
  readonly bytesPerSecond: number
  readonly secondsLeft?: number | undefined
}

/** `lines`: also where there is no terminal; `events`: JSON when the command prints JSON. */
export interface ProgressChoice {
  readonly lines?: boolean
  readonly events?: boolean
}

export class ProgressDisplay {
  readonly #choice: ProgressChoice
  #toldAt = -Infinity
  #shown = false

  constructor(choice: ProgressChoice) {
    this.#choice = choice
  }

  /** `last` is shown however soon it comes. */
  show(facts: ProgressFacts, last = false): void {
    if (facts.totalBytes === 0) return
    const { lines, events } = this.#choice
    if (output.isJson) {
      if (events && this.#isDue(eventMilliseconds, last)) output.event('progress', facts, '')
    } else if (lines) {
      if (this.#isDue(eventMilliseconds, last)) output.remark(progressLine(facts))
    } else if (process.stderr.isTTY && this.#isDue(lineMilliseconds, last)) {
      this.#shown = true
      process.stderr.write(`\r\u001b[K${progressLine(facts).slice(0, (process.stderr.columns || 80) - 1)}`)
    }
  }

  end(): void {
    if (this.#shown) process.stderr.write('\n')
    this.#shown = false
  }

  #isDue(interval: number, last: boolean): boolean {
    const now = performance.now()
    if (!last && now - this.#toldAt < interval) return false
    this.#toldAt = now
    return true
  }
}

/** `encrypting  42.0 %  1.23 GiB of 2.93 GiB  812 MiB/s  2 s left` */
export function progressLine({
  step,
  doneBytes,
  totalBytes,
  unit,
  bytesPerSecond,
  secondsLeft,
}: ProgressFacts): string {
  const percent = totalBytes === 0 ? 0 : (doneBytes / totalBytes) * 100
  const [done, rate] = unit
    ? [`${doneBytes} of ${totalBytes} VMs`, `${(bytesPerSecond * 60).toFixed(0)} a minute`]
    : [`${sizeText(doneBytes)} of ${sizeText(totalBytes)}`, `${sizeText(bytesPerSecond)}/s`]
  return [
    printable(step),
    `${percent.toFixed(1).padStart(5)} %`,
    done,
    rate,
    ...(secondsLeft === undefined ? [] : [`${timeText(Math.ceil(secondsLeft))} left`]),
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
