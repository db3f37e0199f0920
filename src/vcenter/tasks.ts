/** All tasks of a vCenter: they start here, take turns by lane, and are on record. */
import { VmsealError } from '../errors.js'
import type { TaskRecord, TaskTable } from '../store/store.js'
import { actingUser, admissionOfCall } from './authorization/access.js'
import { notFound } from './names.js'
import { Task, type TaskContext } from './task.js'
import { TaskUpdates, type TaskUpdate } from './task-updates.js'

export interface TaskRequest<Result> {
  readonly name: string
  readonly entity: string
  /** Tasks of one lane run one after the other. */
  readonly lane: string
  readonly signal?: AbortSignal | undefined
  readonly run: (context: TaskContext) => Promise<Result>
}

/** An old task is looked for among so many. */
const mostRecords = 100_000

export class Tasks {
  readonly #table: TaskTable
  readonly #clock: () => Date
  readonly #announce: (task: Task) => void
  readonly #requireCancelOthers: () => Promise<void>
  /** With the user who started each. */
  readonly #active = new Map<Task, string>()
  /** By lane: when its last task has left, and which one that is. */
  readonly #lanes = new Map<string, Promise<void>>()
  readonly #last = new Map<string, Task>()
  readonly #watchers = new Set<(task: Task) => void>()
  readonly #closing = new AbortController()
  #stopped = false

  /** `requireCancelOthers` refuses unless the acting user may cancel tasks of others. */
  constructor(
    table: TaskTable,
    clock: () => Date,
    announce: (task: Task) => void,
    requireCancelOthers: () => Promise<void>,
  ) {
    this.#table = table
    this.#clock = clock
    this.#announce = announce
    this.#requireCancelOthers = requireCancelOthers
  }

  /** Newest first, those of earlier runs included. */
  list(options: { limit?: number } = {}): Promise<TaskRecord[]> {
    return this.#table.list(options.limit ?? 1000)
  }

  /**
   * What becomes of one task until it ends, or of all tasks until `signal` or the end of vCenter. A slow reader gets the
   * newest state of each, and never misses the last one. VMSEAL_NOT_FOUND if there never was one of this id.
   */
  async *subscribe(
    options: { readonly id?: string; readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<TaskUpdate, void, undefined> {
    const { id, signal } = options
    const active = [...this.#active.keys()]
    const wanted = id === undefined ? undefined : active.find((task) => task.id === id)
    if (id !== undefined && !wanted) {
      const task = (await this.list({ limit: mostRecords })).find((record) => record.id === id)
      if (!task) throw notFound('task', id)
      yield { task }
      return
    }
    const updates = new TaskUpdates()
    for (const task of wanted ? [wanted] : active) updates.watch(task)
    const watch = (task: Task): void => updates.watch(task)
    if (!wanted) this.#watchers.add(watch)
    const ends = signal ? [signal, this.#closing.signal] : [this.#closing.signal]
    try {
      yield* updates.read(AbortSignal.any(ends), wanted)
    } finally {
      this.#watchers.delete(watch)
    }
  }

  /**
   * Asks a task to stop and undo; it may still succeed, the list tells. VMSEAL_NOT_FOUND if none of this id is queued or
   * running. The task of somebody else needs the privilege Global.CancelTask.
   */
  async cancel(id: string): Promise<void> {
    const [task, user] = [...this.#active].find(([{ id: other }]) => other === id) ?? []
    // One that has ended leaves the set a moment later.
    if (!task || (task.state !== 'queued' && task.state !== 'running')) throw notFound('task under way', id)
    if (user !== actingUser()) await this.#requireCancelOthers()
    task.cancel()
  }

  /** @internal Nothing is queued or running. */
  get isIdle(): boolean {
    return this.#active.size === 0
  }

  /** @internal A task of this lane is queued or running. */
  isWorkingOn(lane: string): boolean {
    return this.#last.has(lane)
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
    this.#active.set(listed, actingUser())
    this.#last.set(lane, listed)
    this.#lanes.set(lane, this.#leave(listed, lane, turn))
    for (const watch of this.#watchers) watch(listed)
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
    const active = [...this.#active.keys()]
    for (const task of active) task.cancel()
    await Promise.allSettled(active.map((task) => task.done))
    this.#closing.abort()
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
