/**
 * Text that may go to a terminal. Names come from files and from other machines; a control character in one would move the
 * cursor, change the title or answer for the user.
 */

/** Control, format (also the bidirectional ones) and surrogate characters, line and paragraph separators. */
const unprintable = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu
/** Everything of that but the line break. */
const unprintableInText = /[^\P{Cc}\n]|[\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu
/** What JSON may hold as it is and a terminal must not get. */
const unprintableInJson = /[\u007f-\u009f\p{Cf}\p{Zl}\p{Zp}]/gu

/** One word or line: what is not printable is shown as `\x1b` or `\u202e`. */
export function printable(text: string): string {
  return text.replace(unprintable, escaped)
}

/** Lines of text. */
export function printableText(text: string): string {
  return text.replace(unprintableInText, escaped)
}

/** One JSON document in one line, of the same meaning. */
export function printableJson(value: unknown): string {
  return JSON.stringify(value).replace(unprintableInJson, (character) =>
    [...Array(character.length).keys()].map((at) => `\\u${hex(character.charCodeAt(at), 4)}`).join(''),
  )
}

function escaped(character: string): string {
  const code = character.codePointAt(0) ?? 0
  return code < 0x100 ? `\\x${hex(code, 2)}` : `\\u{${code.toString(16)}}`
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, '0')
}
