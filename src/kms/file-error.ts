import { VmsealError, isVmsealError } from '../errors.js'
import type { ErrorCode } from '../errors.js'

/** What the file system refuses, in the words of this package. */
export function fileError(error: unknown): unknown {
  if (!(error instanceof Error) || isVmsealError(error)) return error
  const { code, path } = error as NodeJS.ErrnoException
  if (code === undefined || path === undefined) return error
  return new VmsealError(fileErrorCodes[code] ?? 'VMSEAL_IO', error.message, {
    cause: error,
    details: { subject: path },
  })
}

const fileErrorCodes: Record<string, ErrorCode> = {
  EACCES: 'VMSEAL_PERMISSION_DENIED',
  EPERM: 'VMSEAL_PERMISSION_DENIED',
  EEXIST: 'VMSEAL_ALREADY_EXISTS',
  ENOENT: 'VMSEAL_NOT_FOUND',
}
