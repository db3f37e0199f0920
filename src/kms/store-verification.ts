/** Opens every record of the store, to know before it is needed. */
import { isVmsealError } from '../errors.js'
import type { Keys } from './keys.js'
import type { SealedRecords } from './sealed-records.js'

export interface StoreVerification {
  /** Keys that are not destroyed. */
  readonly keys: number
  readonly ok: boolean
  /** Ids of those whose record is missing, was altered or moved. */
  readonly broken: readonly string[]
}

const batchSize = 200

export async function verifyStore(keys: Keys, records: SealedRecords): Promise<StoreVerification> {
  const broken: string[] = []
  let count = 0
  for (let last = 0; ;) {
    const batch = keys.sealed(last, batchSize)
    for (const { identity, record } of batch) {
      count++
      try {
        records.open(identity, record).dispose()
      } catch (error) {
        if (!isVmsealError(error, 'VMSEAL_SEALED_RECORD_INVALID')) throw error
        broken.push(identity.id)
      }
    }
    const end = batch.at(-1)
    if (!end) return { keys: count, ok: broken.length === 0, broken }
    last = end.sequence
    // Others are served in between.
    await new Promise((resolve) => {
      setImmediate(resolve)
    })
  }
}
