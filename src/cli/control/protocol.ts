/**
 * What is said on a control socket: one order, then any number of events, then one result or error; each is a line of
 * JSON. Whoever ordered may send `{"cancel":true}` while he waits.
 */
import { VmsealError, isErrorCode, isVmsealError } from '../../errors.js'
import type { ErrorDetails } from '../../errors.js'

export interface Order {
  readonly action: string
  readonly values: object
}

export type Reply =
  | { readonly event: object }
  | { readonly result: unknown }
  | { readonly error: { readonly code: string; readonly message: string; readonly details?: ErrorDetails } }

/** How long an order may be, in characters. */
export const longestOrder = 4 * 1024 * 1024
/** Answers are longer: the list of a whole inventory. */
export const longestReply = 256 * 1024 * 1024

/** Undefined for what is no order. */
export function readOrder(line: string | undefined): Order | undefined {
  const read = line === undefined ? undefined : parsed(line)
  if (!isObject(read)) return undefined
  const { action, values } = read as { action?: unknown; values?: unknown }
  return typeof action === 'string' && isObject(values) ? { action, values } : undefined
}

export function asksToCancel(line: string): boolean {
  const read = parsed(line)
  return isObject(read) && (read as { cancel?: unknown }).cancel === true
}

/** Errors travel by code; the text of an error that is not ours is for whoever looks after the program. */
export function lineOf(reply: Reply): string {
  return `${JSON.stringify(reply)}\n`
}

export function errorReply(error: unknown): Reply {
  const known = isVmsealError(error) ? error : new VmsealError('VMSEAL_INTERNAL', String(error))
  return { error: { code: known.code, message: known.message, details: known.details } }
}

export function errorOf({
  code,
  message,
  details,
}: Extract<Reply, { error: unknown }>['error']): VmsealError {
  return new VmsealError(isErrorCode(code) ? code : 'VMSEAL_INTERNAL', message, details ? { details } : {})
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}
