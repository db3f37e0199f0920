/** What may be a name or an id. */
import { VmsealError } from '../errors.js'

const longestName = 255

/** A printable name of 1 to 255 characters, without space around it. */
export function requireName(what: string, value: unknown): string {
  if (typeof value !== 'string' || value.length === 0 || value.length > longestName)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `${what} must be a string of 1 to ${longestName} characters`,
    )
  if (value.trim() !== value || /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u.test(value))
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `${what} must not have control characters, or space at its ends`,
    )
  return value
}

export function notFound(what: string, name: string): VmsealError {
  return new VmsealError('VMSEAL_NOT_FOUND', `there is no ${what} '${name}'`, { details: { subject: name } })
}

/** A VM's name is its folder's name on the datastore, so it is checked before anything is made for the VM. */
export function requireVirtualMachineName(value: unknown): string {
  if (typeof value === 'string' && /^[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,78}[A-Za-z0-9_-])?$/.test(value))
    return value
  throw new VmsealError(
    'VMSEAL_INVALID_ARGUMENT',
    `${JSON.stringify(value)} is no VM name: use 1 to 80 of A-Z a-z 0-9 space . _ -, with a letter or digit first`,
  )
}
