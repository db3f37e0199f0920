/** Users for a test, each with one role of given privileges on one object. */
import type { Privilege } from '../../../src/vcenter/authorization/privileges.js'
import type { InventoryObject, VCenter, VCenterSession } from '../../../src/index.js'

let made = 0

/** A new user who has `privileges` on `on` and what is below it, and nothing else. */
export async function userWith(
  vcenter: VCenter,
  privileges: readonly Privilege[],
  options: { on?: InventoryObject; propagate?: boolean } = {},
): Promise<VCenterSession> {
  const name = `user-${(made += 1)}`
  await vcenter.authorization.users.create(name)
  await vcenter.authorization.roles.create({ name: `role of ${name}`, privileges })
  await give(vcenter, name, `role of ${name}`, options)
  return vcenter.as(name)
}

export async function give(
  vcenter: VCenter,
  user: string,
  role: string,
  { on = 'root', propagate = true }: { on?: InventoryObject; propagate?: boolean } = {},
): Promise<void> {
  await vcenter.authorization.permissions.set({ user, role, on, propagate })
}
