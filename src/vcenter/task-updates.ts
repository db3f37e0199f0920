/** Tasks as they go, for somebody who watches. */
import type { TaskRecord } from '../store/store.js'
import type { Task, TaskProgress } from './task.js'

/** A task as it is now; `progress` once it tells any. */
export interface TaskUpdate {
  readonly task: TaskRecord
  readonly progress?: TaskProgress
}

/**
 * The newest state of each watched task, for one reader. A slow reader misses states in between and never the last one, and
 * costs one entry a task.
 */
export class TaskUpdates {
  readonly #pending = new Map<string, TaskUpdate>()
  readonly #unwatch = new Map<Task, () => void>()
  #wake: () => void = () => {}

  watch(task: Task): void {
    const note = (progress?: TaskProgress): void => {
      if (!this.#unwatch.has(task)) return
      this.#pending.set(task.id, { task: task.record(), ...(progress ? { progress } : {}) })
      if (isEnded(task.state)) this.#forget(task)
      this.#wake()
    }
    const onState = (): void => note()
    const onProgress = (progress: TaskProgress): void => note(progress)
    task.on('state', onState)
    task.on('progress', onProgress)
    this.#unwatch.set(task, () => {
      task.removeListener('state', onState)
      task.removeListener('progress', onProgress)
    })
    // Its end is told also when it could not be written down.
    task.done.then(onState, onState)
    note()
  }

  /** Ends with `signal`, or after `last` has ended. */
  async *read(signal: AbortSignal, last?: Task): AsyncGenerator<TaskUpdate, void, undefined> {
    try {
      while (!signal.aborted) {
        const updates = [...this.#pending.values()]
        this.#pending.clear()
        for (const update of updates) {
          yield update
          if (update.task.id === last?.id && isEnded(update.task.state)) return
        }
        if (this.#pending.size === 0) await this.#next(signal)
      }
    } finally {
      for (const task of this.#unwatch.keys()) this.#forget(task)
    }
  }

  #forget(task: Task): void {
    this.#unwatch.get(task)?.()
    this.#unwatch.delete(task)
  }

  async #next(signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve
      signal.addEventListener('abort', () => resolve(), { once: true })
      if (signal.aborted || this.#pending.size > 0) resolve()
    })
    this.#wake = () => {}
  }
}

function isEnded(state: TaskRecord['state']): boolean {
  return state === 'success' || state === 'error' || state === 'cancelled'
}
