/** What commands print: JSON for machines, lines and tables for people; errors on the error stream. */
import { styleText } from 'node:util'
import { VmsealError, isVmsealError } from '../errors.js'

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

  /** What is not ours is a fault of this program; its stack goes along. */
  failure(error: unknown): void {
    const known = isVmsealError(error)
      ? error
      : new VmsealError('VMSEAL_INTERNAL', error instanceof Error ? error.message : String(error))
    const { code, message, action, details } = known
    if (isJson) {
      process.stderr.write(`${JSON.stringify({ error: { code, message, action, details } })}\n`)
      return
    }
    process.stderr.write(`vmseal: ${message} (${code})\n${action}\n`)
    if (known !== error && error instanceof Error) process.stderr.write(`${error.stack ?? ''}\n`)
  },

  /** For machines; people read what the parser of the command line wrote. */
  wrongCall(message: string): void {
    this.failure(new VmsealError('VMSEAL_INVALID_ARGUMENT', message))
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
