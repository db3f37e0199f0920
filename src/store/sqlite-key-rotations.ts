/** Schedules of key rotation in SQLite. */
import type { SqliteDatabase } from './sqlite-database.js'
import type { KeyRotationRecord, KeyRotationTable } from './store.js'

export function keyRotationTable(database: SqliteDatabase): KeyRotationTable {
  return {
    list: async () =>
      database.all<KeyRotationRecord>(
        `SELECT provider_id AS providerId, every_days AS everyDays, rate_limit AS rateLimit, last_at AS lastAt
         FROM key_rotation ORDER BY provider_id`,
      ),

    set: async (record) => {
      database.run(
        `INSERT INTO key_rotation (provider_id, every_days, rate_limit, last_at)
         VALUES (@providerId, @everyDays, @rateLimit, @lastAt)
         ON CONFLICT (provider_id) DO UPDATE SET every_days = @everyDays, rate_limit = @rateLimit, last_at = @lastAt`,
        { ...record },
      )
    },

    rotated: async (providerId, lastAt) => {
      database.run(`UPDATE key_rotation SET last_at = @lastAt WHERE provider_id = @providerId`, {
        providerId,
        lastAt,
      })
    },

    remove: async (providerId) =>
      database.transaction(() => {
        const known = database.first(`SELECT 1 FROM key_rotation WHERE provider_id = @providerId`, {
          providerId,
        })
        database.run(`DELETE FROM key_rotation WHERE provider_id = @providerId`, { providerId })
        return known !== undefined
      }),
  }
}
