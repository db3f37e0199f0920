/**
 * The lock of a VM: a file in its folder that names the process that works on the VM. It is made
 * whole by link(2), so a reader never sees half of it.
 *
 * A lock is void when its holder is known to be gone: its process ended (same kernel and process
 * namespace), it was an earlier start of this very host, or this host gave it up and the file could
 * not be removed. What cannot be known counts as held.
 */
import { createHash, randomUUID } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import { link } from 'node:fs/promises'
import { basename } from 'node:path'
import { VmsealError } from '../errors.js'
import { readSmallFile, removeFile, replaceFile, writeTemporary } from './durable-file.js'
import { errnoOf, ioError } from './io-error.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'

/** Who takes locks: a host, at one of its starts. */
export interface LockOwner {
  readonly hostId: string
  readonly bootId: string
}

interface LockRecord extends LockOwner {
  readonly token: string
  readonly pid: number
  /** Start time of the process in clock ticks: a pid alone may be reused. */
  readonly started: string
  /** The kernel's boot and process namespace in which `pid` has a meaning. */
  readonly pidSpace: string
  /** The record of who handed the lock over. */
  readonly from?: string
}

/** In bytes. */
const recordLimit = 4096

/** The starts of hosts that live in this thread. */
const liveBoots = new Set<string>()
/** Tokens of locks of this thread that nobody holds any more although their file could not be removed. */
const abandoned = new Set<string>()
const pidSpace = readPidSpace()

/** Makes locks of this start count as held; call the result when the host stops. */
export function registerBoot(bootId: string): () => void {
  liveBoots.add(bootId)
  return () => void liveBoots.delete(bootId)
}

export class VirtualMachineLock {
  readonly #files: VirtualMachineFiles
  #text: string

  private constructor(files: VirtualMachineFiles, text: string) {
    this.#files = files
    this.#text = text
  }

  /** What the lock file says while this start of the host holds the VM; another one each time. */
  static newRecord({ hostId, bootId }: LockOwner): string {
    const started = startTime(process.pid) ?? ''
    const record: LockRecord = { hostId, bootId, token: randomUUID(), pid: process.pid, started, pidSpace }
    return JSON.stringify(record)
  }

  /** Rejects with VMSEAL_FILE_LOCKED while another process, host or operation holds the VM. */
  static async acquire(files: VirtualMachineFiles, owner: LockOwner): Promise<VirtualMachineLock> {
    const text = VirtualMachineLock.newRecord(owner)
    const taken = await orAbandon(text, () => take(files, files.path(files.lock), text, owner))
    if (!taken.ours) throw locked(files, taken.text)
    return new VirtualMachineLock(files, text)
  }

  /** The lock that another holder handed to this record; VMSEAL_FILE_LOCKED if nobody did. */
  static async adopt(files: VirtualMachineFiles, record: string): Promise<VirtualMachineLock> {
    const held = await read(files, files.path(files.lock))
    if (held === undefined || parse(held)?.token !== parse(record)?.token) throw locked(files, held)
    return new VirtualMachineLock(files, held)
  }

