/** The append-only record of operations: one JSON object a line, written before the answer leaves. */
import { closeSync, fstatSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs'

export interface AuditRecord {
  /** ISO 8601, UTC. */
  readonly time: string
  readonly operation: string
  /** Absent for a certificate that is not enrolled. */
  readonly client?: string
  readonly clientKeyHash: string
  readonly keyId?: string
  readonly protocolVersion: string
  /** `Success` or the KMIP result reason. */
  readonly result: string
  readonly message?: string
}

export class AuditLog {
  readonly #file: number

  constructor(path: string) {
    this.#file = openSync(path, 'a+', 0o600)
    this.#endLine()
  }

  append(record: AuditRecord): void {
    this.#write(`${JSON.stringify(record)}\n`)
  }

  close(): void {
    fsyncSync(this.#file)
    closeSync(this.#file)
  }

  /** A crash may have left part of a line. */
  #endLine(): void {
    const { size } = fstatSync(this.#file)
    if (size === 0) return
    const last = Buffer.alloc(1)
    readSync(this.#file, last, 0, 1, size - 1)
    if (last.toString() !== '\n') this.#write('\n')
  }

  #write(text: string): void {
    const bytes = Buffer.from(text)
    for (let written = 0; written < bytes.length;) written += writeSync(this.#file, bytes, written)
  }
}
