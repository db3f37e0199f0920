/** How hosts are reached over a network, and what vCenter's CA for them has signed. */
import type { SqliteDatabase } from './sqlite-database.js'
import type { Store } from './store.js'

export function hostLinkTable(database: SqliteDatabase): Store['hostLinks'] {
  return {
    list: async () =>
      database.all(
        `SELECT host_id AS hostId, host, port, key_hash AS keyHash FROM host_link ORDER BY host_id`,
      ),
    save: async (record) => {
      database.run(
        `INSERT OR REPLACE INTO host_link (host_id, host, port, key_hash) VALUES (@hostId, @host, @port, @keyHash)`,
        { ...record },
      )
    },
  }
}

export function hostAuthorityTable(database: SqliteDatabase): Store['hostAuthority'] {
  return {
    get: async (name) =>
      database.first<{ pem: string }>(`SELECT pem FROM host_authority WHERE name = @name`, { name })?.pem,
    set: async (name, pem) => {
      database.run(`INSERT OR REPLACE INTO host_authority (name, pem) VALUES (@name, @pem)`, { name, pem })
    },
  }
}
