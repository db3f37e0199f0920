/**
 * A user's view of objects: the same methods, each behind its row of the table of operations. What has no row is refused,
 * so forgetting one shuts a door and opens none. What a method returns is guarded in its turn.
 */
import { VmsealError, isVmsealError } from '../../errors.js'
import type { InventoryEntity, Store } from '../../store/store.js'
import { Task } from '../task.js'
import { runAs, type Access } from './access.js'
import { ruleOf, rulesOf } from './operation-table.js'
import type { Need, Rule } from './rules.js'

export class Guard {
  readonly #store: Store
  readonly #access: Access
  readonly #user: string
  readonly #guarded = new WeakMap<object, object>()

  constructor(store: Store, access: Access, user: string) {
    this.#store = store
    this.#access = access
    this.#user = user
  }

  /** The view of an instance of a class of the table; lists and plain objects are looked through; values stay. */
  guard<Value>(value: Value): Value {
    if (typeof value !== 'object' || value === null) return value
    if (Array.isArray(value)) return value.map((item: unknown) => this.guard(item)) as Value
    if (isPlain(value))
      return Object.fromEntries(
        Object.entries(value).map(([name, item]) => [name, this.guard(item)]),
      ) as Value
    if (isValue(value)) return value
    const known = this.#guarded.get(value)
    if (known) return known as Value
    const made = value instanceof Task ? this.#guardTask(value) : this.#guardInstance(value)
    this.#guarded.set(value, made)
    return made as Value
  }

  /** An operation of the vCenter itself that is a task. */
  task<Result>(
    operation: string,
    rule: Rule,
    values: readonly unknown[],
    act: () => Task<Result>,
  ): Task<Result> {
    const admission = (): Promise<void> => this.#admit({}, operation, rule, values)
    return this.guard(runAs({ user: this.#user, admission }, act))
  }

  #guardInstance(target: object): object {
    if (!rulesOf(target))
      throw new VmsealError('VMSEAL_INTERNAL', `no rules say who may use a ${target.constructor.name}`)
    return new Proxy(target, {
      get: (_, name) => {
        const value: unknown = Reflect.get(target, name, target)
        if (typeof value !== 'function') return this.guard(value)
        if (name === 'constructor') return value
        const rule = ruleOf(target, name)
        const method = value as (...values: unknown[]) => unknown
        return (...values: unknown[]) => this.#call(target, String(name), rule, method, values)
      },
      set: () => false,
      defineProperty: () => false,
      deleteProperty: () => false,
      setPrototypeOf: () => false,
    })
  }

  /** Whoever started a task may watch and cancel it; its result is guarded. */
  #guardTask(target: Task): Task {
    const done = target.done.then((result) => this.guard(result))
    done.catch(() => {})
    return new Proxy(target, {
      get: (_, name) => {
        if (name === 'done') return done
        const value: unknown = Reflect.get(target, name, target)
        return typeof value === 'function' ? (value as (...values: unknown[]) => unknown).bind(target) : value
      },
    })
  }

  #call(
    target: object,
    name: string,
    rule: Rule | undefined,
    method: (...values: unknown[]) => unknown,
    values: unknown[],
  ): unknown {
    const operation = `${target.constructor.name}.${name}`
    if (!rule || rule.kind === 'internal')
      throw new VmsealError('VMSEAL_NO_PERMISSION', `${operation} is not for users`, {
        details: { subject: operation },
      })
    const admit = (): Promise<void> => this.#admit(target, operation, rule, values)
    const act = (): unknown => method.apply(target, values)
    if (rule.kind === 'task') {
      const result = runAs({ user: this.#user, admission: admit }, act)
      return this.guard(result)
    }
    if (rule.kind === 'stream') return this.#stream(admit, act)
    return admit()
      .then(() => runAs({ user: this.#user }, act))
      .then((result) => this.#visible(rule, result))
      .then((result) => this.guard(result))
  }

  async #admit(target: object, operation: string, rule: Rule, values: readonly unknown[]): Promise<void> {
    await runAs({ user: this.#user }, async () => {
      for (const { privilege, on } of rule.needs)
        await this.#access.require(privilege, await this.#object(on, target, values), operation)
    })
  }

  async #object(on: Need['on'], target: object, values: readonly unknown[]): Promise<InventoryEntity> {
    try {
      return await on(this.#store, target as never, ...(values as never[]))
    } catch (cause) {
      if (isVmsealError(cause)) throw cause
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'the arguments name no object', { cause })
    }
  }

  async #visible(rule: Rule, result: unknown): Promise<unknown> {
    const { entry } = rule
    if (!entry || !Array.isArray(result)) return result
    const mayRead = await runAs({ user: this.#user }, () => this.#access.viewer())
    return result.filter((item: unknown) => {
      const { entity, clusterId } = entry(item as never)
      return mayRead(entity, clusterId)
    })
  }

  async *#stream(admit: () => Promise<void>, act: () => unknown): AsyncGenerator {
    await admit()
    yield* runAs({ user: this.#user }, act) as AsyncIterable<unknown>
  }
}

function isPlain(value: object): value is Record<string, unknown> {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

/** They have no methods that act on a vCenter. */
function isValue(value: object): boolean {
  return (
    value instanceof Uint8Array ||
    value instanceof Date ||
    value instanceof Error ||
    value instanceof Map ||
    value instanceof Set
  )
}
