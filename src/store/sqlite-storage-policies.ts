/** Storage policies in SQLite, and which version of them each part of a VM was given. */
import type { SqliteDatabase } from './sqlite-database.js'
import type { StoragePolicyRecord, StoragePolicyTable } from './store.js'

type PolicyRow = Omit<StoragePolicyRecord, 'encryption' | 'filtersBeforeEncryption' | 'bundled'> &
  Readonly<Record<'encryption' | 'filtersBeforeEncryption' | 'bundled', number>>

export function storagePolicyTable(database: SqliteDatabase): StoragePolicyTable {
  return {
    list: async () =>
      database
        .all<PolicyRow>(
          `SELECT id, name, encryption, filters_before_encryption AS filtersBeforeEncryption, bundled, version
             FROM storage_policy ORDER BY bundled DESC, name`,
        )
        .map((row) => ({
          ...row,
          encryption: row.encryption === 1,
          filtersBeforeEncryption: row.filtersBeforeEncryption === 1,
          bundled: row.bundled === 1,
        })),

    insert: async (record) => {
      database.run(
        `INSERT INTO storage_policy (id, name, encryption, filters_before_encryption, bundled, version)
         VALUES (@id, @name, @encryption, @filtersBeforeEncryption, @bundled, @version)`,
        columnsOf(record),
      )
    },

    update: async (record) => {
      const { bundled: _, ...columns } = columnsOf({ ...record, version: record.version - 1 })
      return (
        database.run(
          `UPDATE storage_policy SET name = @name, encryption = @encryption,
             filters_before_encryption = @filtersBeforeEncryption, version = version + 1
           WHERE id = @id AND version = @version AND bundled = 0`,
          columns,
        ) === 1
      )
    },

    remove: async (id) =>
      database.run(
        `DELETE FROM storage_policy WHERE id = @id AND bundled = 0
           AND NOT EXISTS (SELECT 1 FROM vm WHERE home_policy_id = @id)
           AND NOT EXISTS (SELECT 1 FROM disk WHERE policy_id = @id)
           AND NOT EXISTS (
             SELECT 1 FROM vm_intent WHERE home_policy_id = @id OR instr(disk_policy_ids, @id) > 0
           )`,
        { id },
      ) === 1,

    appliedVersions: async (vmId) => {
      const rows = database.all<{ part: string; policyId: string; version: number }>(
        `SELECT part, policy_id AS policyId, version FROM applied_policy WHERE vm_id = @vmId`,
        { vmId },
      )
      return new Map(rows.map(({ part, policyId, version }) => [part, { policyId, version }]))
    },

    noteApplied: async (vmId, parts) =>
      database.transaction(() => {
        for (const [part, policyId] of parts)
          database.run(
            `INSERT OR REPLACE INTO applied_policy (vm_id, part, policy_id, version)
               SELECT @vmId, @part, id, version FROM storage_policy
               WHERE id = @policyId AND EXISTS (SELECT 1 FROM vm WHERE id = @vmId)`,
            { vmId, part, policyId },
          )
      }),
  }
}

function columnsOf(record: StoragePolicyRecord) {
  return {
    ...record,
    encryption: Number(record.encryption),
    filtersBeforeEncryption: Number(record.filtersBeforeEncryption),
    bundled: Number(record.bundled),
  }
}
