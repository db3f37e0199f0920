/** Keys that exist, read from whichever replica has them: one, many in few messages, or only the state. */
import { isVmsealError, type VmsealError } from '../../errors.js'
import { attributeValue } from '../../kmip/attributes.js'
import type { KmipClient, ManagedKey } from '../../kmip/client.js'
import type { KeyHandle } from '../../native/load.js'
import type { Deadline } from './deadline.js'
import type { ProviderErrors } from './provider-errors.js'
import { NoAnswerError, type Replicas } from './replicas.js'

/** Keys in one message, and messages at once, of `fetchMany`. */
const fetchedTogether = 100
const pagesAtOnce = 4

export interface BulkUse {
  /** Gets each key as a handle that is wiped when it, and the rest of its page, is done. */
  readonly use: (keyId: string, key: KeyHandle) => Promise<void> | void
  /** After each page, when the handles of its keys are wiped. */
  readonly pageDone?: (keyIds: readonly string[]) => Promise<void>
}

export class KeyFetch {
  readonly #replicas: Replicas
  readonly #errors: ProviderErrors
  readonly #hedgeDelayMs: number

  constructor(replicas: Replicas, errors: ProviderErrors, hedgeDelayMs: number) {
    this.#replicas = replicas
    this.#errors = errors
    this.#hedgeDelayMs = hedgeDelayMs
  }

  /**
   * The key as a native handle, which the caller disposes of. VMSEAL_KEY_MISSING_IN_KMS when every server says so,
   * VMSEAL_KEY_NOT_ACTIVE, or VMSEAL_KEY_PROVIDER_UNREACHABLE.
   */
  async fetch(keyId: string, deadline: Deadline): Promise<KeyHandle> {
    try {
      const { key } = await this.#replicas.first((client) => client.get(keyId, { state: true }), deadline, {
        hedgeDelayMs: this.#hedgeDelayMs,
        reject: ({ state }: ManagedKey) =>
          state === 'Active' ? undefined : this.#errors.notActive(keyId, state),
        discard: (managed) => managed.key.dispose(),
      })
      return key
    } catch (error) {
      if (error instanceof NoAnswerError) throw await this.#explain(keyId, error, deadline)
      throw error
    }
  }

  /**
   * Many keys, a page of them in one message. Returns why for those that cannot be had: the codes of `fetch`, which is
   * asked for each of them again. Once no server answers, the rest is not asked for.
   */
  async fetchMany(
    keyIds: readonly string[],
    { use, pageDone = async () => {} }: BulkUse,
    begin: () => Deadline,
  ): Promise<Map<string, VmsealError>> {
    const failures = new Map<string, VmsealError>()
    const pages = Array.from({ length: Math.ceil(keyIds.length / fetchedTogether) }, (_, page) =>
      keyIds.slice(page * fetchedTogether, (page + 1) * fetchedTogether),
    )
    let lost: VmsealError | undefined
    const fetchOne = async (keyId: string): Promise<KeyHandle> => {
      if (lost) throw lost
      return this.fetch(keyId, begin())
    }
    const work = async (): Promise<void> => {
      for (let page = pages.shift(); page; page = pages.shift()) {
        const handles = lost ? [] : await this.#fetchPage(page, begin())
        try {
          for (const [index, keyId] of page.entries()) {
            try {
              const key = handles[index] ?? (await fetchOne(keyId))
              handles[index] = key
              await use(keyId, key)
            } catch (error) {
              if (!isVmsealError(error)) throw error
              failures.set(keyId, error)
              if (error.code === 'VMSEAL_KEY_PROVIDER_UNREACHABLE') lost ??= error
            }
          }
        } finally {
          disposeAll(handles)
        }
        await pageDone(page)
      }
    }
    const stopping = (): Promise<void> =>
      work().catch((error: unknown) => {
        pages.length = 0
        throw error
      })
    await allEnded(Array.from({ length: pagesAtOnce }, stopping))
    return failures
  }

  /** The KMIP state of a key, or why it is not known: the codes of `fetch`. Never fetches the key. */
  async state(keyId: string, deadline: Deadline): Promise<unknown> {
    try {
      return await this.askState(keyId, deadline)
    } catch (error) {
      if (error instanceof NoAnswerError) throw await this.#explain(keyId, error, deadline)
      throw error
    }
  }

  /** Rejects with NoAnswerError. */
  async askState(keyId: string, deadline: Deadline): Promise<unknown> {
    const attributes = await this.#replicas.first(
      (client) => client.getAttributes(keyId, ['State']),
      deadline,
      { hedgeDelayMs: this.#hedgeDelayMs },
    )
    return attributeValue(attributes, 'State')
  }

  /** The keys of one page; absent: not to be had so. */
  async #fetchPage(keyIds: readonly string[], deadline: Deadline): Promise<(KeyHandle | undefined)[]> {
    const ask = async (client: KmipClient): Promise<(KeyHandle | undefined)[]> => {
      const active = await activeOnes(client, keyIds)
      const keys = await client.getMany(active, fetchedTogether)
      const byId = new Map(
        keys.map((answer, index) => [
          active[index],
          answer.status === 'fulfilled' ? answer.value.key : undefined,
        ]),
      )
      return keyIds.map((keyId) => byId.get(keyId))
    }
    try {
      return await this.#replicas.first(ask, deadline, {
        hedgeDelayMs: this.#hedgeDelayMs,
        discard: disposeAll,
      })
    } catch (error) {
      if (error instanceof NoAnswerError) return []
      throw error
    }
  }

  /** Why no server gave the key: servers differ in the reason they give for one that is destroyed or not active. */
  async #explain(keyId: string, none: NoAnswerError, deadline: Deadline): Promise<VmsealError> {
    const inactive = none.failures.find(({ cause }) => cause.code === 'VMSEAL_KEY_NOT_ACTIVE')
    if (inactive) return inactive.cause
    const refusal = none.failures.find(
      (failure) => failure.refused && failure.resultReason !== 'ItemNotFound',
    )
    if (refusal) {
      const state = await this.askState(keyId, deadline).catch(() => undefined)
      if (state === 'Destroyed' || state === 'DestroyedCompromised')
        return this.#errors.missing(keyId, refusal)
      return state === undefined || state === 'Active' ? refusal.cause : this.#errors.notActive(keyId, state)
    }
    // One that does not answer may have it.
    const [first] = none.failures
    return first && none.failures.every((failure) => failure.refused)
      ? this.#errors.missing(keyId, first)
      : this.#errors.unreachable(none)
  }
}

/** A key that is not active is not even fetched. */
async function activeOnes(client: KmipClient, keyIds: readonly string[]): Promise<string[]> {
  const distinct = [...new Set(keyIds)]
  const answers = await client.batch(
    distinct.map((id) => ({ operation: 'GetAttributes' as const, request: { id, names: ['State'] } })),
  )
  return distinct.filter((_, index) => {
    const answer = answers[index]
    return answer?.status === 'fulfilled' && attributeValue(answer.value.attributes, 'State') === 'Active'
  })
}

function disposeAll(keys: readonly (KeyHandle | undefined)[]): void {
  for (const key of keys) key?.dispose()
}

/** Rejects as the first one does, but not before all have ended: nobody holds a key any more then. */
async function allEnded(work: readonly Promise<void>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(work))
    if (outcome.status === 'rejected') throw outcome.reason
}
