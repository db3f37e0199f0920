import test from 'ava'
import { setTimeout as sleep } from 'node:timers/promises'
import { VmsealError } from '../../src/errors.js'
import type { TaskRecord } from '../../src/store/store.js'
import { ProgressRate } from '../../src/vcenter/progress-rate.js'
import { refuseCancelled, type TaskContext, type TaskProgress } from '../../src/vcenter/task.js'
import { Tasks } from '../../src/vcenter/tasks.js'

/** The task table in memory: what it is told, in order. */
function record(): { tasks: Tasks; saved: TaskRecord[] } {
  const saved: TaskRecord[] = []
  const table = {
    list: async () => saved,
    save: async (entry: TaskRecord) => void saved.push(entry),
    failUnfinished: async () => 0,
  }
  return { tasks: new Tasks(table, () => new Date(), () => {}, async () => {}), saved } // prettier-ignore
}

const untilCancelled = ({ signal }: TaskContext): Promise<never> =>
  new Promise((_, reject) =>
    signal.addEventListener('abort', () => reject(new VmsealError('VMSEAL_CANCELLED')), { once: true }),
  )

const fails = (error: Error) => async (): Promise<never> => {
  throw error
}

test('a task ends with its result, and its states are saved before they are told', async (t) => {
  const { tasks, saved } = record()
  const task = tasks.start({ name: 'n', entity: 'e', lane: 'l', run: async () => 42 })
  const told: string[] = []
  task.on('state', (state) => told.push(`${state} ${saved.at(-1)?.state}`))
  t.is(task.state, 'queued')
  t.is(await task.done, 42)
  t.deepEqual(told, ['running running', 'success success'])
  t.deepEqual(saved.map(({ state }) => state), ['queued', 'running', 'success']) // prettier-ignore
})

test('a failure that nobody awaits is on record and no unhandled rejection', async (t) => {
  const { tasks, saved } = record()
  const unhandled: unknown[] = []
  const listen = (reason: unknown): void => void unhandled.push(reason)
  process.on('unhandledRejection', listen)
  const task = tasks.start({
    name: 'n',
    entity: 'e',
    lane: 'l',
    run: fails(new VmsealError('VMSEAL_NO_SPACE', 'full')),
  })
  await sleep(20)
  process.off('unhandledRejection', listen)
  t.deepEqual(unhandled, [])
  t.is(task.state, 'error')
  t.is(task.error?.code, 'VMSEAL_NO_SPACE')
  t.like(saved.at(-1), { state: 'error', errorCode: 'VMSEAL_NO_SPACE', errorMessage: 'full' })
})

test('what is thrown that is no VmsealError becomes one', async (t) => {
  const { tasks } = record()
  const run = fails(new TypeError('broken'))
  await t.throwsAsync(tasks.start({ name: 'n', entity: 'e', lane: 'l', run }).done, {
    instanceOf: VmsealError,
    code: 'VMSEAL_INTERNAL',
    message: 'broken',
  })
})

test('cancel of a running task, by its method and by a signal', async (t) => {
  for (const way of ['method', 'signal'] as const) {
    const { tasks, saved } = record()
    const controller = new AbortController()
    const task = tasks.start({
      name: 'n',
      entity: 'e',
      lane: 'l',
      signal: controller.signal,
      run: untilCancelled,
    })
    await sleep(5)
    t.is(task.state, 'running')
    if (way === 'method') task.cancel()
    else controller.abort()
    await t.throwsAsync(task.done, { code: 'VMSEAL_CANCELLED' })
    t.is(task.state, 'cancelled')
    t.is(saved.at(-1)?.state, 'cancelled')
  }
})

test('a queued task that is cancelled never runs, and does not let the next one overtake', async (t) => {
  const { tasks } = record()
  const first = tasks.start({ name: '1', entity: 'e', lane: 'l', run: untilCancelled })
  let ran = false
  const second = tasks.start({ name: '2', entity: 'e', lane: 'l', run: async () => void (ran = true) })
  const third = tasks.start({ name: '3', entity: 'e', lane: 'l', run: async () => first.state })
  second.cancel()
  await t.throwsAsync(second.done, { code: 'VMSEAL_CANCELLED' })
  t.false(ran)
  t.is(first.state, 'running')
  t.is(third.state, 'queued')
  first.cancel()
  t.is(await third.done, 'cancelled')
})

