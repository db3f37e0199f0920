/** A log whose end vouches for all of it: how a record is bound to the one before it. */
import { hash } from 'node:crypto'

export interface AuditLink {
  /** 1 for the first record. */
  readonly sequence: number
  /** Hex SHA-256 of the line without its own hash. */
  readonly hash: string
}

/** Before the first record. */
export const genesis: AuditLink = { sequence: 0, hash: '0'.repeat(64) }

/** Bytes of a line at most: what a client sends is cut before it is recorded. */
export const longestLine = 64 * 1024

export function sha256(bytes: Uint8Array | string): string {
  return hash('sha256', bytes)
}

/** A record, which has a field at least, as the line that follows `last`. */
export function linkLine(
  last: AuditLink,
  record: object,
): { readonly line: string; readonly link: AuditLink } {
  const sequence = last.sequence + 1
  const body = `{"sequence":${sequence},"previous":"${last.hash}",${JSON.stringify(record).slice(1)}`
  const own = sha256(body)
  return { line: `${body.slice(0, -1)},"hash":"${own}"}\n`, link: { sequence, hash: own } }
}

export interface ReadLink extends AuditLink {
  readonly previous: string
  readonly record: Readonly<Record<string, unknown>>
}

/** The line without its end, or undefined if it is no record or was altered. */
export function readLink(line: string): ReadLink | undefined {
  const parts = /^(\{.*),"hash":"([0-9a-f]{64})"\}$/s.exec(line)
  if (!parts) return undefined
  const [, body = '', own = ''] = parts
  if (sha256(`${body}}`) !== own) return undefined
  try {
    const { sequence, previous, ...record } = JSON.parse(`${body}}`) as Record<string, unknown>
    if (!Number.isSafeInteger(sequence) || typeof previous !== 'string') return undefined
    return { sequence: sequence as number, previous, hash: own, record }
  } catch {
    return undefined
  }
}
