/** What commands print: JSON for machines, lines and tables for people; errors on the error stream. */
import { styleText } from 'node:util'
import { isVmsealError } from '../errors.js'

let isJson = false

export const output = {
  /** Chosen before a command runs. */
  use(json: boolean): void {
    isJson = json
  },

  get isJson(): boolean {
    return isJson
  },

  /** The answer of a command: `data` as one JSON document, or what `text` makes of it. */
  answer<T>(data: T, text: (data: T) => string): void {
    process.stdout.write(isJson ? `${JSON.stringify(data)}\n` : `${text(data).trimEnd()}\n`)
  },

  /** What happens while a command runs: a JSON line with `event`, or a line of text. */
  event(event: string, data: object, text: string): void {
    process.stdout.write(isJson ? `${JSON.stringify({ event, ...data })}\n` : `${text}\n`)
  },

  failure(error: unknown): void {
    if (!isVmsealError(error)) {
      process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
      return
    }
    const { code, message, action, details } = error
    process.stderr.write(
      isJson
        ? `${JSON.stringify({ error: { code, message, action, details } })}\n`
        : `vmseal: ${message} (${code})\n${action}\n`,
    )
  },
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)),
  )
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd()
  return [paint('bold', line(head)), ...rows.map(line)].join('\n')
}

export function mark(ok: boolean): string {
  return ok ? paint('green', 'ok    ') : paint('red', 'FAILED')
}

function paint(style: 'bold' | 'green' | 'red', text: string): string {
  return process.stdout.isTTY ? styleText(style, text) : text
}
