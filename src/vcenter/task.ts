/** A long piece of work: what a caller sees of it. */
import { EventEmitter } from 'node:events'
import { randomUUID } from 'node:crypto'
import { VmsealError } from '../errors.js'
import type { TaskRecord, TaskState } from '../store/store.js'
import type { WorkProgress } from '../rpc/host-api.js'
import { tellListeners } from './listeners.js'
import { ProgressRate } from './progress-rate.js'
import { nextTaskState, type TaskSignal } from './task-state.js'

export interface TaskProgress {
  /** What is worked on, for instance `encrypt scsi0:0`. */
  readonly step: string
  readonly doneBytes: number
  readonly totalBytes: number
  /** What they count where no data moves; default: bytes. */
  readonly unit?: 'virtualMachines'
  /** Smoothed. */
  readonly bytesPerSecond: number
  /** Undefined until a rate is known. */
  readonly secondsLeft?: number
}

/** Who did what, and which key id moved where. Safe to log: there are only ids. */
export interface TaskStep {
  readonly actor: 'vcenter' | 'kms' | 'host'
  readonly action:
    | 'key created'
    | 'key fetched'
    | 'key pushed'
    | 'key push failed'
    | 'work started'
    | 'work committed'
    | 'nothing to change'
  readonly keyId?: string
  readonly providerId?: string
  /** Name of the host. */
  readonly host?: string
  /** What the host works on, for instance `encrypt home, encrypt scsi0:0`. */
  readonly work?: string
  readonly error?: VmsealError
}

export interface TaskEvents {
  progress: [progress: TaskProgress]
  step: [step: TaskStep]
  state: [state: TaskState]
}

/** The side of a task that the work itself sees. */
export interface TaskContext {
  readonly signal: AbortSignal
  readonly step: (step: TaskStep) => void
  readonly onProgress: (progress: WorkProgress) => void
}

export interface TaskSpec<Result> {
  readonly name: string
  readonly entity: string
  readonly run: (context: TaskContext) => Promise<Result>
  readonly signal?: AbortSignal | undefined
  /** What has to hold before it begins. */
  readonly admission?: (() => Promise<void>) | undefined
  readonly clock: () => Date
  readonly save: (record: TaskRecord) => Promise<void>
}

export class Task<Result = unknown> extends EventEmitter<TaskEvents> {
  readonly id = randomUUID()
  readonly name: string
  /** Name of the object it works on. */
  readonly entity: string
  /** The result, or the `VmsealError` it failed with. Need not be awaited. */
  readonly done: Promise<Result>

  readonly #spec: TaskSpec<Result>
  readonly #abort = new AbortController()
  readonly #createdAt: string
  #state: TaskState = 'queued'
  #startedAt: string | null = null
  #endedAt: string | null = null
  #error: VmsealError | undefined
  #doneBytes = 0
  #totalBytes = 0

  /** Runs as soon as `turn` resolves. */
  constructor(spec: TaskSpec<Result>, turn: Promise<unknown>) {
    super()
    // Any number of people may watch.
    this.setMaxListeners(0)
    this.#spec = spec
    this.name = spec.name
    this.entity = spec.entity
    this.#createdAt = spec.clock().toISOString()
    this.done = this.#run(turn)
    // A failure that nobody awaits is still in `state` and in the task list.
    this.done.catch(() => {})
  }

  get state(): TaskState {
    return this.#state
  }

  /** What a failed or cancelled task failed with. */
  get error(): VmsealError | undefined {
    return this.#error
  }

  /** Asks the work to stop and undo. It may still succeed; `done` tells. */
  cancel(): void {
    this.#abort.abort()
  }

  record(): TaskRecord {
    return {
      id: this.id,
      name: this.name,
      entity: this.entity,
      state: this.#state,
      createdAt: this.#createdAt,
      startedAt: this.#startedAt,
      endedAt: this.#endedAt,
      errorCode: this.#error?.code ?? null,
      errorMessage: this.#error?.message ?? null,
      doneBytes: this.#doneBytes,
      totalBytes: this.#totalBytes,
    }
  }

  async #run(turn: Promise<unknown>): Promise<Result> {
    const { signal } = this.#abort
    const outer = this.#spec.signal
    const forward = (): void => this.#abort.abort()
    outer?.addEventListener('abort', forward, { once: true })
    if (outer?.aborted) forward()
    try {
      await this.#spec.admission?.()
      await this.#spec.save(this.record())
      await Promise.race([turn, aborted(signal)])
      refuseCancelled(signal)
      this.#startedAt = this.#spec.clock().toISOString()
      await this.#move('start')
      const result = await this.#spec.run({
        signal,
        step: (step) => tellListeners(() => this.emit('step', step)),
        onProgress: this.#progressReporter(),
      })
      await this.#end('succeed')
      return result
    } catch (error) {
      this.#error = asVmsealError(error)
      // A host that stops in the middle cancels too, but that is a failure of the task.
      const cancelled = signal.aborted && this.#error.code === 'VMSEAL_CANCELLED'
      await this.#end(cancelled ? 'cancel' : 'fail').catch(() => {
        // It cannot be written down: the record stays running, and the next start of vCenter ends it.
        this.#state = 'error'
      })
      throw this.#error
    } finally {
      outer?.removeEventListener('abort', forward)
    }
  }

  async #end(signal: TaskSignal): Promise<void> {
    this.#endedAt = this.#spec.clock().toISOString()
    await this.#move(signal)
  }

  async #move(signal: TaskSignal): Promise<void> {
    const state = nextTaskState(this.#state, signal)
    await this.#spec.save({ ...this.record(), state })
    this.#state = state
    tellListeners(() => this.emit('state', this.#state))
  }

  #progressReporter(): (progress: WorkProgress) => void {
    const rate = new ProgressRate(performance.now())
    return ({ step, doneBytes, totalBytes, unit }) => {
      this.#doneBytes = doneBytes
      this.#totalBytes = totalBytes
      const bytesPerSecond = rate.update(doneBytes, performance.now())
      const secondsLeft = bytesPerSecond > 0 ? { secondsLeft: (totalBytes - doneBytes) / bytesPerSecond } : {}
      tellListeners(() =>
        this.emit('progress', {
          step,
          doneBytes,
          totalBytes,
          ...(unit && { unit }),
          bytesPerSecond,
          ...secondsLeft,
        }),
      )
    }
  }
}

/** VMSEAL_CANCELLED once `signal` is aborted. */
export function refuseCancelled(signal: AbortSignal): void {
  if (signal.aborted) throw new VmsealError('VMSEAL_CANCELLED')
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
}

function asVmsealError(error: unknown): VmsealError {
  if (error instanceof VmsealError) return error
  return new VmsealError('VMSEAL_INTERNAL', error instanceof Error ? error.message : String(error), {
    cause: error,
  })
}
