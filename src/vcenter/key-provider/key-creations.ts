/**
 * Create without orphans and without duplicates. Every Create carries a Name of its own that is on record before it is
 * sent; when its outcome is unclear, Locate by that Name finds out. What cannot be found out now stays on record, and
 * its key is the next one that is handed out.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { nameValue } from '../../kmip/attributes.js'
import type { KeyCreationRecord, KeyCreationTable } from '../../store/store.js'
import type { Deadline } from './deadline.js'
import { NoAnswerError, type Replicas } from './replicas.js'
import { ServerFailure, type KmsServer } from './server.js'

/** What the Name of every key begins with that a vCenter made. */
export const keyNamePrefix = 'vmseal-'

const mostAttempts = 4
const firstPauseMs = 25
/** Of the unclear ones, how many one call looks after. */
const lookedAfterAtOnce = 16

/** A key at the KMS that nobody uses yet. End with `used`, or with `leave` if it cannot be used now. */
export interface Creation {
  readonly keyId: string
  readonly name: string
  /** The server that is known to have it. */
  readonly server: KmsServer
  /** It was made by an earlier call. */
  readonly adopted: boolean
}

export class KeyCreations {
  readonly #providerId: string
  readonly #replicas: Replicas
  readonly #table: KeyCreationTable
  readonly #clock: () => Date
  readonly #lateCreateMs: number
  /** Names that a call of this process looks after. */
  readonly #inHand = new Set<string>()
  /** When an unclear name was asked for last, so that all get their turn. */
  readonly #lastLooks = new Map<string, number>()
  #looks = 0

  constructor(
    providerId: string,
    replicas: Replicas,
    table: KeyCreationTable,
    clock: () => Date,
    lateCreateMs: number,
  ) {
    this.#providerId = providerId
    this.#replicas = replicas
    this.#table = table
    this.#clock = clock
    this.#lateCreateMs = lateCreateMs
  }

  /** A new AES-256 key, or one that was made and never used. Rejects with NoAnswerError. */
  async create(deadline: Deadline): Promise<Creation> {
    const spare = await this.#adopt(deadline)
    if (spare) return spare
    const failures: ServerFailure[] = []
    for (const server of this.#replicas.inOrder(deadline)) {
      const name = `${keyNamePrefix}${randomUUID()}`
      this.#inHand.add(name)
      await this.#begin(name, server)
      const outcome = await this.#createAt(server, name, deadline)
      if ('keyId' in outcome) return { ...outcome, name, server, adopted: false }
      failures.push(outcome.failure)
      if (!outcome.unclear) await this.#table.end(name)
      this.#inHand.delete(name)
    }
    throw new NoAnswerError(failures)
  }

  /** The key has a user. */
  async used({ name }: Creation): Promise<void> {
    await this.#table.end(name)
    this.#inHand.delete(name)
    this.#lastLooks.delete(name)
  }

  /** The next call gets the key. */
  async leave({ name, keyId }: Creation): Promise<void> {
    await this.#table.found(name, keyId)
    this.#inHand.delete(name)
  }

  /** How many keys may be at the KMS that nobody uses. */
  async countUnclear(): Promise<number> {
    return (await this.#table.list(this.#providerId)).length
  }

  async #createAt(
    server: KmsServer,
    name: string,
    deadline: Deadline,
  ): Promise<{ keyId: string } | { failure: ServerFailure; unclear: boolean }> {
    const attributes = [{ name: 'Name', value: nameValue(name) }]
    let unclear = false
    for (let attempt = 1; ; attempt += 1) {
      try {
        const { id } = await server.use(
          (client) => client.create({ algorithm: 'AES', length: 256, attributes }),
          deadline,
        )
        if (unclear) await this.#keepSurplus(server, name, id, deadline)
        return { keyId: id }
      } catch (failure) {
        if (!(failure instanceof ServerFailure)) throw failure
        unclear ||= failure.unclear
        if (!unclear) return { failure, unclear }
        const found = await this.#find(server, name, deadline)
        if (found.ids.length > 0) return { keyId: await this.#takeFirst(name, found.ids, server.name) }
        if (!found.certain || attempt >= mostAttempts) return { failure, unclear }
      }
    }
  }

  /**
   * The keys of a name. `certain`: the server that was asked for the key has answered, so no key found means that there
   * is none (yet): a Create under the same name is safe at a server whose names are unique, and looked after elsewhere.
   */
  async #find(
    server: KmsServer,
    name: string,
    deadline: Deadline,
  ): Promise<{ ids: readonly string[]; certain: boolean }> {
    const locate = { repeatable: true }
    for (let attempt = 1; attempt <= mostAttempts; attempt += 1) {
      try {
        return { ids: await server.use((client) => client.locate({ name }), deadline, locate), certain: true }
      } catch (failure) {
        if (!(failure instanceof ServerFailure)) throw failure
        if (failure.refused || deadline.remainingMs === 0) break
        await sleep(Math.min(deadline.remainingMs, firstPauseMs * 2 ** attempt))
      }
    }
    if (this.#replicas.servers.length === 1 || deadline.remainingMs === 0) return { ids: [], certain: false }
    const ids = await this.#replicas
      .first((client) => client.locate({ name }), deadline)
      .catch((error: unknown) => (error instanceof NoAnswerError ? [] : Promise.reject(error as Error)))
    return { ids, certain: false }
  }

  /** A late Create may have run besides its repetition where names need not be unique. */
  async #keepSurplus(server: KmsServer, name: string, keyId: string, deadline: Deadline): Promise<void> {
    const { ids } = await this.#find(server, name, deadline)
    await this.#takeFirst(name, [keyId, ...ids.filter((id) => id !== keyId)], server.name)
  }

