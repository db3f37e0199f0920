/** The disk of the main job: a generated one, or the user's file, which is only read. */
import { constants } from 'node:fs'
import { access, stat, statfs } from 'node:fs/promises'
import { isAbsolute, join } from 'node:path'
import { writeFat16Image } from './fat16.js'
import { mebibytes } from './screen.js'

/** A plain sentence for the person at the terminal; the process ends with status 2. */
export class BadImage extends Error {}

/** The image to work on: the file that was named, or a new one in `directory`. */
export async function chooseImage(named: string | undefined, directory: string): Promise<string> {
  if (named === undefined) {
    const path = join(directory, 'db01.raw')
    await needSpace(directory, 4 * generatedBytes)
    await writeFat16Image(path, { bytes: generatedBytes, files: 40, fileBytes: 5 * 2 ** 20 })
    return path
  }
  const path = isAbsolute(named) ? named : join(process.env['VMSEAL_CALLED_FROM'] ?? process.cwd(), named)
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    throw new BadImage(`${named}: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`)
  })
  if (!found.isFile()) throw new BadImage(`${named}: not a file`)
  if (found.size === 0) throw new BadImage(`${named}: the file is empty`)
  await access(path, constants.R_OK).catch(() => {
    throw new BadImage(`${named}: the file cannot be read`)
  })
  await needSpace(directory, 4 * found.size)
  return path
}

const generatedBytes = 256 * 2 ** 20

async function needSpace(directory: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory)
  if (bavail * bsize < bytes)
    throw new BadImage(
      `${directory} has ${mebibytes(bavail * bsize)} free and the job needs about ${mebibytes(bytes)}; set TMPDIR to a larger place`,
    )
}
