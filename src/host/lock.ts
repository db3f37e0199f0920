/**
 * The lock of a VM: a file in its folder that names the process that works on the VM. It is made
 * whole by link(2), so a reader never sees half of it.
 *
 * A lock is void when its holder is known to be gone: its process ended (same kernel and process
 * namespace), or it was an earlier start of this very host. What cannot be known counts as held.
 */
import { randomUUID } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import { link, rename } from 'node:fs/promises'
import { VmsealError } from '../errors.js'
import { readSmallFile, removeFile, writeTemporary } from './durable-file.js'
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
}

/** The starts of hosts that live in this thread. */
const liveBoots = new Set<string>()
const pidSpace = readPidSpace()

/** Makes locks of this start count as held; call the result when the host stops. */
export function registerBoot(bootId: string): () => void {
  liveBoots.add(bootId)
  return () => void liveBoots.delete(bootId)
}

export class VirtualMachineLock {
  readonly #files: VirtualMachineFiles
  readonly #text: string

  private constructor(files: VirtualMachineFiles, text: string) {
    this.#files = files
    this.#text = text
  }

  /** Rejects with VMSEAL_FILE_LOCKED while another process, host or operation holds the VM. */
  static async acquire(files: VirtualMachineFiles, owner: LockOwner): Promise<VirtualMachineLock> {
    const record: LockRecord = {
      hostId: owner.hostId,
      bootId: owner.bootId,
      token: randomUUID(),
      pid: process.pid,
      started: startTime(process.pid) ?? '',
      pidSpace,
    }
    const text = JSON.stringify(record)
    for (let attempt = 0; attempt < 5; attempt += 1) {
      if (await create(files, text)) return new VirtualMachineLock(files, text)
      const held = await read(files)
      if (held === undefined) continue
      if (!isVoid(held, owner)) throw locked(files, held)
      await takeAway(files, held)
    }
    throw locked(files, undefined)
  }

  /** Rejects if the lock file is not ours any more; call it right before what cannot be undone. */
  async assertHeld(): Promise<void> {
    const held = await read(this.#files)
    if (held !== this.#text) throw locked(this.#files, held)
  }

  async release(): Promise<void> {
    if ((await read(this.#files)) === this.#text) await removeFile(this.#files.path(this.#files.lock))
  }
}

/** False: there is a lock file already. */
async function create(files: VirtualMachineFiles, text: string): Promise<boolean> {
  const path = files.path(files.lock)
  const temporary = await writeTemporary(path, text)
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

async function read(files: VirtualMachineFiles): Promise<string | undefined> {
  try {
    return (
      await readSmallFile(files.path(files.lock), 4096, files.label(files.lock), 'VMSEAL_FILE_LOCKED')
    ).toString()
  } catch (error) {
    if (error instanceof VmsealError && error.code === 'VMSEAL_NOT_FOUND') return undefined
    throw error
  }
}

/** Moves a void lock aside. If meanwhile somebody else's lock stood there, it is put back. */
async function takeAway(files: VirtualMachineFiles, text: string): Promise<void> {
  const path = files.path(files.lock)
  const aside = files.path(`.${files.lock}.tmp-${randomUUID()}`)
  try {
    await rename(path, aside)
    const moved = (await readSmallFile(aside, 4096, files.label(files.lock), 'VMSEAL_FILE_LOCKED')).toString()
    if (moved !== text) await link(aside, path)
  } catch (error) {
    if (error instanceof VmsealError && error.code === 'VMSEAL_NOT_FOUND') return
    if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'EEXIST')
      throw ioError(error, files.label(files.lock))
  } finally {
    await removeFile(aside)
  }
}

function isVoid(text: string, owner: LockOwner): boolean {
  const lock = parse(text)
  if (lock === undefined) return false
  const earlierStart =
    lock.hostId === owner.hostId && lock.bootId !== owner.bootId && !liveBoots.has(lock.bootId)
  if (lock.pidSpace !== pidSpace) return earlierStart
  if (lock.pid === process.pid) return earlierStart
  return startTime(lock.pid) !== lock.started
}

function parse(text: string): LockRecord | undefined {
  try {
    const value = JSON.parse(text) as Partial<Record<keyof LockRecord, unknown>> | null
    const texts = [value?.hostId, value?.bootId, value?.token, value?.started, value?.pidSpace]
    const sound = texts.every((part) => typeof part === 'string') && Number.isSafeInteger(value?.pid)
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
