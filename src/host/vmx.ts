/**
 * The text of a .vmx file: lines `key = "value"`, comments and blank lines, in their order.
 * Keys are case-insensitive; a key stands once. In values `"`, `|` and control characters are
 * written as `|` and two hexadecimal digits of the UTF-8 byte, as VMware writes them.
 */
import { VmsealError } from '../errors.js'

/** The largest .vmx file that is read or written, in bytes. */
export const vmxByteLimit = 1024 * 1024
const lineLimit = 20_000
const keyPattern = /^[A-Za-z0-9._:-]{1,256}$/
const settingPattern = /^[ \t]*([A-Za-z0-9._:-]{1,256})[ \t]*=[ \t]*"([^"]*)"[ \t]*$/
const blankOrComment = /^[ \t]*(#.*)?$/

interface Line {
  /** Absent: a comment or blank line. */
  readonly key?: string
  readonly text: string
}

/** True if `key` may stand in a .vmx file. */
export function isVmxKey(key: string): boolean {
  return keyPattern.test(key)
}

export class VmxDocument {
  #lines: Line[]
  readonly #values = new Map<string, string>()

  private constructor(lines: Line[]) {
    this.#lines = lines
  }

  static empty(): VmxDocument {
    return new VmxDocument([])
  }

  /** Reads a file's bytes. Anything but the grammar above: VMSEAL_VMX_INVALID with `subject` in the message. */
  static parse(content: Uint8Array | string, subject: string): VmxDocument {
    const text = typeof content === 'string' ? content : decodeUtf8(content, subject)
    if (Buffer.byteLength(text) > vmxByteLimit)
      throw invalid(subject, `it is larger than ${vmxByteLimit} bytes`)
    const lines = text.split(/\r?\n/)
    if (lines.at(-1) === '') lines.pop()
    if (lines.length > lineLimit) throw invalid(subject, `it has more than ${lineLimit} lines`)
    const document = new VmxDocument([])
    for (const [index, line] of lines.entries()) document.#read(line, `line ${index + 1}`, subject)
    return document
  }

  get(key: string): string | undefined {
    return this.#values.get(key.toLowerCase())
  }

  /** Changes a line where it stands, or adds one at the end. */
  set(key: string, value: string): void {
    if (!isVmxKey(key)) throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `"${key}" is no .vmx key`)
    const line: Line = { key, text: `${key} = "${escapeValue(key, value)}"` }
    const folded = key.toLowerCase()
    if (this.#values.has(folded))
      this.#lines = this.#lines.map((old) => (old.key?.toLowerCase() === folded ? line : old))
    else this.#lines.push(line)
    this.#values.set(folded, value)
  }

  delete(key: string): void {
    const folded = key.toLowerCase()
    if (this.#values.delete(folded))
      this.#lines = this.#lines.filter((line) => line.key?.toLowerCase() !== folded)
  }

  /** The keys in their order, spelt as in the file. */
  keys(): string[] {
    return this.#lines.flatMap((line) => line.key ?? [])
  }

  /** Two documents: the lines whose key passes `test`, and all others with the comments. */
  split(test: (key: string) => boolean): [passed: VmxDocument, others: VmxDocument] {
    const passed = VmxDocument.empty()
    const others = VmxDocument.empty()
    for (const line of this.#lines)
      (line.key !== undefined && test(line.key) ? passed : others).#append(line, this)
    return [passed, others]
  }

  /** Adds the lines of another document at the end. A key that stands in both: VMSEAL_VMX_INVALID. */
  append(other: VmxDocument, subject: string): void {
    for (const line of other.#lines) {
      if (line.key !== undefined && this.get(line.key) !== undefined)
        throw invalid(subject, `"${line.key}" stands in it twice`)
      this.#append(line, other)
    }
  }

  copy(): VmxDocument {
    const copy = VmxDocument.empty()
    for (const line of this.#lines) copy.#append(line, this)
    return copy
  }

  toString(): string {
    return this.#lines.map((line) => `${line.text}\n`).join('')
  }

  #read(text: string, where: string, subject: string): void {
    // A line as VMware and we write it has no control character but tabs between its parts.
    // eslint-disable-next-line no-control-regex
    if (/[\0-\x08\x0a-\x1f\x7f]/.test(text)) throw invalid(subject, `${where} holds a control character`)
    if (blankOrComment.test(text)) {
      this.#lines.push({ text })
      return
    }
    const match = settingPattern.exec(text)
    if (match === null) throw invalid(subject, `${where} is not of the form key = "value"`)
    const [, key = '', escaped = ''] = match
    if (this.#values.has(key.toLowerCase())) throw invalid(subject, `${where} repeats the key "${key}"`)
    const value = unescapeValue(escaped)
    if (value === undefined) throw invalid(subject, `${where} has a broken | escape`)
    this.#values.set(key.toLowerCase(), value)
    this.#lines.push({ key, text })
  }

  #append(line: Line, from: VmxDocument): void {
    this.#lines.push(line)
    if (line.key === undefined) return
    const value = from.get(line.key)
    if (value !== undefined) this.#values.set(line.key.toLowerCase(), value)
  }
}

function decodeUtf8(content: Uint8Array, subject: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(content)
  } catch {
    throw invalid(subject, 'it is not UTF-8 text')
  }
}

function escapeValue(key: string, value: string): string {
  if (Buffer.from(value).toString() !== value)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `the value of "${key}" is not well-formed text`)
  // eslint-disable-next-line no-control-regex
  return value.replace(/["|\0-\x1f\x7f]/g, (character) => {
    const byte = character.charCodeAt(0).toString(16).toUpperCase()
    return `|${byte.padStart(2, '0')}`
  })
}

/** Undefined: an escape is cut, no hexadecimal number, or the bytes are not UTF-8. */
function unescapeValue(escaped: string): string | undefined {
  if (!escaped.includes('|')) return escaped
  const [head = '', ...parts] = escaped.split('|')
  const bytes = [Buffer.from(head)]
  for (const part of parts) {
    const digits = part.slice(0, 2)
    if (!/^[0-9A-Fa-f]{2}$/.test(digits)) return undefined
    bytes.push(Buffer.from(digits, 'hex'), Buffer.from(part.slice(2)))
  }
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.concat(bytes))
  } catch {
    return undefined
  }
}

function invalid(subject: string, reason: string): VmsealError {
  return new VmsealError('VMSEAL_VMX_INVALID', `${subject} cannot be read: ${reason}`, {
    details: { subject },
  })
}
