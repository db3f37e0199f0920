import { VmsealError, type ErrorCode } from '../errors.js'

const codeOfErrno: Readonly<Record<string, ErrorCode>> = {
  ENOENT: 'VMSEAL_NOT_FOUND',
  EEXIST: 'VMSEAL_ALREADY_EXISTS',
  EACCES: 'VMSEAL_PERMISSION_DENIED',
  EPERM: 'VMSEAL_PERMISSION_DENIED',
  EROFS: 'VMSEAL_PERMISSION_DENIED',
  ENOSPC: 'VMSEAL_NO_SPACE',
  EDQUOT: 'VMSEAL_NO_SPACE',
}

/** What the operating system refused, as a `VmsealError` that names the file and the errno. */
export function ioError(cause: unknown, subject: string): VmsealError {
  if (cause instanceof VmsealError) return cause
  const errno = errnoOf(cause)
  if (errno === undefined)
    return new VmsealError('VMSEAL_INTERNAL', `${subject}: ${String(cause)}`, { cause, details: { subject } })
  const code = codeOfErrno[errno] ?? 'VMSEAL_IO'
  return new VmsealError(code, `${subject}: ${describe(errno)} (${errno})`, { cause, details: { subject } })
}

/** Runs `body`; an error of the addon, which does not know the file's place, gets the name of the file. */
export function naming<T>(subject: string, body: () => T): T {
  try {
    return body()
  } catch (error) {
    throw named(subject, error)
  }
}

/** The same error with `subject` before its message, unless it names it already. */
export function named(subject: string, error: unknown): unknown {
  if (!(error instanceof VmsealError) || error.code === 'VMSEAL_CANCELLED' || error.message.includes(subject))
    return error
  return new VmsealError(error.code, `${subject}: ${error.message}`, {
    cause: error,
    details: { subject, ...error.details },
  })
}

/** The errno name of a Node file system error, for instance `ENOENT`. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  const code: unknown = (error as NodeJS.ErrnoException).code
  return typeof code === 'string' && /^E[A-Z0-9]+$/.test(code) ? code : undefined
}

function describe(errno: string): string {
  switch (errno) {
    case 'ENOENT':
      return 'it does not exist'
    case 'EEXIST':
    case 'ENOTEMPTY':
      return 'it exists already'
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return 'access was denied'
    case 'ENOSPC':
    case 'EDQUOT':
      return 'the file system is full'
    case 'ELOOP':
      return 'it is a symbolic link, which is not followed'
    default:
      return 'the file operation failed'
  }
}
