/** Tasks and events in SQLite. */
import type { SqliteDatabase } from './sqlite-database.js'
import { eventTable } from './sqlite-events.js'
import type { EventTable, TaskRecord, TaskTable } from './store.js'

export class JournalTables {
  readonly tasks: TaskTable
  readonly events: EventTable

  constructor(database: SqliteDatabase) {
    this.tasks = taskTable(database)
    this.events = eventTable(database)
  }
}

function taskTable(database: SqliteDatabase): TaskTable {
  return {
    list: async (limit) =>
      database.all<TaskRecord>(
        `SELECT id, name, entity, state, created_at AS createdAt, started_at AS startedAt, ended_at AS endedAt,
           error_code AS errorCode, error_message AS errorMessage, done_bytes AS doneBytes,
           total_bytes AS totalBytes
         FROM task ORDER BY rowid DESC LIMIT @limit`,
        { limit },
      ),

    save: (record) =>
      database.inGroup(() => {
        database.run(
          `INSERT INTO task (id, name, entity, state, created_at, started_at, ended_at, error_code, error_message,
           done_bytes, total_bytes)
         VALUES (@id, @name, @entity, @state, @createdAt, @startedAt, @endedAt, @errorCode, @errorMessage,
           @doneBytes, @totalBytes)
         ON CONFLICT (id) DO UPDATE SET state = @state, started_at = @startedAt, ended_at = @endedAt,
           error_code = @errorCode, error_message = @errorMessage, done_bytes = @doneBytes,
           total_bytes = @totalBytes`,
          { ...record },
        )
      }),

    failUnfinished: async (endedAt, code, message) =>
      database.run(
        `UPDATE task SET state = 'error', ended_at = @endedAt, error_code = @code, error_message = @message
         WHERE state IN ('queued', 'running')`,
        { endedAt, code, message },
      ),
  }
}
