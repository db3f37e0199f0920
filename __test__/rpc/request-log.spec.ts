import test from 'ava'
import { RequestLog, type RequestSpec } from '../../src/rpc/request-log.js'
import { gate } from './network.js'

const id = (number: number): string => `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`

function spec(number: number, run: RequestSpec['run'], change: Partial<RequestSpec> = {}): RequestSpec {
  return { id: id(number), digest: 'same', method: 'powerOn', kind: 'change', run, ...change }
}

const never = (): Promise<never> => Promise.reject(new Error('it ran a second time'))

test('a change that comes again joins the first one, while it runs and after it has ended', async (t) => {
  const log = new RequestLog()
  const { opened, open } = gate()
  const first = log.begin(spec(1, async () => (await opened, 7)))
  t.is(log.begin(spec(1, never)), first)
  t.deepEqual(log.running(), [{ id: id(1), method: 'powerOn' }])
  open()
  t.is(await first.answer, '{"result":7}')
  t.is(await log.begin(spec(1, never)).answer, '{"result":7}')
  t.deepEqual(log.running(), [])
})

test('a failure is remembered like any answer', async (t) => {
  const log = new RequestLog()
  const failing = () => Promise.reject(new Error('no disk'))
  const answer = await log.begin(spec(1, failing)).answer
  t.like(JSON.parse(answer), { error: { code: 'VMSEAL_INTERNAL', message: 'no disk' } })
  t.is(await log.begin(spec(1, never)).answer, answer)
})

test('an id belongs to one request: another one under it is refused', async (t) => {
  const log = new RequestLog()
  await log.begin(spec(1, async () => 1)).answer
  t.throws(() => log.begin(spec(1, never, { digest: 'other' })), { code: 'VMSEAL_RPC_MALFORMED' })
})

test('a cancellation reaches what runs, and refuses what it has overtaken', async (t) => {
  const log = new RequestLog()
  const stopped = ({ signal }: { signal?: AbortSignal }) =>
    new Promise((resolve) => signal?.addEventListener('abort', () => resolve('stopped')))
  const running = log.begin(spec(1, stopped))
  log.cancel(id(1))
  t.is(await running.answer, '{"result":"stopped"}')
  log.cancel(id(1))
  log.cancel(id(2))
  t.like(JSON.parse(await log.begin(spec(2, never)).answer), { error: { code: 'VMSEAL_CANCELLED' } })
})

test('progress is shown to whoever watches, the latest at once', async (t) => {
  const log = new RequestLog()
  const { opened, open } = gate()
  const running = log.begin(
    spec(1, async ({ onProgress }) => {
      onProgress?.({ step: 'a', doneBytes: 1, totalBytes: 2 })
      await opened
      onProgress?.({ step: 'a', doneBytes: 2, totalBytes: 2 })
    }),
  )
  const seen: number[] = []
  const left: number[] = []
  running.watch(({ doneBytes }) => seen.push(doneBytes))
  running.watch(({ doneBytes }) => left.push(doneBytes))()
  open()
  await running.answer
  t.deepEqual([seen, left], [[1, 2], [1]])
})

test('answers are kept until they are collected or too old; while nothing can be forgotten, nothing more is taken', async (t) => {
  let now = 0
  const log = new RequestLog({ recorded: 3, lifetimeMs: 100 }, () => now)
  for (const number of [1, 2, 3]) await log.begin(spec(number, async () => number)).answer
  await Promise.resolve()
  t.throws(() => log.begin(spec(4, never)), { code: 'VMSEAL_HOST_BUSY' })
  t.throws(() => log.cancel(id(4)), { code: 'VMSEAL_HOST_BUSY' })
  t.is(await log.begin(spec(1, never)).answer, '{"result":1}', 'what is known is still answered')
  log.forget([id(2), id(77)])
  await log.begin(spec(4, async () => 4)).answer
  t.throws(() => log.begin(spec(5, never)), { code: 'VMSEAL_HOST_BUSY' })
  now = 100
  await log.begin(spec(5, async () => 5)).answer
  t.is(log.find(id(1)), undefined)
})

test('what runs is neither forgotten nor more than the limit', async (t) => {
  let now = 0
  const log = new RequestLog({ running: 1, recorded: 1, lifetimeMs: 1 }, () => now)
  const { opened, open } = gate()
  const running = log.begin(spec(1, () => opened))
  now = 1000
  log.forget([id(1)])
  t.throws(() => log.begin(spec(2, never)), { code: 'VMSEAL_HOST_BUSY' })
  t.is(log.begin(spec(1, never)), running)
  open()
  await running.answer
})

test('a read is not remembered: who asks again has a new answer', async (t) => {
  const log = new RequestLog({ recorded: 1 })
  for (const number of [1, 2, 3]) {
    const read = spec(1, async () => number, { kind: 'read' })
    t.is(await log.begin(read).answer, `{"result":${number}}`)
    await Promise.resolve()
  }
  t.deepEqual(log.running(), [])
})

test('a copy that comes after the answer was collected does not act', async (t) => {
  let now = 0
  const log = new RequestLog({ lifetimeMs: 100, acknowledged: 2 }, () => now)
  for (const number of [1, 2, 3]) {
    await log.begin(spec(number, async () => number)).answer
    await Promise.resolve()
    log.forget([id(number)])
  }
  for (const number of [2, 3])
    t.throws(() => log.begin(spec(number, never)), { code: 'VMSEAL_RPC_MALFORMED' })
  t.is(await log.begin(spec(1, async () => 'again')).answer, '{"result":"again"}', 'more than the limit')
  now = 100
  log.forget([])
  t.is(
    await log.begin(spec(3, async () => 'again')).answer,
    '{"result":"again"}',
    'older than anything on its way',
  )
})
