/** The store on one SQLite file. */
import type { HostRecord, MissingKeyRecord, Store, VmIntentRecord } from './store.js'
import { JournalTables } from './sqlite-journal.js'
import { alarmTable } from './sqlite-alarms.js'
import { authorizationTable } from './sqlite-authorization.js'
import { SqliteDatabase, type Stored } from './sqlite-database.js'
import { hostAuthorityTable, hostLinkTable } from './sqlite-host-links.js'
import { keyCreationTable, keyProviderTable, keyProviderTrustTable } from './sqlite-key-providers.js'
import { rekeyTable } from './sqlite-rekeys.js'
import { storagePolicyTable } from './sqlite-storage-policies.js'
import { SqliteVmTable, keyOf, keyParameters, type KeyColumns } from './sqlite-virtual-machines.js'
import { vcenterMigrations } from './vcenter-schema.js'

/** Opens or creates vCenter's database. VMSEAL_STORE_INVALID if it is damaged or was written by a newer version. */
export function openSqliteStore(file: string): Store {
  const database = SqliteDatabase.open(file, vcenterMigrations)
  const journal = new JournalTables(database)
  return {
    keyProviders: keyProviderTable(database),
    keyProviderTrust: keyProviderTrustTable(database),
    keyCreations: keyCreationTable(database),
    clusters: clusterTable(database),
    hosts: hostTable(database),
    hostLinks: hostLinkTable(database),
    hostAuthority: hostAuthorityTable(database),
    storagePolicies: storagePolicyTable(database),
    virtualMachines: new SqliteVmTable(database),
    rekeys: rekeyTable(database),
    missingKeys: missingKeyTable(database),
    vmIntents: vmIntentTable(database),
    tasks: journal.tasks,
    events: journal.events,
    alarms: alarmTable(database),
    authorization: authorizationTable(database),
    close: async () => database.close(),
  }
}

function clusterTable(database: SqliteDatabase): Store['clusters'] {
  return {
    list: async () =>
      database.all(
        `SELECT id, name, created_at AS createdAt, crypto_mode AS cryptoMode, crypto_provider_id AS cryptoProviderId,
           crypto_key_id AS cryptoKeyId
         FROM cluster ORDER BY name`,
      ),
    insert: async (record) => {
      database.run(`INSERT INTO cluster (id, name, created_at) VALUES (@id, @name, @createdAt)`, {
        ...record,
      })
    },
    rename: async (id, name) =>
      database.run(`UPDATE cluster SET name = @name WHERE id = @id`, { id, name }) > 0,
    remove: async (id) =>
      database.transaction(() => {
        const removed = database.run(
          `DELETE FROM cluster WHERE id = @id
             AND NOT EXISTS (SELECT 1 FROM host WHERE cluster_id = @id)
             AND NOT EXISTS (SELECT 1 FROM vm WHERE cluster_id = @id)
             AND NOT EXISTS (SELECT 1 FROM vm_intent WHERE cluster_id = @id)`,
          { id },
        )
        if (removed === 0) return false
        database.run(`DELETE FROM key_provider_default WHERE entity = @id`, { id })
        database.run(`DELETE FROM permission WHERE entity_type = 'cluster' AND entity_id = @id`, { id })
        return true
      }),

    setCryptoMode: async (id, columns) => {
      database.run(
        `UPDATE cluster SET crypto_mode = @cryptoMode, crypto_provider_id = @cryptoProviderId,
           crypto_key_id = @cryptoKeyId
         WHERE id = @id`,
        { id, ...columns },
      )
    },
  }
}

