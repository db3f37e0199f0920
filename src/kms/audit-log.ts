/**
 * The append-only record of operations: one JSON object a line, each bound to the one before it by its SHA-256.
 * Lines are collected by `append`, and become durable together by `write` and `sync`.
 */
import {
  closeSync,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  writeSync,
} from 'node:fs'
import { promisify } from 'node:util'
import { VmsealError } from '../errors.js'
import { genesis, linkLine, longestLine, readLink, sha256 } from '../audit/chain.js'
import type { AuditLink } from '../audit/chain.js'

export interface AuditRecord {
  /** ISO 8601, UTC. */
  readonly time: string
  /** The KMIP operation, or what was done at the KMS itself, for instance `Enrol`. */
  readonly operation: string
  /** Absent for a certificate that is not enrolled. */
  readonly client?: string | undefined
  readonly clientKeyHash?: string | undefined
  /** IP address and port of the client. */
  readonly address?: string | undefined
  readonly keyId?: string | undefined
  readonly protocolVersion?: string | undefined
  /** `Success` or the KMIP result reason. */
  readonly result: string
  readonly message?: string | undefined
}

/** The last record, as the store remembers it. */
export interface AuditHead extends AuditLink {
  /** Length of the log. */
  readonly bytes: number
  /** The log was closed in order: nothing may follow this record. */
  readonly closed?: true
}

const datasync = promisify(fdatasync)

/** Bytes that a crash may have left behind the stored head: more than any group of records. */
const longestTail = 256 * 1024 * 1024

export class AuditLog {
  readonly #file: number
  #written: AuditHead
  #last: AuditLink
  #pending: string[] = []
  #broken: unknown

  /**
   * Continues the log after `stored`. Records behind it are what a crash left and are kept; part of a line is kept too
   * and named by a record of its own. When the stored head is not found the chain goes on from it all the same, so
   * that the gap stays to be seen.
   */
  static open(path: string, stored: AuditHead = { ...genesis, bytes: 0 }): AuditLog {
    const log = new AuditLog(openSync(path, 'a+', 0o600), stored)
    try {
      log.#recover(stored)
      return log
    } catch (error) {
      closeSync(log.#file)
      throw error
    }
  }

  private constructor(file: number, head: AuditHead) {
    this.#file = file
    this.#written = head
    this.#last = head
  }

  /** The record waits for `write`. */
  append(record: AuditRecord): void {
    const { line, link } = linkLine(this.#last, record)
    this.#pending.push(line)
    this.#last = link
  }

  get isPending(): boolean {
    return this.#pending.length > 0
  }

  /**
   * Writes the waiting records, not durable yet: the head after them. What the system refuses leaves the log as it was;
   * only after a refused fsync, when nobody knows what is on the disk, the log takes nothing more.
   */
  write(): AuditHead {
    if (this.#broken !== undefined)
      throw new VmsealError('VMSEAL_IO', 'the audit log could not be made durable; restart the KMS', {
        cause: this.#broken,
      })
    const bytes = Buffer.from(this.#pending.join(''))
    try {
      for (let written = 0; written < bytes.length;)
        written += writeSync(this.#file, bytes, written, bytes.length - written)
    } catch (error) {
      this.#cut()
      throw error
    }
    this.#written = { ...this.#last, bytes: this.#written.bytes + bytes.length }
    this.#pending = []
    return this.#written
  }

  /** Makes what was written durable. */
  sync(): void {
    try {
      fdatasyncSync(this.#file)
    } catch (error) {
      this.#broken = error
      throw error
    }
  }

  /** The same off the event loop. */
  async syncLater(): Promise<void> {
    try {
      await datasync(this.#file)
    } catch (error) {
      this.#broken = error
      throw error
    }
  }

  /** Takes back part of a write. */
  #cut(): void {
    try {
      ftruncateSync(this.#file, this.#written.bytes)
    } catch (error) {
      this.#broken = error
    }
  }

  /** Forgets the records that wait. */
  discard(): void {
    this.#pending = []
    this.#last = this.#written
  }

  /** The head of a log that is closed in order. */
  close(): AuditHead {
    closeSync(this.#file)
    const { sequence, hash, bytes } = this.#written
    return { sequence, hash, bytes, closed: true }
  }

  #recover(stored: AuditHead): void {
    const { size } = fstatSync(this.#file)
    const isWhole = size >= stored.bytes && this.#endsWith(stored)
    const tail = isWhole
      ? this.#read(stored.bytes, Math.min(size - stored.bytes, longestTail))
      : Buffer.alloc(0)
    let used = 0
    for (let end = tail.indexOf(10); end >= 0 && stored.closed === undefined; end = tail.indexOf(10, used)) {
      const link = readLink(tail.toString('utf8', used, end))
      if (link?.previous !== this.#last.hash || link.sequence !== this.#last.sequence + 1) break
      this.#last = { sequence: link.sequence, hash: link.hash }
      used = end + 1
    }
    const rest = tail.subarray(used)
    this.#written = { ...this.#last, bytes: size }
    this.#note(isWhole, rest)
  }

  /** What was found at the end, as a record of the log itself. */
  #note(isWhole: boolean, rest: Buffer): void {
    if (isWhole && rest.length === 0) return
    const { bytes } = this.#written
    if (bytes > 0 && this.#read(bytes - 1, 1).toString() !== '\n') this.#pending.push('\n')
    const torn = isWhole && !rest.includes(10)
    this.append({
      time: new Date().toISOString(),
      operation: torn ? 'AuditTorn' : 'AuditGap',
      result: torn ? 'Success' : 'GeneralFailure',
      message: torn ? sha256(rest) : 'the end of the log is not what the KMS wrote last',
    })
    this.write()
    this.sync()
  }

  #endsWith(stored: AuditHead): boolean {
    if (stored.bytes === 0) return true
    const from = Math.max(0, stored.bytes - longestLine)
    const text = this.#read(from, stored.bytes - from).toString()
    const start = text.lastIndexOf('\n', text.length - 2) + 1
    return text.endsWith('\n') && readLink(text.slice(start, -1))?.hash === stored.hash
  }

  #read(from: number, length: number): Buffer {
    const bytes = Buffer.alloc(length)
    let read = 0
    while (read < length) {
      const got = readSync(this.#file, bytes, read, length - read, from + read)
      if (got === 0) break
      read += got
    }
    return bytes.subarray(0, read)
  }
}
