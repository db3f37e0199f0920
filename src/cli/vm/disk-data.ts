/** `vmseal vm disk digest`, `read` and `write`: the data of a disk, as a guest reads and writes it. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { open, type FileHandle } from 'node:fs/promises'
import { resolve } from 'node:path'
import { VmsealError } from '../../errors.js'
import { ioError } from '../../host/io-error.js'
import { byteSize, wholeNumber } from '../arguments.js'
import { facts } from '../output.js'
import { sizeText, type ProgressFacts } from '../progress.js'
import { given, verb } from '../verb/verb.js'

interface Place {
  readonly vm: string
  readonly disk: string
  readonly host?: string
}

interface DigestResult {
  readonly vm: string
  readonly disk: string
  readonly sha256: string
  readonly bytes: number
}

interface MovedData extends DigestResult {
  /** Where on the disk, in bytes. */
  readonly offset: number
}

const hostHelp = 'host that does the work (default: the one the VM is registered on)'
const local = `Data of a disk does not travel between machines: the host has to be in the process of the vCenter. The VM may be on or off.`
/** What one order reads or writes, at most. */
const chunkBytes = 1024 * 1024

export const vmDiskDigest = verb<Place, DigestResult>({
  name: 'vm disk digest',
  summary:
    'SHA-256 of a disk as a guest reads it: the same before and after encryption, recrypt, clone and move.',
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('<disk>', 'device node or disk id, for instance scsi0:0')
      .option('--host <host>', hostHelp),
  hosts: 'needed',
  run: async ({ vcenter, ended }, { vm, disk, host }) => {
    const found = await vcenter.virtualMachines.get(vm)
    return { vm, disk, ...(await found.digest(disk, { signal: ended, ...given({ host }) })) }
  },
  show: ({ sha256, bytes, vm, disk }) => `${sha256}  ${vm} ${disk} (${sizeText(bytes)})`,
})

interface ReadValues extends Place {
  readonly offset?: number
  readonly length?: number
  readonly out?: string
}

/** Of one order: the size of the disk, or a piece of its data. */
type ReadAnswer = { readonly capacityBytes: number } | { readonly data: string }

export const vmDiskRead = verb<ReadValues, MovedData | ReadAnswer>({
  name: 'vm disk read',
  summary: 'Read a disk as a guest does, to standard output or a new file.',
  help: `${local}
What is read is plaintext: a file is made with mode 0600, and a terminal is refused.

Examples:
  vmseal vm disk read db01 scsi0:0 --length 512 | xxd
  vmseal vm disk read db01 scsi0:0 --out /secure/db01.raw --progress`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('<disk>', 'device node or disk id, for instance scsi0:0')
      .option('--offset <bytes>', 'where to begin (default: 0)', wholeNumber)
      .option('--length <size>', 'how much, for instance 512 or 1G (default: to the end)', byteSize)
      .option('--out <file>', 'a new file (default: standard output)')
      .option('--host <host>', hostHelp),
  prepare: ({ out, ...values }) => {
    if (out === undefined && process.stdout.isTTY)
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        'data of a disk is not for a terminal: name a file with --out',
      )
    return { ...values, ...given({ out: out === undefined ? undefined : resolve(out) }) }
  },
  hosts: 'needed',
  run: async ({ vcenter }, { vm, disk, offset = 0, length, host }) => {
    const found = await vcenter.virtualMachines.get(vm)
    if (length === undefined) return capacityOf((await found.info()).disks, vm, disk)
    return { data: (await found.readDisk(disk, offset, length, given({ host }))).toString('base64') }
  },
  drive: async (order, { out, ...place }, progress, cancelled) => {
    const { vm, disk, offset = 0, host } = place
    const { capacityBytes } = (await order({ vm, disk })) as { readonly capacityBytes: number }
    const end = place.length === undefined ? capacityBytes : offset + place.length
    if (offset > capacityBytes || end > capacityBytes)
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        `the disk ${disk} of ${vm} ends at byte ${capacityBytes}`,
        {
          details: { subject: disk },
        },
      )
    const file = out === undefined ? undefined : await opened(out, 'wx')
    const meter = new Meter(`read ${disk}`, end - offset, progress)
    try {
      for (let at = offset; at < end; at += chunkBytes) {
        refuseCancelled(cancelled)
        const length = Math.min(chunkBytes, end - at)
        const answer = await order({ vm, disk, offset: at, length, ...given({ host }) })
        const bytes = Buffer.from((answer as { readonly data: string }).data, 'base64')
        if (file) await file.appendFile(bytes)
        else await toOutput(bytes)
        meter.add(bytes)
      }
      await file?.sync()
    } finally {
      await file?.close()
    }
    return { vm, disk, offset, bytes: end - offset, sha256: meter.digest() }
  },
  answersAside: ({ out }) => out === undefined,
  show: describeMoved('read'),
})

interface WriteValues extends Place {
  readonly offset?: number
  readonly in?: string
  readonly data?: string
  readonly yes?: true
}