function hostTable(database: SqliteDatabase): Store['hosts'] {
  return {
    list: async () =>
      database
        .all<Stored<Omit<HostRecord, 'cryptoKey'>, 'datastores'> & KeyColumns>(
          `SELECT id, name, cluster_id AS clusterId, boot_id AS bootId, datastores, added_at AS addedAt,
             provider_id AS providerId, key_id AS keyId
           FROM host ORDER BY name`,
        )
        .map(({ providerId, keyId, ...row }) => ({
          ...row,
          datastores: JSON.parse(row.datastores) as string[],
          cryptoKey: keyOf({ providerId, keyId }),
        })),

    save: async (record) => {
      database.run(
        `INSERT INTO host (id, name, cluster_id, boot_id, datastores, added_at)
         VALUES (@id, @name, @clusterId, @bootId, @datastores, @addedAt)
         ON CONFLICT (id) DO UPDATE SET
           name = @name, cluster_id = @clusterId, boot_id = @bootId, datastores = @datastores`,
        {
          id: record.id,
          name: record.name,
          clusterId: record.clusterId,
          bootId: record.bootId,
          datastores: JSON.stringify(record.datastores),
          addedAt: record.addedAt,
        },
      )
    },

    setCryptoKey: async (id, key) => {
      database.run(`UPDATE host SET provider_id = @providerId, key_id = @keyId WHERE id = @id`, {
        id,
        ...keyParameters(key),
      })
    },

    remove: async (id) => {
      database.run(`DELETE FROM host WHERE id = @id`, { id })
    },
  }
}

function missingKeyTable(database: SqliteDatabase): Store['missingKeys'] {
  return {
    list: async (vmId) =>
      database
        .all<Omit<MissingKeyRecord, 'key'> & { providerId: string; keyId: string }>(
          `SELECT provider_id AS providerId, key_id AS keyId, hop, code, message, since
           FROM missing_key WHERE vm_id = @vmId ORDER BY position`,
          { vmId },
        )
        .map(({ providerId, keyId, ...row }) => ({ key: { keyId, providerId }, ...row })),

    replace: async (vmId, records) =>
      database.inGroup(() => {
        database.run(`DELETE FROM missing_key WHERE vm_id = @vmId`, { vmId })
        for (const [position, { key, hop, code, message, since }] of records.entries())
          database.run(
            `INSERT INTO missing_key (vm_id, position, provider_id, key_id, hop, code, message, since)
             SELECT id, @position, @providerId, @keyId, @hop, @code, @message, @since FROM vm WHERE id = @vmId`,
            { vmId, position, ...keyParameters(key), hop, code, message, since },
          )
      }),
  }
}

function vmIntentTable(database: SqliteDatabase): Store['vmIntents'] {
  return {
    list: async () =>
      database
        .all<Stored<VmIntentRecord, 'keys' | 'diskPolicyIds'>>(
          `SELECT vm_id AS vmId, kind, cluster_id AS clusterId, datastore, vmx, keys,
             home_policy_id AS homePolicyId, disk_policy_ids AS diskPolicyIds, began_at AS beganAt
           FROM vm_intent ORDER BY rowid`,
        )
        .map((row) => ({
          ...row,
          keys: JSON.parse(row.keys) as VmIntentRecord['keys'],
          diskPolicyIds: JSON.parse(row.diskPolicyIds) as VmIntentRecord['diskPolicyIds'],
        })),

    begin: async (record) => {
      database.run(
        `INSERT INTO vm_intent (vm_id, kind, cluster_id, datastore, vmx, keys, home_policy_id, disk_policy_ids, began_at)
         VALUES (@vmId, @kind, @clusterId, @datastore, @vmx, @keys, @homePolicyId, @diskPolicyIds, @beganAt)
         ON CONFLICT (vm_id) DO UPDATE SET kind = @kind, datastore = @datastore, vmx = @vmx, began_at = @beganAt`,
        {
          ...record,
          keys: JSON.stringify(record.keys),
          diskPolicyIds: JSON.stringify(record.diskPolicyIds),
        },
      )
    },

    end: async (vmId) => {
      database.run(`DELETE FROM vm_intent WHERE vm_id = @vmId`, { vmId })
    },
  }
}
