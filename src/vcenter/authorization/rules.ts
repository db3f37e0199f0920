/** The form of the table of operations: which privileges an operation needs, and on which object. */
import type { InventoryEntity, Store } from '../../store/store.js'
import type { Task } from '../task.js'
import type { Privilege } from './privileges.js'

export interface Need {
  readonly privilege: Privilege
  /** The object, from the instance that is called and the arguments. */
  readonly on: (store: Store, target: never, ...values: never[]) => InventoryEntity | Promise<InventoryEntity>
}

type RuleKind = 'call' | 'task' | 'stream' | 'internal'

export interface Rule<Kind extends RuleKind = RuleKind> {
  /** `task`: it returns a Task, which is admitted before it begins; `stream`: an async iterable; `internal`: for nobody. */
  readonly kind: Kind
  readonly needs: readonly Need[]
  /** Privileges that the operation asks for itself when what it has to do calls for them, before a key is made. */
  readonly within: readonly Privilege[]
  /** Of a list: the object of an entry, and its cluster. Entries that the user may not read are left out. */
  readonly entry?: (item: never) => { readonly entity: InventoryEntity; readonly clusterId?: string }
}

/** A row for every method of a class, of the right kind: one that is missing does not compile. */
export type Rules<Target> = {
  readonly [
    Name in keyof Target as Target[Name] extends (...values: never[]) => unknown ? Name : never
  ]-?: Target[Name] extends (...values: never[]) => infer Result ? Rule<'internal' | KindOf<Result>> : never
}

type KindOf<Result> = Result extends Task ? 'task' : Result extends AsyncIterable<unknown> ? 'stream' : 'call'

export const internal: Rule<'internal'> = { kind: 'internal', needs: [], within: [] }

/** `within`: see Rule. */
export function call(needs: readonly Need[] = [], within: readonly Privilege[] = []): Rule<'call'> {
  return { kind: 'call', needs, within }
}

export function stream(needs: readonly Need[]): Rule<'stream'> {
  return { kind: 'stream', needs, within: [] }
}

export function task(needs: readonly Need[], within: readonly Privilege[] = []): Rule<'task'> {
  return { kind: 'task', needs, within }
}
