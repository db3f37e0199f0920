/**
 * Users, roles and permissions. A permission gives a user a role on an object and, when it propagates, on all below it; the
 * nearest one counts. Nobody gives what he does not have. There are no passwords here: users are known to the program that
 * calls `vcenter.as(user)`.
 */
import { VmsealError } from '../../errors.js'
import type { PermissionRecord, RoleRecord, Store, UserRecord } from '../../store/store.js'
import { notFound, requireName } from '../names.js'
import { actingUser, administrator, system, type Access } from './access.js'
import { describeEntity, resolveObject, rootEntity, type InventoryObject } from './inventory-objects.js'
import { allPrivileges, builtInRoles, isPrivilege, type Privilege } from './privileges.js'

export interface Role {
  readonly name: string
  readonly privileges: readonly Privilege[]
  readonly builtIn: boolean
}

export interface Permission {
  readonly user: string
  readonly role: string
  /** For people, for instance `cluster prod`. */
  readonly object: string
  readonly propagate: boolean
}

interface AuthorizationServices {
  readonly store: Store
  readonly access: Access
  readonly clock: () => Date
}

export class Authorization {
  readonly users: Users
  readonly roles: Roles
  readonly permissions: Permissions

  /** @internal */
  constructor(services: AuthorizationServices) {
    this.users = new Users(services)
    this.roles = new Roles(services)
    this.permissions = new Permissions(services, this.roles)
  }
}

export class Users {
  readonly #services: AuthorizationServices

  /** @internal */
  constructor(services: AuthorizationServices) {
    this.#services = services
  }

  /** VMSEAL_ALREADY_EXISTS if the name is taken, `administrator` and `system` always are. */
  async create(name: string): Promise<UserRecord> {
    const createdAt = this.#services.clock().toISOString()
    const user = { name: requireName('user name', name), createdAt }
    if (name === administrator || name === system) throw alreadyExists('user', name)
    await this.#services.store.authorization.insertUser(user)
    return user
  }

  /** Without the built-in `administrator`. */
  list(): Promise<UserRecord[]> {
    return this.#services.store.authorization.listUsers()
  }

  /** Takes all permissions of the user too. */
  async remove(name: string): Promise<void> {
    if (!(await this.#services.store.authorization.removeUser(name))) throw notFound('user', name)
  }
}

export class Roles {
  readonly #services: AuthorizationServices

  /** @internal */
  constructor(services: AuthorizationServices) {
    this.#services = services
  }

  /** Every privilege there is. */
  async privileges(): Promise<readonly Privilege[]> {
    return allPrivileges
  }

  /** The built-in ones first. */
  async list(): Promise<Role[]> {
    const own = await this.#services.store.authorization.listRoles()
    return [
      ...builtInRoles.map((role) => ({ ...role, builtIn: true })),
      ...own.map((role) => ({ ...asRole(role), builtIn: false })),
    ]
  }

  async get(name: string): Promise<Role> {
    const found = (await this.list()).find((role) => role.name === name)
    if (!found) throw notFound('role', name)
    return found
  }

  async create(spec: { readonly name: string; readonly privileges: readonly Privilege[] }): Promise<Role> {
    const name = requireName('role name', spec.name)
    const role = { name, privileges: requirePrivileges(spec.privileges) }
    if (builtInRoles.some((other) => other.name === name)) throw alreadyExists('role', name)
    await this.#services.store.authorization.insertRole(role)
    return { ...role, builtIn: false }
  }

  /**
   * Replaces the privileges of an own role; whoever has it has them from now on. Only privileges that the acting user has
   * at the root himself can be added.
   */
  async update(name: string, privileges: readonly Privilege[]): Promise<Role> {
    const before = await this.#own(name)
    const role = { name, privileges: requirePrivileges(privileges) }
    for (const added of role.privileges.filter((id) => !before.privileges.includes(id)))
      await this.#services.access.require(added, rootEntity, 'Roles.update')
    await this.#services.store.authorization.updateRole(role)
    return { ...role, builtIn: false }
  }

  /** VMSEAL_INVALID_STATE while somebody has it. */
  async remove(name: string): Promise<void> {
    await this.#own(name)
    const { authorization } = this.#services.store
    const holder = (await authorization.listPermissions()).find((permission) => permission.role === name)
    if (holder)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `${holder.user} has the role '${name}'. Take it from its users first`,
        { details: { subject: name } },
      )
    await authorization.removeRole(name)
  }

  async #own(name: string): Promise<Role> {
    const role = await this.get(name)
    if (role.builtIn)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `the role '${name}' is built in and never changes. Make a role of its privileges and change that`,
        { details: { subject: name } },
      )
    return role
  }
}