  /**
   * Hands the lock to the record of another host: at no moment is the VM without a lock. VMSEAL_INVALID_ARGUMENT for what is no
   * record of that host. When it fails otherwise, `assertHeld` tells whose the lock is.
   */
  async handTo(record: string, hostId: string): Promise<void> {
    const next = parse(record)
    if (record.length > recordLimit / 4 || next?.hostId !== hostId)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `lock must be a lock record of host ${hostId}`)
    await this.assertHeld()
    const text = JSON.stringify({ ...next, from: this.#text } satisfies LockRecord)
    await replaceFile(this.#files.path(this.#files.lock), text)
  }

  /** Begins to use a lock that was handed over. Returns how it is given back while nobody has used it. */
  async keep(): Promise<() => Promise<void>> {
    const { from, ...record }: Partial<LockRecord> = parse(this.#text) ?? {}
    if (from === undefined) return () => this.release()
    await this.assertHeld()
    const text = JSON.stringify(record)
    await replaceFile(this.#files.path(this.#files.lock), text)
    this.#text = text
    return () => this.#replace(from)
  }

  /**
   * Gives a lock that was handed over, and not used, back to who handed it: for him it is a sign that nobody else ran the VM. Its
   * absence would be none.
   */
  async giveBack(): Promise<void> {
    const from = parse(this.#text)?.from
    await (from === undefined ? this.release() : this.#replace(from))
  }

  async #replace(text: string): Promise<void> {
    await this.assertHeld()
    await replaceFile(this.#files.path(this.#files.lock), text)
  }

  /** Rejects if the lock file is not ours any more; call it right before what cannot be undone. */
  async assertHeld(): Promise<void> {
    const held = await read(this.#files, this.#files.path(this.#files.lock))
    if (held !== this.#text) throw locked(this.#files, held)
  }

  async release(): Promise<void> {
    const path = this.#files.path(this.#files.lock)
    await orAbandon(this.#text, () => release(this.#files, path, this.#text))
  }
}

/** Whoever takes or releases a lock and fails does not hold it afterwards, whatever stands in the file. */
async function orAbandon<Result>(text: string, act: () => Promise<Result>): Promise<Result> {
  try {
    return await act()
  } catch (error) {
    const token = parse(text)?.token
    if (token !== undefined) abandoned.add(token)
    throw error
  }
}

/** Whose a lock is now; `text` is that of its file, when somebody else was seen to hold it. */
type Taken = { readonly ours: true } | { readonly ours: false; readonly text: string | undefined }

/** Makes the lock file `path`, in the place of a void one too. */
async function take(
  files: VirtualMachineFiles,
  path: string,
  text: string,
  owner: LockOwner,
): Promise<Taken> {
  for (let attempt = 0; attempt < 5; attempt += 1) {
    if (await create(files, path, text)) return { ours: true }
    const held = await read(files, path)
    if (held === undefined) continue
    if (!isVoid(held, owner)) return { ours: false, text: held }
    await takeAway(files, path, held, text, owner)
  }
  // Others take the void lock over.
  return { ours: false, text: undefined }
}

/** False: there is a lock file already. */
async function create(files: VirtualMachineFiles, path: string, text: string): Promise<boolean> {
  const temporary = await writeTemporary(files.path(files.lock), text)
  try {
    await link(temporary, path)
    return true
  } catch (error) {
    // ENOENT: a holder's recovery swept our temporary file away, so there is a holder.
    if (errnoOf(error) === 'EEXIST' || errnoOf(error) === 'ENOENT') return false
    throw ioError(error, files.label(files.lock))
  } finally {
    await removeFile(temporary)
  }
}

/**
 * Removes a void lock. Only who holds the lock on this very removal may do it: so between the look and the removal the
 * lock of one that was faster cannot have come in its place. The name is that of a temporary file, so that what a crash
 * leaves is swept away by the next holder; he sweeps only when the void lock is gone.
 */
async function takeAway(
  files: VirtualMachineFiles,
  path: string,
  held: string,
  text: string,
  owner: LockOwner,
): Promise<void> {
  const removal = createHash('sha256')
    .update(`${basename(path)}\0${held}`)
    .digest('hex')
    .slice(0, 32)
  const removalLock = files.path(`.${files.lock}.tmp-${removal}`)
  if (!(await take(files, removalLock, text, owner)).ours) return
  try {
    await release(files, path, held)
  } finally {
    await release(files, removalLock, text)
  }
}

/** Removes the lock file if it still is the one with this text. */
async function release(files: VirtualMachineFiles, path: string, text: string): Promise<void> {
  if ((await read(files, path)) === text) await removeFile(path)
}

async function read(files: VirtualMachineFiles, path: string): Promise<string | undefined> {
  try {
    return (await readSmallFile(path, recordLimit, files.label(files.lock), 'VMSEAL_FILE_LOCKED')).toString()
  } catch (error) {
    if (error instanceof VmsealError && error.code === 'VMSEAL_NOT_FOUND') return undefined
    throw error
  }
}

function isVoid(text: string, owner: LockOwner): boolean {
  const lock = parse(text)
  if (lock === undefined) return false
  const earlierStart =
    lock.hostId === owner.hostId && lock.bootId !== owner.bootId && !liveBoots.has(lock.bootId)
  if (lock.pidSpace !== pidSpace) return earlierStart
  if (lock.pid === process.pid) return earlierStart || abandoned.has(lock.token)
  return startTime(lock.pid) !== lock.started
}

function parse(text: string): LockRecord | undefined {
  try {
    const value = JSON.parse(text) as Partial<Record<keyof LockRecord, unknown>> | null
    const texts = [value?.hostId, value?.bootId, value?.token, value?.started, value?.pidSpace]
    const sound =
      texts.every((part) => typeof part === 'string') &&
      ['string', 'undefined'].includes(typeof value?.from) &&
      Number.isSafeInteger(value?.pid)
    return sound && (value?.pid as number) > 0 ? (value as LockRecord) : undefined
  } catch {
    return undefined
  }
}

/** Undefined: there is no such process, or it ended and waits for its parent. */
function startTime(pid: number): string | undefined {
  try {
    // proc(5): fields 3 (state) and 22, counted after the command, which may hold spaces and parentheses.
    const status = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = status.slice(status.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19]
  } catch {
    return undefined
  }
}

function readPidSpace(): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()
    return `${boot} ${readlinkSync('/proc/self/ns/pid')}`
  } catch {
    // Without /proc no other process can be judged: only our own earlier starts.
    return `unknown ${randomUUID()}`
  }
}

function locked(files: VirtualMachineFiles, text: string | undefined): VmsealError {
  const lock = text === undefined ? undefined : parse(text)
  const holder = lock ? `host ${lock.hostId}, process ${lock.pid}` : 'another process'
  const hint =
    text !== undefined && lock === undefined ? `; ${files.lock} is damaged: remove it if nobody works` : ''
  return new VmsealError('VMSEAL_FILE_LOCKED', `${files.label(files.vmx)} is locked by ${holder}${hint}`, {
    details: { subject: files.label(files.vmx) },
  })
}
