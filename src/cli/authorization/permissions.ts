/** `vmseal permission set`, `remove`, `list` and `show`. */
import { InvalidArgumentError, type Command } from 'commander'
import type { Permission } from '../../vcenter/authorization/authorization.js'
import type { InventoryObject } from '../../vcenter/authorization/inventory-objects.js'
import type { Privilege } from '../../vcenter/authorization/privileges.js'
import { tableOr } from '../output.js'
import { given, verb } from '../verb/verb.js'

interface Values {
  readonly user: string
  readonly on?: InventoryObject
}

interface SetValues extends Values {
  readonly role: string
  readonly propagate?: boolean
}

export const permissionSet = verb<SetValues, SetValues>({
  name: 'permission set',
  summary: 'Give a user a role on an object and, unless told otherwise, on all below it.',
  cmdlets: ['New-VIPermission'],
  help: `Of several permissions the nearest one counts. Nobody gives what he does not have himself.

Examples:
  vmseal permission set anna 'No cryptography administrator'
  vmseal permission set bert encrypter --on cluster:prod
  vmseal permission set carl Read-only --on vm:db01`,
  declare: (command) =>
    onObject(command.argument('<user>', 'name of the user').argument('<role>', 'name of the role')).option(
      '--no-propagate',
      'only on the object itself',
    ),
  run: async ({ vcenter }, { user, role, on = 'root', propagate }) => {
    await vcenter.authorization.permissions.set({ user, role, on, ...given({ propagate }) })
    return { user, role, on, propagate: propagate !== false }
  },
  show: ({ user, role, on = 'root' }) => `${user} has the role ${role} on ${objectText(on)}`,
})

export const permissionRemove = verb<Values, Values>({
  name: 'permission remove',
  summary: 'Take from a user the role that he has on an object.',
  declare: (command) => onObject(command.argument('<user>', 'name of the user')),
  run: async ({ vcenter }, { user, on = 'root' }) => {
    await vcenter.authorization.permissions.remove({ user, on })
    return { user, on }
  },
  show: ({ user, on = 'root' }) => `${user} has no role of his own on ${objectText(on)} any more`,
})

export const permissionList = verb<{ readonly user?: string }, readonly Permission[]>({
  name: 'permission list',
  summary: 'List who has which role on what.',
  cmdlets: ['Get-VIPermission'],
  declare: (command) => command.option('--user <user>', 'of this user'),
  run: ({ vcenter }, { user }) => vcenter.authorization.permissions.list(given({ user })),
  show: (permissions) =>
    tableOr(
      'no permissions',
      ['USER', 'ROLE', 'ON', ''],
      permissions.map(({ user, role, object, propagate }) => [
        user,
        role,
        object,
        propagate ? 'and below' : 'itself only',
      ]),
    ),
})

export const permissionShow = verb<Values, readonly Privilege[]>({
  name: 'permission show',
  summary: 'Show what a user may do on an object, from whatever permission it comes.',
  declare: (command) => onObject(command.argument('<user>', 'name of the user')),
  run: ({ vcenter }, { user, on = 'root' }) => vcenter.authorization.permissions.effective({ user, on }),
  show: (privileges, { user, on = 'root' }) =>
    privileges.length === 0 ? `${user} may nothing on ${objectText(on)}` : privileges.join('\n'),
})

function onObject(command: Command): Command {
  return command.option(
    '--on <object>',
    'root, cluster:NAME, host:NAME, datastore:NAME or vm:NAME (default: root)',
    inventoryObject,
  )
}

function inventoryObject(text: string): InventoryObject {
  if (text === 'root') return 'root'
  const [, kind, name = ''] = /^(cluster|host|datastore|vm):(.+)$/.exec(text) ?? []
  if (kind === 'cluster') return { cluster: name }
  if (kind === 'host') return { host: name }
  if (kind === 'datastore') return { datastore: name }
  if (kind === 'vm') return { virtualMachine: name }
  throw new InvalidArgumentError('Write root, cluster:NAME, host:NAME, datastore:NAME or vm:NAME.')
}

function objectText(object: InventoryObject): string {
  if (object === 'root') return 'the root of the inventory'
  return Object.entries(object)
    .map(([kind, name]) => `${kind === 'virtualMachine' ? 'VM' : kind} ${name}`)
    .join('')
}
