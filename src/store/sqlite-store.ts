/** The store on one SQLite file. */
import type { KeyProviderRecord, HostRecord, StoragePolicyRecord, Store } from './store.js'
import { JournalTables } from './sqlite-journal.js'
import { SqliteDatabase } from './sqlite-database.js'
import { SqliteVmTable } from './sqlite-virtual-machines.js'
import { vcenterMigrations } from './vcenter-schema.js'

/** Opens or creates vCenter's database. VMSEAL_STORE_INVALID if it is damaged or was written by a newer version. */
export function openSqliteStore(file: string): Store {
  const database = SqliteDatabase.open(file, vcenterMigrations)
  const journal = new JournalTables(database)
  return {
    keyProviders: keyProviderTable(database),
    clusters: clusterTable(database),
    hosts: hostTable(database),
    storagePolicies: storagePolicyTable(database),
    virtualMachines: new SqliteVmTable(database),
    tasks: journal.tasks,
    events: journal.events,
    close: async () => database.close(),
  }
}

function keyProviderTable(database: SqliteDatabase): Store['keyProviders'] {
  const setDefault = (id: string): void => {
    database.run(
      `INSERT INTO key_provider_default (entity, provider_id) VALUES ('', @id)
       ON CONFLICT (entity) DO UPDATE SET provider_id = @id`,
      { id },
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
        if (first) setDefault(record.id)
      }),

    remove: async (id) => {
      database.run(`DELETE FROM key_provider WHERE id = @id`, { id })
    },

    getDefault: async () =>
      database.first<{ id: string }>(`SELECT provider_id AS id FROM key_provider_default WHERE entity = ''`)
        ?.id ?? null,

    setDefault: async (id) => {
      if (id === null) database.run(`DELETE FROM key_provider_default WHERE entity = ''`)
      else setDefault(id)
    },
  }
}

function clusterTable(database: SqliteDatabase): Store['clusters'] {
  return {
    list: async () => database.all(`SELECT id, name, created_at AS createdAt FROM cluster ORDER BY name`),
    insert: async (record) => {
      database.run(`INSERT INTO cluster (id, name, created_at) VALUES (@id, @name, @createdAt)`, {
        ...record,
      })
    },
  }
}

function hostTable(database: SqliteDatabase): Store['hosts'] {
  return {
    list: async () =>
      database
        .all<Stored<HostRecord, 'datastores'>>(
          `SELECT id, name, cluster_id AS clusterId, boot_id AS bootId, datastores, added_at AS addedAt
           FROM host ORDER BY name`,
        )
        .map((row) => ({ ...row, datastores: JSON.parse(row.datastores) as string[] })),

    save: async (record) => {
      database.run(
        `INSERT INTO host (id, name, cluster_id, boot_id, datastores, added_at)
         VALUES (@id, @name, @clusterId, @bootId, @datastores, @addedAt)
         ON CONFLICT (id) DO UPDATE SET
           name = @name, cluster_id = @clusterId, boot_id = @bootId, datastores = @datastores`,
        { ...record, datastores: JSON.stringify(record.datastores) },
      )
    },

    remove: async (id) => {
      database.run(`DELETE FROM host WHERE id = @id`, { id })
    },
  }
}

function storagePolicyTable(database: SqliteDatabase): Store['storagePolicies'] {
  return {
    list: async () =>
      database
        .all<{ id: string; name: string; encryption: number; bundled: number }>(
          `SELECT id, name, encryption, bundled FROM storage_policy ORDER BY bundled DESC, name`,
        )
        .map((row) => ({ ...row, encryption: row.encryption === 1, bundled: row.bundled === 1 })),

    insert: async (record: StoragePolicyRecord) => {
      database.run(
        `INSERT INTO storage_policy (id, name, encryption, bundled) VALUES (@id, @name, @encryption, @bundled)`,
        { ...record, encryption: Number(record.encryption), bundled: Number(record.bundled) },
      )
    },
  }
}

/** A record as its row: the named fields are JSON text. */
type Stored<Record, Json extends keyof Record> = Omit<Record, Json> & { readonly [Name in Json]: string }
