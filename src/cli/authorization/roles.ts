/** `vmseal role create`, `update`, `remove`, `list`, `show` and `privileges`. */
import type { Role } from '../../vcenter/authorization/authorization.js'
import { isPrivilege, type Privilege } from '../../vcenter/authorization/privileges.js'
import { VmsealError } from '../../errors.js'
import { tableOr } from '../output.js'
import { verb } from '../verb/verb.js'

interface NewValues {
  readonly name: string
  readonly privilege: readonly Privilege[]
}

interface Values {
  readonly role: string
}

const privilegesHelp = `Example: encrypt, but not decrypt:
  vmseal role create encrypter System.View System.Read StorageProfile.View StorageProfile.Apply Cryptographer.Encrypt`

export const roleCreate = verb<NewValues, Role>({
  name: 'role create',
  summary: 'Make a role of privileges.',
  help: privilegesHelp,
  declare: (command) =>
    command
      .argument('<name>', 'name of the new role')
      .argument('<privilege...>', 'see vmseal role privileges'),
  prepare: (values) => ({ ...values, privilege: values.privilege.map(requirePrivilege) }),
  run: ({ vcenter }, { name, privilege }) =>
    vcenter.authorization.roles.create({ name, privileges: privilege }),
  show: describeRole,
})

export const roleUpdate = verb<Values & Pick<NewValues, 'privilege'>, Role>({
  name: 'role update',
  summary: 'Replace the privileges of a role; whoever has it has these from now on.',
  declare: (command) =>
    command.argument('<role>', 'name of the role').argument('<privilege...>', 'see vmseal role privileges'),
  prepare: (values) => ({ ...values, privilege: values.privilege.map(requirePrivilege) }),
  run: ({ vcenter }, { role, privilege }) => vcenter.authorization.roles.update(role, privilege),
  show: describeRole,
})

export const roleRemove = verb<Values, Values>({
  name: 'role remove',
  summary: 'Remove a role that nobody has.',
  declare: (command) => command.argument('<role>', 'name of the role'),
  run: async ({ vcenter }, { role }) => {
    await vcenter.authorization.roles.remove(role)
    return { role }
  },
  show: ({ role }) => `role ${role} is removed`,
})

export const roleList = verb<object, readonly Role[]>({
  name: 'role list',
  summary: 'List the roles, the built-in ones first.',
  cmdlets: ['Get-VIRole'],
  run: ({ vcenter }) => vcenter.authorization.roles.list(),
  show: (roles) =>
    tableOr(
      'no roles',
      ['NAME', 'PRIVILEGES', ''],
      roles.map(({ name, privileges, builtIn }) => [
        name,
        String(privileges.length),
        builtIn ? 'built in' : '',
      ]),
    ),
})

export const roleShow = verb<Values, Role>({
  name: 'role show',
  summary: 'Show the privileges of a role.',
  declare: (command) => command.argument('<role>', 'name of the role'),
  run: ({ vcenter }, { role }) => vcenter.authorization.roles.get(role),
  show: describeRole,
})

export const rolePrivileges = verb<object, readonly Privilege[]>({
  name: 'role privileges',
  summary: 'List every privilege there is.',
  cmdlets: ['Get-VIPrivilege'],
  run: ({ vcenter }) => vcenter.authorization.roles.privileges(),
  show: (privileges) => privileges.join('\n'),
})

function describeRole({ name, privileges, builtIn }: Role): string {
  return [`${name}${builtIn ? ' (built in)' : ''}`, ...privileges.map((privilege) => `  ${privilege}`)].join(
    '\n',
  )
}

function requirePrivilege(text: string): Privilege {
  if (isPrivilege(text)) return text
  throw new VmsealError(
    'VMSEAL_INVALID_ARGUMENT',
    `there is no privilege ${text}: see vmseal role privileges`,
    {
      details: { subject: text },
    },
  )
}
