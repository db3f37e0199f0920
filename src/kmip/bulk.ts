/** Many keys in few messages, whatever size of message the server takes. */
import { isVmsealError } from '../errors.js'
import { refusesWhole } from './batch.js'

/** What became of one of many. */
export type Settled<T> = PromiseSettledResult<T>

/**
 * Asks for `ids` in messages of at most `limit`. What a server leaves out because its answer grows too large, or
 * because it refuses the message as a whole, is asked again in messages of half the size; a refusal of one id alone is
 * its result. A failure of the connection rejects, after `release` has had what was got so far.
 */
export async function askInBulk<T>(
  ids: readonly string[],
  limit: number,
  ask: (ids: readonly string[]) => Promise<readonly Settled<T>[]>,
  release: (got: T) => void,
): Promise<Settled<T>[]> {
  const results = Array.from({ length: ids.length }, (): Settled<T> | undefined => undefined)
  const open = ids.map((_, index) => index)
  let size = limit
  try {
    while (open.length > 0) {
      const asked = open.splice(0, size)
      const answers = await ask(asked.map((index) => ids[index] as string))
      const again = asked.filter((index, position) => {
        const answer = answers[position] as Settled<T>
        if (asked.length > 1 && answer.status === 'rejected' && isForSize(answer.reason)) return true
        results[index] = answer
        return false
      })
      if (again.length > 0) size = Math.max(1, Math.floor(asked.length / 2))
      open.unshift(...again)
    }
    return results as Settled<T>[]
  } catch (error) {
    for (const result of results) if (result?.status === 'fulfilled') release(result.value)
    throw error
  }
}

/** Refused for the company it was in: too large an answer, an item that was not reached, or the message as a whole. */
function isForSize(reason: unknown): boolean {
  if (refusesWhole(reason)) return true
  if (!isVmsealError(reason, 'VMSEAL_KMIP_OPERATION_FAILED')) return false
  const { resultReason } = reason.details
  return resultReason === undefined || resultReason === 'ResponseTooLarge'
}
