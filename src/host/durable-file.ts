/**
 * Small files: bounded reading, and replacement after which a reader, also one after a power cut,
 * sees the old or the new text and never a mixture.
 */
import { constants } from 'node:fs'
import { open, rename, unlink } from 'node:fs/promises'
import { randomBytes } from 'node:crypto'
import { basename, dirname, join } from 'node:path'
import { VmsealError, type ErrorCode } from '../errors.js'
import { errnoOf, ioError } from './io-error.js'

/** Replaces or makes `path`: temporary file, fsync, rename, fsync of the directory. Mode 0600. */
export async function replaceFile(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = await writeTemporary(path, content)
  try {
    await rename(temporary, path)
  } catch (error) {
    await removeFile(temporary)
    throw ioError(error, path)
  }
  await syncDirectory(dirname(path))
}

/** Writes a fsynced temporary file beside `path` and returns its path. */
export async function writeTemporary(path: string, content: string | Uint8Array): Promise<string> {
  const temporary = join(dirname(path), `.${basename(path)}.tmp-${randomBytes(8).toString('hex')}`)
  try {
    const file = await open(temporary, 'wx', 0o600)
    try {
      await file.writeFile(content)
      await file.sync()
    } finally {
      await file.close()
    }
    return temporary
  } catch (error) {
    await removeFile(temporary)
    throw ioError(error, path)
  }
}

/** True for the names of temporary files that belong to a file whose name begins with `prefix`. */
export function isTemporaryOf(prefix: string, name: string): boolean {
  return name.startsWith(`.${prefix}`) && /\.tmp-[A-Za-z0-9_-]{1,64}$/.test(name)
}

/**
 * Reads a regular file of at most `limit` bytes; a larger one is refused with the code `tooLarge`.
 * A symbolic link is refused, not followed.
 */
export async function readSmallFile(
  path: string,
  limit: number,
  subject: string,
  tooLarge: ErrorCode,
): Promise<Buffer> {
  try {
    // O_NONBLOCK: a FIFO in place of the file must not hang the open.
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    try {
      const status = await file.stat()
      if (!status.isFile())
        throw new VmsealError('VMSEAL_IO', `${subject} is no regular file`, { details: { subject } })
      // Of the size that it shows, with a byte to see its end by: most files are far smaller than the limit.
      let buffer = Buffer.allocUnsafe(Math.min(limit, status.size) + 1)
      let length = 0
      while (length <= limit) {
        const { bytesRead } = await file.read(buffer, length, buffer.length - length, length)
        if (bytesRead === 0) return buffer.subarray(0, length)
        length += bytesRead
        if (length === buffer.length) buffer = Buffer.concat([buffer], Math.min(limit, 2 * length) + 1)
      }
      throw new VmsealError(tooLarge, `${subject} is larger than the limit of ${limit} bytes`, {
        details: { subject },
      })
    } finally {
      await file.close()
    }
  } catch (error) {
    throw ioError(error, subject)
  }
}

/** Removes a file; a missing one is fine. */
export async function removeFile(path: string): Promise<void> {
  try {
    await unlink(path)
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw ioError(error, path)
  }
}

/** Makes names that were created, renamed or removed in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  try {
    const directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY)
    try {
      await directory.sync()
    } finally {
      await directory.close()
    }
  } catch (error) {
    throw ioError(error, path)
  }
}
