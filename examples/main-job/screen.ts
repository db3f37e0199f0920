/** What the main job shows: a line for each step, checks, a progress bar, a table. Plain lines without a terminal. */
import { styleText } from 'node:util'

const terminal = process.stdout.isTTY
let failed = 0
let passed = 0

/** One line: who did what, and which key id moved. */
export function step(actor: string, action: string): void {
  clearBar()
  process.stdout.write(`${paint('cyan', actor.padEnd(9))} ${action}\n`)
}

/** Prints a check as it passes or fails. */
export function check(claim: string, holds: boolean): void {
  clearBar()
  if (holds) passed += 1
  else failed += 1
  process.stdout.write(`  ${holds ? paint('green', 'ok') : paint('red', 'FAILED')} ${claim}\n`)
}

export function checks(): { passed: number; failed: number } {
  return { passed, failed }
}

/** The progress of a long step; without a terminal one line at each quarter. */
export function progressBar(title: string): (progress: BarProgress) => void {
  let quarter = 0
  return ({ doneBytes, totalBytes, bytesPerSecond, secondsLeft }) => {
    if (totalBytes === 0) return
    const share = doneBytes / totalBytes
    const rate = `${(bytesPerSecond / 2 ** 20).toFixed(0)} MiB/s`
    const left = secondsLeft === undefined ? '' : `, ${secondsLeft.toFixed(0)} s left`
    const line = `${title} ${(share * 100).toFixed(0).padStart(3)} %  ${mebibytes(doneBytes)} of ${mebibytes(totalBytes)}, ${rate}${left}`
    if (terminal) {
      const width = 24
      const full = Math.round(share * width)
      process.stdout.write(`\r\u001b[K  [${'#'.repeat(full)}${'.'.repeat(width - full)}] ${line}`)
      barShown = true
    } else if (share * 4 >= quarter + 1 || (share === 1 && quarter < 4)) {
      quarter = Math.floor(share * 4)
      process.stdout.write(`  ${line}\n`)
    }
  }
}

export interface BarProgress {
  readonly doneBytes: number
  readonly totalBytes: number
  readonly bytesPerSecond: number
  readonly secondsLeft?: number | undefined
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): void {
  clearBar()
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)),
  )
  const print = (row: readonly string[]): string =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd()
  process.stdout.write(`\n${paint('bold', print(head))}\n${rows.map((row) => `${print(row)}\n`).join('')}\n`)
}

export function mebibytes(bytes: number): string {
  return bytes < 2 ** 20 ? `${bytes} bytes` : `${(bytes / 2 ** 20).toFixed(0)} MiB`
}

let barShown = false

function clearBar(): void {
  if (barShown) process.stdout.write('\r\u001b[K')
  barShown = false
}

function paint(style: 'cyan' | 'green' | 'red' | 'bold', text: string): string {
  return terminal ? styleText(style, text) : text
}
