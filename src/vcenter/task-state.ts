/** The life of a task, as a table. */
import { VmsealError } from '../errors.js'
import type { TaskState } from '../store/store.js'

export type TaskSignal = 'start' | 'succeed' | 'fail' | 'cancel'

/** What is not in the table is refused. The last three states are final. */
export const taskTransitions: Readonly<Record<TaskState, Partial<Readonly<Record<TaskSignal, TaskState>>>>> =
  {
    queued: { start: 'running', cancel: 'cancelled', fail: 'error' },
    running: { succeed: 'success', fail: 'error', cancel: 'cancelled' },
    success: {},
    error: {},
    cancelled: {},
  }

/** The state after `signal`. VMSEAL_INVALID_STATE if the table has no such transition. */
export function nextTaskState(state: TaskState, signal: TaskSignal): TaskState {
  const next = taskTransitions[state][signal]
  if (next === undefined)
    throw new VmsealError('VMSEAL_INVALID_STATE', `a task in state ${state} cannot ${signal}`)
  return next
}