export class Permissions {
  readonly #services: AuthorizationServices
  readonly #roles: Roles

  /** @internal */
  constructor(services: AuthorizationServices, roles: Roles) {
    this.#services = services
    this.#roles = roles
  }

  /** Gives a role, in place of the one the user has on the same object. The giver must have all privileges of the role there. */
  async set(spec: {
    readonly user: string
    readonly role: string
    readonly on: InventoryObject
    /** Default true: also on everything below. */
    readonly propagate?: boolean
  }): Promise<void> {
    const { store, access } = this.#services
    const role = await this.#roles.get(spec.role)
    const entity = await resolveObject(store, spec.on)
    await this.#requireUser(spec.user)
    for (const privilege of role.privileges) await access.require(privilege, entity, 'Permissions.set')
    const { user, propagate = true } = spec
    await store.authorization.setPermission({ user, role: role.name, entity, propagate })
  }

  /** Takes a role. What the user has from above then must not be more than the acting user has. */
  async remove(spec: { readonly user: string; readonly on: InventoryObject }): Promise<void> {
    const { store, access } = this.#services
    const entity = await resolveObject(store, spec.on)
    const before = await access.privilegesOn(spec.user, entity)
    const gained = (await access.inherited(spec.user, entity)).filter((privilege) => !before.has(privilege))
    for (const privilege of gained) await access.require(privilege, entity, 'Permissions.remove')
    if (!(await store.authorization.removePermission(spec.user, entity)))
      throw notFound('permission of', spec.user)
  }

  async list(filter: { readonly user?: string } = {}): Promise<Permission[]> {
    const { store } = this.#services
    const all = await store.authorization.listPermissions()
    return Promise.all(
      all
        .filter(({ user }) => filter.user === undefined || user === filter.user)
        .map(async ({ entity, ...permission }: PermissionRecord) => ({
          ...permission,
          object: await describeEntity(store, entity),
        })),
    )
  }

  /** What a user may do on an object, in the order of the table of privileges. */
  async effective(spec: { readonly user: string; readonly on: InventoryObject }): Promise<Privilege[]> {
    await this.#requireUser(spec.user)
    const entity = await resolveObject(this.#services.store, spec.on)
    const held = await this.#services.access.privilegesOn(spec.user, entity)
    return allPrivileges.filter((privilege) => held.has(privilege))
  }

  /** What the acting user may do on an object. */
  async own(on: InventoryObject): Promise<Privilege[]> {
    return this.effective({ user: actingUser(), on })
  }

  async #requireUser(name: string): Promise<void> {
    if (name === administrator) return
    const users = await this.#services.store.authorization.listUsers()
    if (!users.some((user) => user.name === name)) throw notFound('user', name)
  }
}

function requirePrivileges(values: readonly unknown[]): Privilege[] {
  if (!Array.isArray(values))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'privileges must be a list of privilege ids')
  for (const value of values)
    if (!isPrivilege(value))
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `there is no privilege ${JSON.stringify(value)}`, {
        details: { subject: String(value) },
      })
  return allPrivileges.filter((privilege) => values.includes(privilege))
}

function asRole({ name, privileges }: RoleRecord): Omit<Role, 'builtIn'> {
  return { name, privileges: privileges.filter(isPrivilege) }
}

function alreadyExists(what: string, name: string): VmsealError {
  return new VmsealError('VMSEAL_ALREADY_EXISTS', `there is a ${what} '${name}'`, {
    details: { subject: name },
  })
}
