/**
 * Who acts, and whether he may. The user travels with the asynchronous call (AsyncLocalStorage), so that every check and
 * every event below an operation sees the one who asked for it. Without one it is the built-in administrator: whoever
 * holds the process holds the directory.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { VmsealError } from '../../errors.js'
import type { InventoryEntity, PermissionRecord, Store } from '../../store/store.js'
import { describeEntity, pathOf, rootEntity } from './inventory-objects.js'
import { builtInRoles, type Privilege } from './privileges.js'

export const administrator = 'administrator'

/** vCenter itself, in what it does without being asked. No user can have the name. */
export const system = 'system'

interface Call {
  readonly user: string
  /** Of an operation that is a task: what has to hold before it begins. */
  readonly admission?: () => Promise<void>
}

const calls = new AsyncLocalStorage<Call>()

/** The user on whose behalf the present call runs. */
export function actingUser(): string {
  return calls.getStore()?.user ?? administrator
}

/** What has to hold before a task of the present call may begin. */
export function admissionOfCall(): (() => Promise<void>) | undefined {
  return calls.getStore()?.admission
}

export function runAs<Result>(call: Call, act: () => Result): Result {
  return calls.run(call, act)
}

/** Work in the background: whoever caused it is not the one who does it. */
export function runAsSystem<Result>(act: () => Result): Result {
  return calls.run({ user: system }, act)
}

export interface Refusal {
  readonly user: string
  readonly privilege: Privilege
  readonly object: string
  readonly operation?: string
}

export class Access {
  readonly #store: Store
  readonly #record: (refusal: Refusal) => Promise<void>

  /** `record` makes a refusal durable before the caller hears of it. */
  constructor(store: Store, record: (refusal: Refusal) => Promise<void>) {
    this.#store = store
    this.#record = record
  }

  /** VMSEAL_NO_PERMISSION naming privilege and object unless the acting user has the privilege there. */
  async require(privilege: Privilege, entity: InventoryEntity, operation?: string): Promise<void> {
    const user = actingUser()
    if (await this.holds(privilege, entity)) return
    const object = await describeEntity(this.#store, entity)
    await this.#record({ user, privilege, object, ...(operation === undefined ? {} : { operation }) })
    throw new VmsealError(
      'VMSEAL_NO_PERMISSION',
      `${user} lacks ${privilege} on ${object}. An administrator can give a role that has it, there or above`,
      { details: { privilege, object, subject: user } },
    )
  }

  /** Also of a host that is about to join: it is not in the inventory, its cluster is. */
  async requireOnHost(
    privilege: Privilege,
    host: { readonly hostId: string; readonly clusterId: string },
  ): Promise<void> {
    const known = (await this.#store.hosts.list()).some(({ id }) => id === host.hostId)
    const entity = known
      ? ({ type: 'host', id: host.hostId } as const)
      : ({ type: 'cluster', id: host.clusterId } as const)
    return this.require(privilege, entity)
  }

  async holds(privilege: Privilege, entity: InventoryEntity): Promise<boolean> {
    return (await this.privilegesOn(actingUser(), entity)).has(privilege)
  }

  /** The nearest permission counts: the one on the object itself, else the first one above that propagates. */
  async privilegesOn(user: string, entity: InventoryEntity): Promise<ReadonlySet<Privilege>> {
    if (isBuiltIn(user)) return new Set(builtInRoles[0]?.privileges)
    const rolesOf = await this.#rolesOf(user)
    return rolesOf(await pathOf(this.#store, entity))
  }

  /** What a user has on an object without the permission on the object itself. */
  async inherited(user: string, entity: InventoryEntity): Promise<Privilege[]> {
    if (isBuiltIn(user)) return []
    const rolesOf = await this.#rolesOf(user)
    const [, ...above] = await pathOf(this.#store, entity)
    // Whatever is above reaches the object only when it propagates.
    return [...rolesOf([noObject, ...above])]
  }

  /** A check for many objects, whose cluster is known: what of a list may the acting user see. */
  async viewer(): Promise<(entity: InventoryEntity, clusterId?: string) => boolean> {
    const user = actingUser()
    if (isBuiltIn(user)) return () => true
    const rolesOf = await this.#rolesOf(user)
    return (entity, clusterId) =>
      rolesOf([
        entity,
        ...(clusterId === undefined ? [] : [{ type: 'cluster', id: clusterId } as const]),
        rootEntity,
      ]).has('System.Read')
  }

  async #rolesOf(user: string): Promise<(path: readonly InventoryEntity[]) => ReadonlySet<Privilege>> {
    const { authorization } = this.#store
    const [permissions, own] = await Promise.all([
      authorization.permissionsOf(user),
      authorization.listRoles(),
    ])
    const byEntity = new Map(permissions.map((permission) => [textOf(permission.entity), permission]))
    const byRole = new Map<string, ReadonlySet<Privilege>>(
      [...builtInRoles, ...own].map((role) => [role.name, new Set(role.privileges as readonly Privilege[])]),
    )
    return (path) => byRole.get(nearest(path, byEntity)?.role ?? '') ?? new Set()
  }
}

function isBuiltIn(user: string): boolean {
  return user === administrator || user === system
}

/** Stands where an object's own permission is not to count. */
const noObject: InventoryEntity = { type: 'vm', id: '' }

function nearest(
  path: readonly InventoryEntity[],
  permissions: ReadonlyMap<string, PermissionRecord>,
): PermissionRecord | undefined {
  for (const [distance, entity] of path.entries()) {
    const found = permissions.get(textOf(entity))
    if (found && (distance === 0 || found.propagate)) return found
  }
  return undefined
}

function textOf({ type, id }: InventoryEntity): string {
  return `${type} ${id}`
}
