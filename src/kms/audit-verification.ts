/** Reads the whole audit log and finds the first place where it is not what the KMS wrote. */
import { createReadStream, existsSync } from 'node:fs'
import { join } from 'node:path'
import { VmsealError, isVmsealError } from '../errors.js'
import { genesis, longestLine, readLink, sha256 } from '../audit/chain.js'
import type { AuditLink, ReadLink } from '../audit/chain.js'
import type { AuditHead } from './audit-log.js'
import { closeDatabase, openDatabase } from './database.js'
import { Facts } from './facts.js'
import { auditFile, storeFile } from './installation.js'

export interface AuditBreak {
  /** Number of the line, from 1; one more than there are when the end is missing. */
  readonly line: number
  /** The record that should stand there. */
  readonly sequence: number
  readonly reason: 'altered' | 'gap' | 'cut' | 'not-the-log'
}

export interface AuditVerification {
  /** Records that were found good, up to the first break. */
  readonly records: number
  readonly ok: boolean
  readonly firstBreak?: AuditBreak
  /**
   * The end was compared with the head in the store. False while a KMS serves the directory, which alone can read its
   * store then: a missing end is not found.
   */
  readonly headChecked: boolean
}

/**
 * Finds any change, removal, insertion, reordering or truncation. Rejects with VMSEAL_NOT_FOUND where there is no KMS,
 * VMSEAL_STORE_INVALID or VMSEAL_IO.
 */
export async function verifyAudit(directory: string): Promise<AuditVerification> {
  const store = join(directory, storeFile)
  if (!existsSync(store))
    throw new VmsealError('VMSEAL_NOT_FOUND', `${directory} is not the directory of a KMS`, {
      details: { subject: directory },
    })
  return checkLog(join(directory, auditFile), readHead(store))
}

/** The same while a KMS serves the directory, by the head that it knows. */
export async function verifyServedAudit(directory: string, facts: Facts): Promise<AuditVerification> {
  return checkLog(join(directory, auditFile), knownOf(facts))
}

async function checkLog(file: string, known: Known): Promise<AuditVerification> {
  const chain = new ChainCheck(known)
  if (existsSync(file)) for await (const line of linesOf(file)) if (!chain.read(line)) break
  return chain.result()
}

interface Known {
  readonly head?: AuditHead
  readonly origin: AuditLink
  readonly checked: boolean
}

function readHead(store: string): Known {
  try {
    const database = openDatabase(store)
    try {
      return knownOf(new Facts(database))
    } finally {
      closeDatabase(database)
    }
  } catch (error) {
    if (isVmsealError(error, 'VMSEAL_FILE_LOCKED')) return { origin: genesis, checked: false }
    throw error
  }
}

function knownOf(facts: Facts): Known {
  const head = facts.getJson<AuditHead>('audit-head')
  const origin = facts.getJson<AuditLink>('audit-origin') ?? genesis
  return { ...(head ? { head } : {}), origin, checked: true }
}

class ChainCheck {
  readonly #known: Known
  #last: AuditLink
  #lines = 0
  #records = 0
  /** What was left of a line that a crash cut; the next record must name it. */
  #torn: Buffer | undefined
  #break: AuditBreak | undefined
  #headSeen: boolean

  constructor(known: Known) {
    this.#known = known
    this.#last = known.origin
    this.#headSeen = !known.head || known.head.sequence === known.origin.sequence
  }

  /** False at a break. */
  read({ bytes, isWhole }: Line): boolean {
    this.#lines++
    const link = isWhole ? readLink(bytes.toString()) : undefined
    if (!link) {
      if (this.#torn) return this.#breaks('altered', this.#lines - 1)
      this.#torn = bytes
      return true
    }
    // Of a restored store whose own store cannot be asked: the first record says where it goes on.
    if (!this.#known.checked && this.#records === 0 && link.record.operation === 'Restore')
      this.#last = { sequence: link.sequence - 1, hash: link.previous }
    if (this.#torn && !explains(link, this.#torn)) return this.#breaks('altered', this.#lines - 1)
    if (link.sequence !== this.#last.sequence + 1 || link.previous !== this.#last.hash)
      return this.#breaks('gap')
    return this.#accept(link)
  }

  result(): AuditVerification {
    const { head, checked } = this.#known
    if (!this.#break && head && !this.#headSeen) this.#breaks('cut', this.#lines + 1)
    // What a crash has just left is named at the next start; a log that was closed ends with its line.
    if (!this.#break && this.#torn && head?.closed) this.#breaks('altered')
    return {
      records: this.#records,
      ok: this.#break === undefined,
      ...(this.#break ? { firstBreak: this.#break } : {}),
      headChecked: checked,
    }
  }

  #accept(link: ReadLink): boolean {
    const { head } = this.#known
    if (head?.closed && link.sequence > head.sequence) return this.#breaks('not-the-log')
    if (head?.sequence === link.sequence) {
      if (head.hash !== link.hash) return this.#breaks('altered')
      this.#headSeen = true
    }
    if (link.record.operation === 'AuditGap') return this.#breaks('gap')
    this.#torn = undefined
    this.#last = link
    this.#records++
    return true
  }

  #breaks(reason: AuditBreak['reason'], line = this.#lines): false {
    this.#break = { line, sequence: this.#last.sequence + 1, reason }
    return false
  }
}

function explains({ record }: ReadLink, torn: Buffer): boolean {
  return record.operation === 'AuditTorn' && record.message === sha256(torn)
}

interface Line {
  readonly bytes: Buffer
  /** Ended, and no longer than a line may be. */
  readonly isWhole: boolean
}

/** The rest without an end comes last; of a line that is too long only its beginning is kept. */
async function* linesOf(file: string): AsyncGenerator<Line> {
  let kept: Buffer[] = []
  let length = 0
  for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) {
    let from = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      const bytes = Buffer.concat([...kept, chunk.subarray(from, end)])
      yield { bytes, isWhole: length + end - from <= longestLine }
      from = end + 1
      kept = []
      length = 0
    }
    if (length <= longestLine) kept.push(chunk.subarray(from))
    length += chunk.length - from
  }
  if (length > 0) yield { bytes: Buffer.concat(kept), isWhole: false }
}
