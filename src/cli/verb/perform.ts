/** Does verbs in an open vCenter, for a caller in this process or on the control socket. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { VmsealError, isVmsealError } from '../../errors.js'
import type { Task } from '../../vcenter/task.js'
import type { VCenter } from '../../vcenter/vcenter.js'
import type { Caller } from '../control/socket.js'
import type { VerbCall } from './verb.js'
import { verbNamed } from '../verbs.js'

/** A verb with its values, as it travels. */
export interface VerbOrder {
  readonly verb: string
  /** Of the program that asks: values of another one may mean something else. */
  readonly version: string
  /** Absent: the administrator. */
  readonly user?: string
  /** Return when the task has begun, with what it is by then. */
  readonly detach?: boolean
  readonly values: object
}

/** What a detached task was when its caller left. */
export interface DetachedTask {
  readonly task: {
    readonly id: string
    readonly name: string
    readonly entity: string
    readonly state: string
  }
}

/** A task that fails at once is told of rather than left alone. */
const patienceMs = 250

export class VerbPerformer {
  readonly #vcenter: VCenter
  readonly #version: string
  /** The tasks that the present call begins. */
  readonly #calls = new AsyncLocalStorage<(task: Task) => void>()

  constructor(vcenter: VCenter, version: string) {
    this.#vcenter = vcenter
    this.#version = version
    vcenter.on('task', (task) => this.#calls.getStore()?.(task))
  }

  /** The result of the verb, as JSON carries it. */
  async perform(order: VerbOrder, caller: Caller): Promise<unknown> {
    this.#requireVersion(order.version)
    const verb = verbNamed(order.verb)
    if (!verb || typeof order.values !== 'object' || order.values === null)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `there is no verb ${order.verb} with such values`)
    const call: VerbCall = {
      vcenter: order.user === undefined ? this.#vcenter : this.#vcenter.as(order.user),
      user: order.user ?? 'administrator',
      ended: AbortSignal.any([caller.cancelled, caller.gone]),
      tell: (event) => caller.tell(asJson(event) as object),
    }
    let began: (task: Task) => void = () => {}
    const begun = new Promise<Task>((resolve) => (began = resolve))
    const follow = (task: Task): void => {
      followTask(task, caller)
      began(task)
    }
    const running = this.#calls.run(follow, async () => verb.run(call, order.values))
    return asJson(order.detach === true ? await detached(running, begun) : await running)
  }

  #requireVersion(version: unknown): void {
    if (version === this.#version) return
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `the vCenter that runs here is of version ${this.#version}, this command of another one. Start the vCenter anew`,
    )
  }
}

/** Whoever asked hears of the progress, and may cancel. When he is gone the task goes on, and the task list tells of it. */
function followTask(task: Task, caller: Caller): void {
  const cancel = (): void => task.cancel()
  caller.cancelled.addEventListener('abort', cancel, { once: true })
  if (caller.cancelled.aborted) cancel()
  const { id, name, entity } = task
  task.on('progress', (progress) => caller.mention({ progress: { task: id, name, entity, ...progress } }))
  task.on('step', (step) => caller.mention(asJson({ step: { task: id, name, entity, ...step } }) as object))
  const forget = (): void => caller.cancelled.removeEventListener('abort', cancel)
  void task.done.then(forget, forget)
}

async function detached(running: Promise<unknown>, begun: Promise<Task>): Promise<unknown> {
  const patience = begun.then(async (task) => {
    await new Promise((resolve) => setTimeout(resolve, patienceMs).unref())
    return task
  })
  const ended = Symbol('ended')
  const first = await Promise.race([patience, running.then(() => ended)])
  if (typeof first === 'symbol') return running
  running.catch(() => {})
  const { id, name, entity, state } = first
  return { task: { id, name, entity, state } } satisfies DetachedTask
}

/** What the other side would get: no instances, no undefined; errors with code, message and next step. */
function asJson(value: unknown): unknown {
  const text = JSON.stringify(value, (_, item: unknown) =>
    isVmsealError(item)
      ? { code: item.code, message: item.message, action: item.action, details: item.details }
      : item,
  ) as string | undefined
  return text === undefined ? null : (JSON.parse(text) as unknown)
}
