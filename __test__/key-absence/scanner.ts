/** Looks for key bytes in the memory of another process (/proc/PID/mem) and in files such as core dumps. */
import { closeSync, openSync, readFileSync, readSync, statSync } from 'node:fs'

export interface Finding {
  /** Which key, and in which form it was found. */
  readonly needle: string
  /** Mapping or file, and the offset in it. */
  readonly place: string
}

/** Every form in which a key could lie somewhere: each 16-byte piece raw, as hex, and the whole as base64. */
export function needlesOf(name: string, key: Buffer): Map<string, Buffer> {
  const needles = new Map<string, Buffer>()
  for (let offset = 0; offset + 16 <= key.length; offset += 16) {
    const piece = key.subarray(offset, offset + 16)
    needles.set(`${name} bytes ${offset}..${offset + 16}`, piece)
    needles.set(`${name} hex of ${offset}..${offset + 16}`, Buffer.from(piece.toString('hex')))
    needles.set(`${name} HEX of ${offset}..${offset + 16}`, Buffer.from(piece.toString('hex').toUpperCase()))
  }
  for (const encoding of ['base64', 'base64url'] as const)
    for (let shift = 0; shift < 3; shift += 1) {
      // Three alignments: a key may stand behind other bytes in the encoded text.
      const text = Buffer.concat([Buffer.alloc(shift), key]).toString(encoding)
      const whole = text.slice(shift === 0 ? 0 : 4, Math.floor((key.length + shift) / 3) * 4)
      needles.set(`${name} ${encoding} at ${shift}`, Buffer.from(whole.slice(0, 32)))
    }
  return needles
}

/** Scans all readable memory of `pid` outside the key arena (locked pages that no dump holds). */
export function scanMemory(
  pid: number,
  needles: Map<string, Buffer>,
): { findings: Finding[]; bytes: number } {
  const memory = openSync(`/proc/${pid}/mem`, 'r')
  let bytes = 0
  const findings: Finding[] = []
  for (const region of readableRegions(pid)) {
    bytes += scan(memory, region.start, region.end, region.name, needles, findings)
  }
  closeSync(memory)
  return { findings, bytes }
}

export function scanFile(path: string, needles: Map<string, Buffer>): Finding[] {
  const findings: Finding[] = []
  const file = openSync(path, 'r')
  scan(file, 0, statSync(path).size, path, needles, findings)
  closeSync(file)
  return findings
}

interface Region {
  readonly start: number
  readonly end: number
  readonly name: string
}

function readableRegions(pid: number): Region[] {
  const regions: Region[] = []
  let region: Region | undefined
  let resident = 0
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'latin1').split('\n')) {
    const head = /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)$/.exec(line)
    if (head) {
      const [, start = '', end = '', access = '', name = ''] = head
      region = access.startsWith('r')
        ? { start: parseInt(start, 16), end: parseInt(end, 16), name: name || 'anonymous' }
        : undefined
      resident = 0
    } else if (line.startsWith('Rss:')) resident = parseInt(line.slice(4), 10)
    else if (line.startsWith('VmFlags:') && region && resident > 0) {
      const flags = line.split(/\s+/)
      // The arena of the fallback: locked, and left out of core dumps. (memfd_secret cannot be read at all.)
      const arena = flags.includes('lo') && flags.includes('dd')
      if (!arena && !region.name.startsWith('[vvar') && region.name !== '[vsyscall]') regions.push(region)
    }
  }
  return regions
}

const step = 16 * 2 ** 20
const overlap = 256

function scan(
  file: number,
  start: number,
  end: number,
  name: string,
  needles: Map<string, Buffer>,
  findings: Finding[],
): number {
  const chunk = Buffer.allocUnsafeSlow(step + overlap)
  let bytes = 0
  for (let position = start; position < end; position += step) {
    let length: number
    try {
      length = readSync(file, chunk, 0, Math.min(step + overlap, end - position), position)
    } catch {
      // Secret memory and device mappings answer EIO or EFAULT.
      continue
    }
    bytes += Math.min(length, step)
    const seen = chunk.subarray(0, length)
    for (const [needle, value] of needles) {
      const at = seen.indexOf(value)
      if (at >= 0) findings.push({ needle, place: `${name} at ${(position + at).toString(16)}` })
    }
  }
  return bytes
}
