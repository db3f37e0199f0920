/** Open alarms in SQLite, and how far the event log was read for them. */
import type { SqliteDatabase } from './sqlite-database.js'
import type { AlarmEntity, AlarmRecord, AlarmTable } from './store.js'

type AlarmRow = Omit<AlarmRecord, 'entity'> & {
  readonly entityType: AlarmEntity['type']
  readonly entityName: string
}

export function alarmTable(database: SqliteDatabase): AlarmTable {
  return {
    list: async () =>
      database
        .all<AlarmRow>(
          `SELECT kind, entity_type AS entityType, entity_name AS entityName, status, message, event, sequence,
             opened_at AS openedAt, acknowledged_by AS acknowledgedBy, acknowledged_at AS acknowledgedAt
           FROM alarm ORDER BY sequence`,
        )
        .map(({ entityType, entityName, ...row }) => ({
          ...row,
          entity: { type: entityType, name: entityName },
        })),

    open: ({ entity, ...record }) =>
      database.inGroup(() => {
        database.run(
          `INSERT OR REPLACE INTO alarm (kind, entity_type, entity_name, status, message, event, sequence, opened_at,
             acknowledged_by, acknowledged_at)
           VALUES (@kind, @entityType, @entityName, @status, @message, @event, @sequence, @openedAt,
             @acknowledgedBy, @acknowledgedAt)`,
          { ...record, entityType: entity.type, entityName: entity.name },
        )
      }),

    clear: (kind, { type, name }) =>
      database.inGroup(
        () =>
          database.run(
            `DELETE FROM alarm WHERE kind = @kind AND entity_type = @type AND entity_name = @name`,
            { kind, type, name },
          ) === 1,
      ),

    getPosition: async () =>
      database.first<{ sequence: number }>(`SELECT sequence FROM alarm_position`)?.sequence ?? 0,

    setPosition: (sequence) =>
      database.inGroup(() => {
        database.run(`UPDATE alarm_position SET sequence = @sequence`, { sequence })
      }),
  }
}
