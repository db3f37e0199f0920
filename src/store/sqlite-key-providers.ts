/** Key providers, whom they trust, and Creates under way, in SQLite. */
import type { SqliteDatabase, Stored } from './sqlite-database.js'
import type {
  KeyCreationRecord,
  KeyCreationTable,
  KeyProviderLogin,
  KeyProviderRecord,
  KeyProviderTable,
  KeyProviderTrustTable,
  PendingClientCertificate,
  TrustedServer,
} from './store.js'

/** The entity of a default that is for all clusters. */
const wholeVCenter = ''

export function keyProviderTable(database: SqliteDatabase): KeyProviderTable {
  const setDefault = (id: string, entity: string): void => {
    database.run(
      `INSERT INTO key_provider_default (entity, provider_id) VALUES (@entity, @id)
       ON CONFLICT (entity) DO UPDATE SET provider_id = @id`,
      { id, entity },
    )
  }
  return {
    list: async () =>
      database
        .all<Stored<KeyProviderRecord, 'servers'>>(
          `SELECT id, servers, ca_certificate AS caCertificate, certificate, private_key_file AS privateKeyFile,
             added_at AS addedAt
           FROM key_provider ORDER BY rowid`,
        )
        .map((row) => ({ ...row, servers: JSON.parse(row.servers) as KeyProviderRecord['servers'] })),

    insert: async (record) =>
      database.transaction(() => {
        const first = database.first(`SELECT 1 FROM key_provider`) === undefined
        database.run(
          `INSERT INTO key_provider (id, servers, ca_certificate, certificate, private_key_file, added_at)
           VALUES (@id, @servers, @caCertificate, @certificate, @privateKeyFile, @addedAt)`,
          { ...record, servers: JSON.stringify(record.servers) },
        )
        if (first) setDefault(record.id, wholeVCenter)
      }),

    update: async ({ id, servers, caCertificate, certificate, privateKeyFile }) => {
      database.run(
        `UPDATE key_provider SET servers = @servers, ca_certificate = @caCertificate, certificate = @certificate,
           private_key_file = @privateKeyFile
         WHERE id = @id`,
        { id, servers: JSON.stringify(servers), caCertificate, certificate, privateKeyFile },
      )
    },

    remove: async (id) => {
      database.run(`DELETE FROM key_provider WHERE id = @id`, { id })
    },

    getDefault: async (clusterId) =>
      database.first<{ id: string }>(
        `SELECT provider_id AS id FROM key_provider_default WHERE entity = @entity`,
        { entity: clusterId ?? wholeVCenter },
      )?.id ?? null,

    setDefault: async (id, clusterId) => {
      const entity = clusterId ?? wholeVCenter
      if (id === null) database.run(`DELETE FROM key_provider_default WHERE entity = @entity`, { entity })
      else setDefault(id, entity)
    },

    clustersOf: async (id) =>
      database
        .all<{ entity: string }>(
          `SELECT entity FROM key_provider_default WHERE provider_id = @id AND entity <> @wholeVCenter`,
          { id, wholeVCenter },
        )
        .map((row) => row.entity),
  }
}

export function keyProviderTrustTable(database: SqliteDatabase): KeyProviderTrustTable {
  return {
    listServers: async (providerId) =>
      database.all<TrustedServer>(
        `SELECT provider_id AS providerId, host, port, certificate, key_hash AS keyHash, trusted_at AS trustedAt
         FROM trusted_server WHERE provider_id = @providerId ORDER BY rowid`,
        { providerId },
      ),

    trustServer: async (record) => {
      database.run(
        `INSERT INTO trusted_server (provider_id, host, port, certificate, key_hash, trusted_at)
         VALUES (@providerId, @host, @port, @certificate, @keyHash, @trustedAt)
         ON CONFLICT DO UPDATE SET certificate = @certificate, trusted_at = @trustedAt`,
        { ...record },
      )
    },

    distrustServer: async (providerId, host, port) => {
      database.run(
        `DELETE FROM trusted_server WHERE provider_id = @providerId AND host = @host AND port = @port`,
        { providerId, host, port },
      )
    },

    getPending: async (providerId) =>
      database.first<PendingClientCertificate>(
        `SELECT provider_id AS providerId, kind, pem, private_key_file AS privateKeyFile, created_at AS createdAt
         FROM pending_client_certificate WHERE provider_id = @providerId`,
        { providerId },
      ) ?? null,

    setPending: async (record) => {
      database.run(
        `INSERT INTO pending_client_certificate (provider_id, kind, pem, private_key_file, created_at)
         VALUES (@providerId, @kind, @pem, @privateKeyFile, @createdAt)
         ON CONFLICT (provider_id) DO UPDATE SET kind = @kind, pem = @pem, private_key_file = @privateKeyFile,
           created_at = @createdAt`,
        { ...record },
      )
    },

    clearPending: async (providerId) => {
      database.run(`DELETE FROM pending_client_certificate WHERE provider_id = @providerId`, { providerId })
    },

    getLogin: async (providerId) =>
      database.first<KeyProviderLogin>(
        `SELECT username, password_file AS passwordFile FROM key_provider_login WHERE provider_id = @providerId`,
        { providerId },
      ) ?? null,

    setLogin: async (providerId, login) => {
      if (login === null)
        database.run(`DELETE FROM key_provider_login WHERE provider_id = @providerId`, { providerId })
      else
        database.run(
          `INSERT INTO key_provider_login (provider_id, username, password_file)
           VALUES (@providerId, @username, @passwordFile)
           ON CONFLICT (provider_id) DO UPDATE SET username = @username, password_file = @passwordFile`,
          { providerId, ...login },
        )
    },

    noteWarning: async (keyHash, days) =>
      database.run(
        `INSERT INTO certificate_warning (key_hash, days) VALUES (@keyHash, @days) ON CONFLICT DO NOTHING`,
        { keyHash, days },
      ) > 0,
  }
}

export function keyCreationTable(database: SqliteDatabase): KeyCreationTable {
  return {
    list: async (providerId) =>
      database.all<KeyCreationRecord>(
        `SELECT provider_id AS providerId, name, server, key_id AS keyId, began_at AS beganAt
         FROM key_creation WHERE provider_id = @providerId ORDER BY rowid`,
        { providerId },
      ),

    begin: async (record) => {
      database.run(
        `INSERT INTO key_creation (provider_id, name, server, key_id, began_at)
         VALUES (@providerId, @name, @server, @keyId, @beganAt)`,
        { ...record },
      )
    },

    found: async (name, keyId) => {
      database.run(`UPDATE key_creation SET key_id = @keyId WHERE name = @name`, { name, keyId })
    },

    end: async (name) => {
      database.run(`DELETE FROM key_creation WHERE name = @name`, { name })
    },
  }
}
