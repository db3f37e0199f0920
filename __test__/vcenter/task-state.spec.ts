import test from 'ava'
import { VmsealError } from '../../src/errors.js'
import type { TaskState } from '../../src/store/store.js'
import { nextTaskState, taskTransitions, type TaskSignal } from '../../src/vcenter/task-state.js'

const states: TaskState[] = ['queued', 'running', 'success', 'error', 'cancelled']
const signals: TaskSignal[] = ['start', 'succeed', 'fail', 'cancel']

/** Every pair; what is not listed here is refused. */
const allowed = new Map<string, TaskState>([
  ['queued start', 'running'],
  ['queued cancel', 'cancelled'],
  ['queued fail', 'error'],
  ['running succeed', 'success'],
  ['running fail', 'error'],
  ['running cancel', 'cancelled'],
])

for (const state of states)
  for (const signal of signals) {
    const expected = allowed.get(`${state} ${signal}`)
    test(`task ${state}: ${signal} ${expected ? `leads to ${expected}` : 'is refused'}`, (t) => {
      if (expected) t.is(nextTaskState(state, signal), expected)
      else
        t.throws(() => nextTaskState(state, signal), {
          instanceOf: VmsealError,
          code: 'VMSEAL_INVALID_STATE',
        })
    })
  }

test('every state is reached from queued, and the final ones have no way out', (t) => {
  const reached = new Set<TaskState>(['queued'])
  for (const state of reached) for (const next of Object.values(taskTransitions[state])) reached.add(next)
  t.deepEqual([...reached].toSorted(), states.toSorted())
  for (const state of ['success', 'error', 'cancelled'] as const) t.deepEqual(taskTransitions[state], {})
})
