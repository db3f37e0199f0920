/** Bulk fetches: what is asked in which sizes when servers refuse. */
import test from 'ava'
import { VmsealError } from '../../src/errors.js'
import { askInBulk } from '../../src/kmip/bulk.js'
import type { Settled } from '../../src/kmip/bulk.js'
import { settleBatch } from '../../src/kmip/batch.js'
import { kmipFailure } from '../../src/kmip/failure.js'
import { startWithClient } from '../kms/running-kms.js'

const ids = Array.from({ length: 20 }, (_, index) => `${index}`)

function got(id: string): Settled<string> {
  return { status: 'fulfilled', value: id }
}
function refused(reason: unknown): Settled<string> {
  return { status: 'rejected', reason }
}
function unused(): void {
  throw new Error('nothing was to be released')
}

/** Asks with `answer`; the sizes that were asked and the values in order. */
async function ask(limit: number, answer: (some: readonly string[]) => Settled<string>[]) {
  const sizes: number[] = []
  const results = await askInBulk(
    ids,
    limit,
    async (some) => {
      sizes.push(some.length)
      return answer(some)
    },
    unused,
  )
  return {
    sizes,
    results,
    values: results.map((one) => (one.status === 'fulfilled' ? one.value : undefined)),
  }
}

test('a server that takes it all is asked once for each full message', async (t) => {
  const { sizes, values } = await ask(8, (some) => some.map(got))
  t.deepEqual(sizes, [8, 8, 4])
  t.deepEqual(values, ids)
})

test('what does not fit is asked again in halves, and the size is kept', async (t) => {
  const tooLarge = kmipFailure('ResponseTooLarge', 'too large')
  const { sizes, values } = await ask(20, (some) =>
    some.map((id, place) => (place < 3 ? got(id) : refused(tooLarge))),
  )
  t.deepEqual(values, ids)
  t.deepEqual(sizes.slice(0, 3), [20, 10, 5])
  t.true(sizes.every((size, place) => size <= (sizes[place - 1] ?? 20)))
})

test('items that a server did not reach are asked again', async (t) => {
  const unreached = new VmsealError('VMSEAL_KMIP_OPERATION_FAILED', 'not reached')
  const { values } = await ask(20, (some) =>
    some.map((id, place) => (place < 1 ? got(id) : refused(unreached))),
  )
  t.deepEqual(values, ids)
})

/** The refusal of a whole message, made the way a client makes it. */
async function whole(count: number): Promise<Settled<string>[]> {
  const requests = Array.from({ length: count }, () => ({ operation: 'Get', request: { id: '1' } }) as const)
  return (await settleBatch(requests, { version: '1.2' }, async () => ({
    version: { major: 1, minor: 0 },
    items: [{ status: 'OperationFailed', reason: 'InvalidMessage' }],
  }))) as Settled<string>[]
}

test('a server that knows no batches is asked one by one in the end', async (t) => {
  const sizes: number[] = []
  const results = await askInBulk(
    ids,
    100,
    async (some) => {
      sizes.push(some.length)
      return some.length > 1 ? whole(some.length) : some.map(got)
    },
    unused,
  )
  t.deepEqual(sizes.slice(0, 6), [20, 10, 5, 2, 1, 1])
  t.is(sizes.length, 4 + 20)
  t.true(results.every(({ status }) => status === 'fulfilled'))
})

test('a refusal of one alone is its result, and is not asked twice', async (t) => {
  const missing = kmipFailure('ItemNotFound', 'no such key')
  const { sizes, results } = await ask(20, (some) =>
    some.map((id) => (id === '7' ? refused(missing) : got(id))),
  )
  t.deepEqual(sizes, [20])
  t.is(results.filter(({ status }) => status === 'rejected').length, 1)
  const tooLarge = kmipFailure('ResponseTooLarge', 'never fits')
  const hopeless = await ask(4, (some) => some.map(() => refused(tooLarge)))
  t.true(hopeless.results.every(({ status }) => status === 'rejected'))
  t.true(hopeless.sizes.length <= 2 * ids.length)
})

test('when the connection breaks, what was got is released', async (t) => {
  const released: string[] = []
  const broken = new VmsealError('VMSEAL_KMIP_CONNECTION', 'gone')
  let messages = 0
  const all = askInBulk(
    ids,
    5,
    async (some) => {
      if (++messages === 3) throw broken
      return some.map(got)
    },
    (id) => released.push(id),
  )
  t.is(await t.throwsAsync(all), broken)
  t.deepEqual(released, ids.slice(0, 10))
})

test('nothing is asked for nothing', async (t) => {
  t.deepEqual(await askInBulk([], 5, () => Promise.reject(new Error('asked')), unused), [])
})

test('many keys from the KMS, one of them missing', async (t) => {
  const { client } = await startWithClient(t)
  const made: string[] = []
  for (let n = 0; n < 12; n++) made.push((await client.create()).id)
  const wanted = [...made.slice(0, 6), 'nobody', ...made.slice(6)]
  const results = await client.getMany(wanted, 5)
  t.deepEqual(
    results.map((result) => (result.status === 'fulfilled' ? result.value.id : 'nobody')),
    wanted,
  )
  for (const result of results) if (result.status === 'fulfilled') result.value.key.dispose()
})
