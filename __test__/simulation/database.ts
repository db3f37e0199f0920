/**
 * The databases of the parties. A killed party's are closed as they are at that moment: what was not committed is lost.
 * Import this before anything of the product.
 */
import { createRequire } from 'node:module'
import type Database from 'libsql'
import { parties } from './scheduler.js'

const require = createRequire(import.meta.url)
const { prototype } = require('libsql') as { prototype: Database.Database }

const known = new WeakSet<object>()
/** How a database is closed so that nothing of its lock is left; default: simply. */
export const closing: { kms: (database: Database.Database) => void } = { kms: (database) => database.close() }

for (const name of ['exec', 'prepare', 'pragma'] as const) {
  const otherwise = prototype[name] as (...values: unknown[]) => unknown
  Object.defineProperty(prototype, name, {
    configurable: true,
    writable: true,
    value(this: Database.Database, ...values: unknown[]): unknown {
      const party = parties.getStore()
      if (party && !party.observes && !known.has(this)) {
        known.add(this)
        party.atDeath.push(() => {
          if (!this.open) return
          if (this.inTransaction) this.exec('ROLLBACK')
          if (party.name === 'kms') closing.kms(this)
          else this.close()
        })
      }
      return otherwise.apply(this, values)
    },
  })
}