export const vmDiskWrite = verb<WriteValues, MovedData | null>({
  name: 'vm disk write',
  summary: 'Write to a disk as a guest does, from standard input or a file; durable when it is done.',
  help: `${local}
Stopped in the middle, what was written until then is on the disk: say the same again.

Example:
  vmseal vm disk write db01 scsi0:0 --offset 1048576 --in data.raw --yes`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('<disk>', 'device node or disk id, for instance scsi0:0')
      .option('--offset <bytes>', 'where to begin (default: 0)', wholeNumber)
      .option('--in <file>', 'what is written (default: standard input)')
      .option('--host <host>', hostHelp)
      .option('--yes', 'without it nothing is written'),
  prepare: (values) => {
    if (!values.yes)
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        `what is on disk ${values.disk} of ${values.vm} now would be overwritten. Say --yes if that is what you want`,
      )
    return values.in === undefined ? values : { ...values, in: resolve(values.in) }
  },
  hosts: 'needed',
  run: async ({ vcenter }, { vm, disk, offset = 0, data = '', host }) => {
    const found = await vcenter.virtualMachines.get(vm)
    await found.writeDisk(disk, offset, Buffer.from(data, 'base64'), given({ host }))
    return null
  },
  drive: async (order, { in: name, ...place }, progress, cancelled) => {
    const { vm, disk, offset = 0, host } = place
    const file = name === undefined ? undefined : await opened(name, 'r')
    try {
      const total = file ? (await file.stat()).size : 0
      const meter = new Meter(`write ${disk}`, total, progress)
      let at = offset
      for await (const bytes of pieces(file ? file.createReadStream({ autoClose: false }) : process.stdin)) {
        refuseCancelled(cancelled)
        await order({ vm, disk, offset: at, data: bytes.toString('base64'), ...given({ host }) })
        at += bytes.length
        meter.add(bytes)
      }
      return { vm, disk, offset, bytes: at - offset, sha256: meter.digest() }
    } finally {
      await file?.close()
    }
  },
  show: describeMoved('written'),
})

function describeMoved(verbed: string) {
  return (result: object | null): string => {
    const { bytes, offset, sha256, vm, disk } = result as MovedData
    return facts({ [verbed]: `${bytes} bytes at ${offset} of ${vm} ${disk}`, 'SHA-256': sha256 })
  }
}

function capacityOf(
  disks: readonly { readonly device: string; readonly diskId: string; readonly capacityBytes: number }[],
  vm: string,
  name: string,
): { readonly capacityBytes: number } {
  const found = disks.find(({ device, diskId }) => device === name || diskId === name)
  if (found) return { capacityBytes: found.capacityBytes }
  throw new VmsealError('VMSEAL_NOT_FOUND', `${vm} has no disk ${name}`, { details: { subject: name } })
}

/** Pieces as large as one order takes, whatever size they come in. */
async function* pieces(source: AsyncIterable<unknown>): AsyncGenerator<Buffer> {
  let waiting: Buffer[] = []
  let bytes = 0
  for await (const chunk of source) {
    waiting.push(Buffer.from(chunk as Uint8Array))
    bytes += waiting.at(-1)?.length ?? 0
    if (bytes < chunkBytes) continue
    const all = Buffer.concat(waiting)
    const whole = all.length - (all.length % chunkBytes)
    for (let at = 0; at < whole; at += chunkBytes) yield all.subarray(at, at + chunkBytes)
    waiting = [all.subarray(whole)]
    bytes = all.length - whole
  }
  if (bytes > 0) yield Buffer.concat(waiting)
}

/** Resolves when the reader of the output takes more. */
async function toOutput(bytes: Buffer): Promise<void> {
  if (!process.stdout.write(bytes)) await once(process.stdout, 'drain')
}

async function opened(file: string, flags: 'r' | 'wx'): Promise<FileHandle> {
  try {
    return await open(file, flags, 0o600)
  } catch (error) {
    throw ioError(error, file)
  }
}

function refuseCancelled(signal: AbortSignal): void {
  if (signal.aborted) throw new VmsealError('VMSEAL_CANCELLED')
}

class Meter {
  readonly #hash = createHash('sha256')
  readonly #began = performance.now()
  readonly #step: string
  readonly #total: number
  readonly #progress: (facts: ProgressFacts) => void
  #done = 0

  /** `total` 0: nobody knows. */
  constructor(step: string, total: number, progress: (facts: ProgressFacts) => void) {
    this.#step = step
    this.#total = total
    this.#progress = progress
  }

  add(bytes: Uint8Array): void {
    this.#hash.update(bytes)
    this.#done += bytes.length
    const bytesPerSecond = this.#done / Math.max((performance.now() - this.#began) / 1000, 0.001)
    const secondsLeft = (this.#total - this.#done) / bytesPerSecond
    this.#progress({
      step: this.#step,
      doneBytes: this.#done,
      totalBytes: this.#total,
      bytesPerSecond,
      secondsLeft,
    })
  }

  digest(): string {
    return this.#hash.digest('hex')
  }
}