  /** Further keys of the name stay on record as keys that can be used. */
  async #takeFirst(name: string, ids: readonly string[], server: string): Promise<string> {
    for (const [index, keyId] of ids.entries())
      if (index > 0)
        await this.#table.begin({
          providerId: this.#providerId,
          server,
          keyId,
          beganAt: this.#clock().toISOString(),
          name: `${name} ${index + 1}`,
        })
    return ids[0] ?? ''
  }

  /** A key of an earlier call that nobody uses: one that is known, or one of the unclear Creates that did happen. */
  async #adopt(deadline: Deadline): Promise<Creation | undefined> {
    const records = (await this.#table.list(this.#providerId)).filter(({ name }) => !this.#inHand.has(name))
    const ready = records.find(({ keyId }) => keyId !== null)
    if (ready) return this.#take([ready], async ([record]) => record && this.#adopted(record, record.keyId))
    const lastLook = (record: KeyCreationRecord): number => this.#lastLooks.get(record.name) ?? 0
    const due = records
      .filter((record) => this.#serverOf(record)?.breaker.state === 'closed')
      .toSorted((one, other) => lastLook(one) - lastLook(other))
    const server = due[0] && this.#serverOf(due[0])
    if (!server) return undefined
    const chosen = due.filter((record) => this.#serverOf(record) === server).slice(0, lookedAfterAtOnce)
    return this.#take(chosen, (taken) => this.#clarify(server, taken, deadline))
  }

  /** Works on records that no other call has in hand; only the one that is returned stays so. */
  async #take(
    records: readonly KeyCreationRecord[],
    work: (records: readonly KeyCreationRecord[]) => Promise<Creation | undefined>,
  ): Promise<Creation | undefined> {
    for (const { name } of records) this.#inHand.add(name)
    let kept: Creation | undefined
    try {
      // Another call may have been done with one of them while the list was read.
      const present = new Set((await this.#table.list(this.#providerId)).map(({ name }) => name))
      kept = await work(records.filter(({ name }) => present.has(name)))
      return kept
    } finally {
      for (const { name } of records) if (name !== kept?.name) this.#inHand.delete(name)
    }
  }

  async #clarify(
    server: KmsServer,
    records: readonly KeyCreationRecord[],
    deadline: Deadline,
  ): Promise<Creation | undefined> {
    this.#looks += 1
    for (const { name } of records) this.#lastLooks.set(name, this.#looks)
    let adopted: Creation | undefined
    for (const [index, found] of (await this.#locateEach(server, records, deadline)).entries()) {
      const record = records[index]
      if (!record || !found) continue
      const [keyId] = found
      if (keyId !== undefined) {
        await this.#takeFirst(record.name, found, record.server)
        await this.#table.found(record.name, keyId)
        adopted ??= this.#adopted(record, keyId)
      } else if (this.#clock().getTime() - Date.parse(record.beganAt) > this.#lateCreateMs) {
        await this.#table.end(record.name)
        this.#lastLooks.delete(record.name)
      }
    }
    return adopted
  }

  /** The keys of each name, in one message; absent where the server does not say. */
  async #locateEach(
    server: KmsServer,
    records: readonly KeyCreationRecord[],
    deadline: Deadline,
  ): Promise<(readonly string[] | undefined)[]> {
    if (records.length === 0) return []
    const requests = records.map(({ name }) => ({
      operation: 'Locate' as const,
      request: { attributes: [{ name: 'Name', value: nameValue(name) }] },
    }))
    try {
      const answers = await server.use((client) => client.batch(requests), deadline, { repeatable: true })
      return answers.map((answer) => (answer.status === 'fulfilled' ? answer.value.ids : undefined))
    } catch (error) {
      if (error instanceof ServerFailure) return []
      throw error
    }
  }

  #adopted(record: KeyCreationRecord, keyId: string | null): Creation | undefined {
    const server = this.#serverOf(record)
    return keyId === null || !server ? undefined : { keyId, name: record.name, adopted: true, server }
  }

  /** A server that is not of the provider any more is stood in for by its first replica. */
  #serverOf(record: KeyCreationRecord): KmsServer | undefined {
    const { servers } = this.#replicas
    return servers.find((server) => server.name === record.server) ?? servers[0]
  }

  async #begin(name: string, server: KmsServer): Promise<void> {
    await this.#table.begin({
      providerId: this.#providerId,
      name,
      server: server.name,
      keyId: null,
      beganAt: this.#clock().toISOString(),
    })
  }
}
