/** Users, roles and permissions in SQLite. */
import type { SqliteDatabase, Stored } from './sqlite-database.js'
import type { AuthorizationTable, InventoryEntity, PermissionRecord, RoleRecord } from './store.js'

type PermissionRow = Omit<PermissionRecord, 'entity' | 'propagate'> & {
  readonly type: InventoryEntity['type']
  readonly id: string
  readonly propagate: number
}

const columns = `user_name AS user, role, entity_type AS type, entity_id AS id, propagate`

export function authorizationTable(database: SqliteDatabase): AuthorizationTable {
  return {
    listUsers: async () => database.all(`SELECT name, created_at AS createdAt FROM user ORDER BY name`),

    insertUser: async ({ name, createdAt }) => {
      database.run(`INSERT INTO user (name, created_at) VALUES (@name, @createdAt)`, { name, createdAt })
    },

    removeUser: async (name) => database.run(`DELETE FROM user WHERE name = @name`, { name }) > 0,

    listRoles: async () =>
      database
        .all<Stored<RoleRecord, 'privileges'>>(`SELECT name, privileges FROM role ORDER BY name`)
        .map((row) => ({ ...row, privileges: JSON.parse(row.privileges) as string[] })),

    insertRole: async ({ name, privileges }) => {
      database.run(`INSERT INTO role (name, privileges) VALUES (@name, @privileges)`, {
        name,
        privileges: JSON.stringify(privileges),
      })
    },

    updateRole: async ({ name, privileges }) =>
      database.run(`UPDATE role SET privileges = @privileges WHERE name = @name`, {
        name,
        privileges: JSON.stringify(privileges),
      }) > 0,

    removeRole: async (name) => database.run(`DELETE FROM role WHERE name = @name`, { name }) > 0,

    listPermissions: async () =>
      database
        .all<PermissionRow>(`SELECT ${columns} FROM permission ORDER BY user_name, entity_type, entity_id`)
        .map(permissionOf),

    permissionsOf: async (user) =>
      database
        .all<PermissionRow>(`SELECT ${columns} FROM permission WHERE user_name = @user`, { user })
        .map(permissionOf),

    setPermission: async ({ user, role, entity, propagate }) => {
      database.run(
        `INSERT INTO permission (user_name, role, entity_type, entity_id, propagate)
         VALUES (@user, @role, @type, @id, @propagate)
         ON CONFLICT (user_name, entity_type, entity_id) DO UPDATE SET role = @role, propagate = @propagate`,
        { user, role, ...entity, propagate: Number(propagate) },
      )
    },

    removePermission: async (user, { type, id }) =>
      database.run(
        `DELETE FROM permission WHERE user_name = @user AND entity_type = @type AND entity_id = @id`,
        { user, type, id },
      ) > 0,
  }
}

function permissionOf({ type, id, propagate, ...row }: PermissionRow): PermissionRecord {
  return { ...row, entity: { type, id }, propagate: propagate === 1 }
}
