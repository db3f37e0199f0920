/**
 * Operations of one turn of the event loop share one transaction and one fsync of the audit log. The log is durable
 * before the store commits, and both before any answer leaves: `settled` is what an answer waits for. Groups that
 * change no key are made durable off the event loop, one after another; what arrives meanwhile is the next group.
 */
import type { AuditHead, AuditLog, AuditRecord } from './audit-log.js'
import { purgeLog } from './database.js'
import type { KmsDatabase } from './database.js'
import { Facts } from './facts.js'

/** What of the log a crash may leave without a head in the store that would show its loss. */
const headDelayMs = 10

export class GroupCommit {
  readonly #database: KmsDatabase
  readonly #audit: AuditLog
  readonly #facts: Facts
  readonly #undone: (() => void)[] = []
  #synchronous: 'FULL' | 'NORMAL' = 'FULL'
  #isOpen = false
  #purges = false
  #group: Group | undefined
  /** The group that is being made durable off the event loop. */
  #syncing: Group | undefined
  /** The head that is to be stored a moment later. */
  #head: AuditHead | undefined
  #timer: NodeJS.Timeout | undefined
  /** Sequence of the head that the store has. */
  #stored = 0

  constructor(database: KmsDatabase, audit: AuditLog) {
    this.#database = database
    this.#audit = audit
    this.#facts = new Facts(database)
  }

  /** `forget` drops what was remembered of a group that is undone. */
  onUndone(forget: () => void): void {
    this.#undone.push(forget)
  }

  /** Runs `work` in the transaction of the group; undone alone if it throws. */
  write<T>(work: () => T): T {
    this.#schedule()
    this.#begin()
    this.#database.exec('SAVEPOINT operation')
    try {
      const result = work()
      this.#database.exec('RELEASE operation')
      return result
    } catch (error) {
      this.#database.exec('ROLLBACK TO operation')
      this.#database.exec('RELEASE operation')
      throw error
    }
  }

  /** `write` and `record` for what is done at the KMS itself: durable when it returns. */
  writeNow<T>(work: () => T, record: (result: T) => AuditRecord): T {
    const result = this.write(work)
    this.record(record(result))
    this.flush()
    return result
  }

  /** What the group deletes does not stay behind in the write-ahead log either. */
  purge(): void {
    this.#purges = true
  }

  record(record: AuditRecord): void {
    this.#audit.append(record)
    this.#schedule()
  }

  /** Resolves once everything up to now is durable; rejects if it was undone. */
  settled(): Promise<void> {
    return (this.#group ?? this.#syncing)?.settled ?? Promise.resolve()
  }

  /** Makes everything durable and stores the last head. */
  async drain(): Promise<void> {
    this.flush()
    await this.settled()
    this.#storeHead()
  }

  /** Commits now. Throws if the group was undone. */
  flush(): void {
    const group = this.#takeGroup()
    if (!group) return
    try {
      const head = this.#audit.write()
      this.#audit.sync()
      this.#store(head)
    } catch (error) {
      this.#undo()
      group.reject(error)
      throw error
    }
    try {
      if (this.#purges) purgeLog(this.#database)
      group.resolve()
    } catch (error) {
      // It is done; whoever asked for the deletion is not told that nothing is left of it.
      group.reject(error)
      throw error
    } finally {
      this.#purges = false
    }
  }

  /** The end of a turn. */
  #end(): void {
    if (!this.#isOpen) {
      if (!this.#syncing) void this.#flushLater()
      return
    }
    try {
      this.flush()
    } catch {
      // Those who wait for the group know.
    }
  }

  /** For a group that changes no key. */
  async #flushLater(): Promise<void> {
    const group = this.#takeGroup()
    if (!group) return
    let head: AuditHead
    try {
      head = this.#audit.write()
    } catch (error) {
      this.#undo()
      group.reject(error)
      return
    }
    this.#syncing = group
    try {
      await this.#audit.syncLater()
      this.#storeSoon(head)
      group.resolve()
    } catch (error) {
      // Nothing was changed, and what waits in the log belongs to the next group: it stays.
      group.reject(error)
    }
    this.#syncing = undefined
    if (this.#group) this.#end()
  }

  #takeGroup(): Group | undefined {
    const group = this.#group
    this.#group = undefined
    clearImmediate(group?.timer)
    return group
  }

  /** Commits the transaction of a group. */
  #store(head: AuditHead): void {
    this.#begin()
    this.#commitHead(head)
  }

  /**
   * The head alone, a moment later and once for many groups. After a crash an older head is no fault, for the log is
   * ahead of it then.
   */
  #storeSoon(head: AuditHead): void {
    this.#head = head
    this.#timer ??= setTimeout(() => this.#storeHead(), headDelayMs)
  }

  #storeHead(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const head = this.#head
    // A transaction that is open takes a later head along.
    if (!head || this.#isOpen || head.sequence <= this.#stored) return
    try {
      this.#open('NORMAL')
      this.#commitHead(head)
    } catch {
      // The next group tries again.
      this.#rollback()
    }
  }

  #commitHead(head: AuditHead): void {
    this.#facts.putJson('audit-head', head)
    this.#database.exec('COMMIT')
    this.#isOpen = false
    this.#stored = head.sequence
  }

  #undo(): void {
    this.#purges = false
    if (!this.#audit.isPending)
      // The log has the group already: the next one takes it back.
      this.#audit.append({ time: new Date().toISOString(), operation: 'Undone', result: 'GeneralFailure' })
    else this.#audit.discard()
    this.#rollback()
  }

  #rollback(): void {
    for (const forget of this.#undone) forget()
    if (!this.#isOpen) return
    this.#isOpen = false
    try {
      this.#database.exec('ROLLBACK')
    } catch {
      // SQLite has rolled back itself; the error that led here says more.
    }
  }

  #begin(): void {
    if (!this.#isOpen) this.#open('FULL')
  }

  #open(synchronous: 'FULL' | 'NORMAL'): void {
    if (this.#synchronous !== synchronous) {
      this.#database.pragma(`synchronous = ${synchronous}`)
      this.#synchronous = synchronous
    }
    this.#database.exec('BEGIN IMMEDIATE')
    this.#isOpen = true
  }

  #schedule(): void {
    if (this.#group) return
    const timer = setImmediate(() => this.#end())
    this.#group = new Group(timer)
  }
}

class Group {
  readonly timer: NodeJS.Immediate
  readonly settled: Promise<void>
  resolve!: () => void
  reject!: (reason: unknown) => void

  constructor(timer: NodeJS.Immediate) {
    this.timer = timer
    this.settled = new Promise((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
    // A group that nobody waits for may fail.
    this.settled.catch(() => {})
  }
}
