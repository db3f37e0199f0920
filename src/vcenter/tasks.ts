/** All tasks of a vCenter: they start here, take turns by lane, and are on record. */
import { VmsealError } from '../errors.js'
import type { TaskRecord, TaskTable } from '../store/store.js'
import { admissionOfCall } from './authorization/access.js'
import { Task, type TaskContext } from './task.js'

export interface TaskRequest<Result> {
  readonly name: string
  readonly entity: string
  /** Tasks of one lane run one after the other. */
  readonly lane: string
  readonly signal?: AbortSignal | undefined
  readonly run: (context: TaskContext) => Promise<Result>
}

export class Tasks {
  readonly #table: TaskTable
  readonly #clock: () => Date
  readonly #announce: (task: Task) => void
  readonly #active = new Set<Task>()
  /** By lane: when its last task has left, and which one that is. */
  readonly #lanes = new Map<string, Promise<void>>()
  readonly #last = new Map<string, Task>()
  #stopped = false

  constructor(table: TaskTable, clock: () => Date, announce: (task: Task) => void) {
    this.#table = table
    this.#clock = clock
    this.#announce = announce
  }

  /** Newest first, those of earlier runs included. */
  list(options: { limit?: number } = {}): Promise<TaskRecord[]> {
    return this.#table.list(options.limit ?? 1000)
  }

  /** @internal Nothing is queued or running. */
  get isIdle(): boolean {
    return this.#active.size === 0
  }

  /** @internal */
  start<Result>(request: TaskRequest<Result>): Task<Result> {
    if (this.#stopped) throw new VmsealError('VMSEAL_INVALID_STATE', 'this vCenter is closed')
    const { lane, ...rest } = request
    const turn = this.#lanes.get(lane) ?? Promise.resolve()
    const task = new Task<Result>(
      {
        ...rest,
        admission: admissionOfCall(),
        clock: this.#clock,
        save: (record) => this.#table.save(record),
      },
      turn,
    )
    const listed: Task = task
    this.#active.add(listed)
    this.#last.set(lane, listed)
    this.#lanes.set(lane, this.#leave(listed, lane, turn))
    this.#announce(listed)
    return task
  }

  /** Ends with the task, and not before the tasks ahead of it: one that was cancelled while it queued is done early. */
  async #leave(task: Task, lane: string, turn: Promise<unknown>): Promise<void> {
    await Promise.allSettled([turn, task.done])
    this.#active.delete(task)
    if (this.#last.get(lane) === task) {
      this.#last.delete(lane)
      this.#lanes.delete(lane)
    }
  }

  /** @internal Cancels what runs and waits for its end. */
  async stop(): Promise<void> {
    this.#stopped = true
    const active = [...this.#active]
    for (const task of active) task.cancel()
    await Promise.allSettled(active.map((task) => task.done))
  }

  /** @internal Tasks that an earlier process left behind. */
  async failInterrupted(): Promise<number> {
    const now = this.#clock().toISOString()
    return this.#table.failUnfinished(
      now,
      'VMSEAL_TASK_INTERRUPTED',
      'interrupted: vCenter stopped while the task ran',
    )
  }
}
