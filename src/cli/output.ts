/** What commands print: JSON for machines, lines and tables for people; errors on the error stream. */
import { styleText } from 'node:util'
import { VmsealError, isVmsealError } from '../errors.js'
import { printable, printableJson, printableText } from './printable.js'

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
    process.stdout.write(isJson ? `${printableJson(data)}\n` : `${forTerminal(text(data).trimEnd())}\n`)
  },

  /** What happens while a command runs: a JSON line with `event`, or a line of text. */
  event(event: string, data: object, text: string): void {
    process.stdout.write(isJson ? `${printableJson({ event, ...data })}\n` : `${forTerminal(text)}\n`)
  },

  /** Beside the answer, for people; machines do without. */
  remark(text: string): void {
    if (!isJson) process.stderr.write(`${printableText(text)}\n`)
  },

  /** What is not ours is a fault of this program; its stack goes along. */
  failure(error: unknown): void {
    const known = isVmsealError(error)
      ? error
      : new VmsealError('VMSEAL_INTERNAL', error instanceof Error ? error.message : String(error))
    const { code, message, action, details } = known
    if (isJson) {
      process.stderr.write(`${printableJson({ error: { code, message, action, details } })}\n`)
      return
    }
    process.stderr.write(printableText(`vmseal: ${message} (${code})\n${action}\n`))
    if (known !== error && error instanceof Error)
      process.stderr.write(printableText(`${error.stack ?? ''}\n`))
  },

  /** For machines; people read what the parser of the command line wrote. */
  wrongCall(message: string): void {
    this.failure(new VmsealError('VMSEAL_INVALID_ARGUMENT', message))
  },
}

/** Every cell is one line, whatever it holds. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = rows.map((row) => row.map(printable))
  const widths = head.map((title, column) =>
    cells.reduce((width, row) => Math.max(width, row[column]?.length ?? 0), title.length),
  )
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd()
  return [paint('bold', line(head)), ...cells.map(line)].join('\n')
}

/** A table, or a sentence when there is nothing to put into it. */
export function tableOr(
  nothing: string,
  head: readonly string[],
  rows: readonly (readonly string[])[],
): string {
  return rows.length === 0 ? nothing : table(head, rows)
}

/** What one thing is like: a line for each name that has a value. */
export function facts(entries: Readonly<Record<string, string | number | undefined>>): string {
  const lines = Object.entries(entries).filter(([, value]) => value !== undefined && value !== '')
  const width = Math.max(...lines.map(([name]) => name.length))
  return lines
    .map(([name, value]) => `${paint('bold', name.padEnd(width))}  ${printable(String(value))}`)
    .join('\n')
}

export function mark(ok: boolean): string {
  return ok ? paint('green', 'ok    ') : paint('red', 'FAILED')
}

/** What `paint` writes. */
const painted = new RegExp(`(${String.fromCodePoint(0x1b)}\\[\\d{1,2}m)`)

function paint(style: 'bold' | 'green' | 'red', text: string): string {
  return process.stdout.isTTY ? styleText(style, text) : text
}

/** Of what `paint` writes nothing is taken away; nothing else that a terminal would obey gets there. */
function forTerminal(text: string): string {
  if (!process.stdout.isTTY) return printableText(text)
  return text
    .split(painted)
    .map((piece, index) => (index % 2 === 0 ? printableText(piece) : piece))
    .join('')
}
