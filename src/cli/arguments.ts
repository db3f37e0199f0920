/** Words of a command line, checked and made into what the rest of the package takes. */
import { readFileSync, statSync } from 'node:fs'
import { resolve } from 'node:path'
import { InvalidArgumentError } from 'commander'
import { VmsealError } from '../errors.js'

export interface Address {
  readonly host: string
  readonly port: number
}

/** `host:port`, `[v6]:port`, or a host alone, which then has the usual port. */
export function addressOr(usualPort: number): (text: string) => Address {
  return (text) => {
    const [, v6, host = v6, port = String(usualPort)] =
      /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+))(?::(\d+))?$/.exec(text) ?? []
    if (host === undefined)
      throw new InvalidArgumentError(`Write host:port, for instance host.example.com:${usualPort}.`)
    return { host, port: portNumber(port) }
  }
}

/** A KMS: the usual port is KMIP's. */
export const address = addressOr(5696)

export function portNumber(text: string): number {
  const port = Number(text)
  if (!/^\d+$/.test(text) || port > 65_535)
    throw new InvalidArgumentError('A port is a number from 0 to 65535.')
  return port
}

/** An empty name would mean the working directory. */
export function directoryName(text: string): string {
  if (text === '') throw new InvalidArgumentError('Name a directory.')
  return text
}

export function positive(text: string): number {
  const value = Number(text)
  if (!/^\d+(\.\d+)?$/.test(text) || value <= 0) throw new InvalidArgumentError('Write a number above 0.')
  return value
}

export function wholeNumber(text: string): number {
  const value = Number(text)
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value))
    throw new InvalidArgumentError('Write a whole number, 0 or above.')
  return value
}

/** A number of bytes, or of KiB, MiB, GiB or TiB: `20G`, `512 MiB`. */
export function byteSize(text: string): number {
  const [, digits = '', unit = ''] = /^(\d+)\s*(?:([KMGT])(?:iB)?|B)?$/i.exec(text) ?? []
  const value = Number(digits) * 1024 ** ' KMGT'.indexOf(unit.toUpperCase() || ' ')
  if (digits === '' || !Number.isSafeInteger(value) || value === 0)
    throw new InvalidArgumentError('Write a size above 0, for instance 20G or 512M.')
  return value
}

/** For commands that convert disks. */
export const maxRateOption = [
  '--max-rate <size>',
  'most bytes of disks that are converted in a second, for instance 200M (default: as fast as it goes)',
  byteSize,
] as const

export function sectorSize(text: string): 512 | 4096 {
  if (text !== '512' && text !== '4096') throw new InvalidArgumentError('A sector has 512 or 4096 bytes.')
  return text === '512' ? 512 : 4096
}

/** For options that may be given several times. */
export function collect(text: string, earlier: readonly string[] = []): readonly string[] {
  return [...earlier, text]
}

const largestText = 1024 * 1024

/** A text file of at most 1 MiB, for instance PEM. */
export function readText(file: string): string {
  return readSmall(file).toString('utf8')
}

/**
 * The first line of a file, `-` for standard input. A passphrase is never an argument: other users of the machine see
 * those.
 */
export function readPassphrase(file: string): Uint8Array {
  const bytes = file === '-' ? readFileSync(0) : readSmall(file)
  const end = bytes.indexOf(10)
  const line = end < 0 ? bytes : bytes.subarray(0, bytes[end - 1] === 13 ? end - 1 : end)
  if (line.length === 0)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${file} holds no passphrase in its first line`)
  const passphrase = Uint8Array.from(line)
  bytes.fill(0)
  return passphrase
}

/** The first line of a file, `-` for standard input: a token that is good once. */
export function readFirstLine(file: string): string {
  const text = file === '-' ? readFileSync(0, 'utf8') : readText(file)
  return text.split(/\r?\n/)[0] ?? ''
}

function readSmall(file: string): Buffer {
  const path = resolve(file)
  try {
    const found = statSync(path)
    if (!found.isFile() || found.size > largestText)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${path} is not a file of at most 1 MiB`, {
        details: { subject: path },
      })
    return readFileSync(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new VmsealError('VMSEAL_NOT_FOUND', `there is no file ${path}`, { details: { subject: path } })
    if (code === 'EACCES' || code === 'EPERM')
      throw new VmsealError('VMSEAL_PERMISSION_DENIED', `${path} may not be read`, {
        details: { subject: path },
      })
    throw error
  }
}