test('tasks of one lane take turns, those of others do not wait', async (t) => {
  const { tasks } = record()
  const order: string[] = []
  const run = (name: string) => async (): Promise<void> => {
    order.push(`${name} begins`)
    await sleep(10)
    order.push(`${name} ends`)
  }
  const all = ['a', 'b'].map((name) => tasks.start({ name, entity: 'e', lane: 'one', run: run(name) }))
  const other = tasks.start({ name: 'c', entity: 'e', lane: 'two', run: run('c') })
  await Promise.all([...all, other].map((task) => task.done))
  t.true(order.indexOf('b begins') > order.indexOf('a ends'))
  t.true(order.indexOf('c begins') < order.indexOf('a ends'))
})

test('work that ends well although it was cancelled is a success', async (t) => {
  const { tasks } = record()
  const task = tasks.start({
    name: 'n',
    entity: 'e',
    lane: 'l',
    run: async ({ signal }) => {
      await sleep(10)
      t.throws(() => refuseCancelled(signal), { code: 'VMSEAL_CANCELLED' })
      return 'committed'
    },
  })
  await sleep(2)
  task.cancel()
  t.is(await task.done, 'committed')
  t.is(task.state, 'success')
})

test('a task whose end cannot be written down rejects with why, and is no success', async (t) => {
  const table = {
    list: async () => [],
    save: async ({ state }: TaskRecord) => {
      if (state === 'success' || state === 'error') throw new VmsealError('VMSEAL_NO_SPACE')
    },
    failUnfinished: async () => 0,
  }
  const tasks = new Tasks(
    table,
    () => new Date(),
    () => {},
    async () => {},
  )
  const task = tasks.start({ name: 'n', entity: 'e', lane: 'l', run: async () => 1 })
  await t.throwsAsync(task.done, { code: 'VMSEAL_NO_SPACE' })
  t.is(task.state, 'error')
})

test('stop cancels everything and waits', async (t) => {
  const { tasks } = record()
  const running = [1, 2, 3].map((n) =>
    tasks.start({ name: `${n}`, entity: 'e', lane: `${n % 2}`, run: untilCancelled }),
  )
  await sleep(5)
  await tasks.stop()
  t.deepEqual(running.map(({ state }) => state), ['cancelled', 'cancelled', 'cancelled']) // prettier-ignore
})

test('progress carries step, bytes, a rate and a time left', async (t) => {
  const { tasks } = record()
  const seen: TaskProgress[] = []
  const task = tasks.start({
    name: 'n',
    entity: 'e',
    lane: 'l',
    run: async ({ onProgress }) => {
      for (const doneBytes of [25, 50, 100]) {
        await sleep(60)
        onProgress({ step: 'encrypt scsi0:0', doneBytes, totalBytes: 100 })
      }
    },
  })
  task.on('progress', (progress) => seen.push(progress))
  await task.done
  t.deepEqual(seen.map(({ doneBytes }) => doneBytes), [25, 50, 100]) // prettier-ignore
  t.true(seen.every(({ bytesPerSecond, totalBytes, step }) => bytesPerSecond > 0 && totalBytes === 100 && step === 'encrypt scsi0:0')) // prettier-ignore
  t.is(seen.at(-1)?.secondsLeft, 0)
  t.like(task.record(), { doneBytes: 100, totalBytes: 100 })
})

test('the rate comes close to a steady speed, follows a change and survives going backwards', (t) => {
  const rate = new ProgressRate(0)
  let seen = 0
  for (let second = 1; second <= 20; second += 1) seen = rate.update(second * 1000, second * 1000)
  t.true(Math.abs(seen - 1000) < 1)
  const after = rate.update(20_000 + 5000, 21_000)
  t.true(after > 1000 && after < 5000)
  t.true(rate.update(0, 22_000) >= 0)
  t.is(new ProgressRate(5).update(0, 5), 0)
})
