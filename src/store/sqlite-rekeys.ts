/** Rekeys of whole providers in SQLite. */
import type { SqliteDatabase } from './sqlite-database.js'
import { keyOf, keyParameters, type KeyColumns } from './sqlite-virtual-machines.js'
import type { RekeyRecord, RekeyTable, RekeyVmRecord } from './store.js'

export function rekeyTable(database: SqliteDatabase): RekeyTable {
  return {
    find: async (providerId) =>
      database.all<RekeyRecord>(
        `SELECT id, provider_id AS providerId, new_provider_id AS newProviderId, began_at AS beganAt
         FROM rekey WHERE provider_id = @providerId`,
        { providerId },
      )[0],

    begin: async (record) => {
      database.run(
        `INSERT INTO rekey (id, provider_id, new_provider_id, began_at)
         VALUES (@id, @providerId, @newProviderId, @beganAt)`,
        { ...record },
      )
    },

    listVms: async (rekeyId) =>
      database
        .all<Omit<RekeyVmRecord, 'key'> & KeyColumns>(
          `SELECT vm_id AS vmId, name, state, provider_id AS providerId, key_id AS keyId,
             error_code AS errorCode, error_message AS errorMessage
           FROM rekey_vm WHERE rekey_id = @rekeyId ORDER BY name`,
          { rekeyId },
        )
        .map(({ providerId, keyId, ...row }) => ({ ...row, key: keyOf({ providerId, keyId }) })),

    saveVm: async (rekeyId, { vmId, name, state, key, errorCode, errorMessage }) => {
      database.run(
        `INSERT INTO rekey_vm (rekey_id, vm_id, name, state, provider_id, key_id, error_code, error_message)
         VALUES (@rekeyId, @vmId, @name, @state, @providerId, @keyId, @errorCode, @errorMessage)
         ON CONFLICT (rekey_id, vm_id) DO UPDATE SET name = @name, state = @state, provider_id = @providerId,
           key_id = @keyId, error_code = @errorCode, error_message = @errorMessage`,
        { rekeyId, vmId, name, state, errorCode, errorMessage, ...keyParameters(key) },
      )
    },

    end: async (id) => {
      database.run(`DELETE FROM rekey WHERE id = @id`, { id })
    },
  }
}
