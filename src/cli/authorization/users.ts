/** `vmseal user create`, `list` and `remove`. */
import type { UserRecord } from '../../store/store.js'
import { tableOr } from '../output.js'
import { verb } from '../verb/verb.js'

interface Values {
  readonly user: string
}

export const userCreate = verb<{ readonly name: string }, UserRecord>({
  name: 'user create',
  summary: 'Make a user, who may nothing yet: vmseal permission set.',
  help: 'There are no passwords: whoever may use the control socket says for whom he acts (--as).',
  declare: (command) => command.argument('<name>', 'name of the new user'),
  run: ({ vcenter }, { name }) => vcenter.authorization.users.create(name),
  show: ({ name }) => `user ${name} is made; give him a role: vmseal permission set ${name} ROLE`,
})

export const userList = verb<object, readonly UserRecord[]>({
  name: 'user list',
  summary: 'List the users; the built-in administrator is not among them.',
  run: ({ vcenter }) => vcenter.authorization.users.list(),
  show: (users) =>
    tableOr(
      'no users',
      ['NAME', 'SINCE'],
      users.map(({ name, createdAt }) => [name, createdAt]),
    ),
})

export const userRemove = verb<Values, Values>({
  name: 'user remove',
  summary: 'Remove a user with all his permissions.',
  declare: (command) => command.argument('<user>', 'name of the user'),
  run: async ({ vcenter }, { user }) => {
    await vcenter.authorization.users.remove(user)
    return { user }
  },
  show: ({ user }) => `user ${user} is removed`,
})
