import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { AuditLog } from '../../src/kms/audit-log.js'
import { closeDatabase, openDatabase } from '../../src/kms/database.js'
import { GroupCommit } from '../../src/kms/group-commit.js'
import { startWithClient, temporaryDirectory } from './running-kms.js'

function opened(t: ExecutionContext, log?: string) {
  const directory = temporaryDirectory(t)
  const database = openDatabase(join(directory, 'kms.db'))
  const file = log ?? join(directory, 'audit.log')
  const audit = AuditLog.open(file)
  const commit = new GroupCommit(database, audit)
  t.teardown(() => closeDatabase(database))
  const put = (name: string) => () =>
    void database.prepare("INSERT INTO facts (name, value) VALUES (?, x'00')").run(name)
  const names = () =>
    (
      database.prepare("SELECT name FROM facts WHERE name <> 'audit-head' ORDER BY name").all() as {
        name: string
      }[]
    ).map(({ name }) => name)
  return { commit, database, put, names, log: () => readFileSync(file, 'utf8') }
}

const record = (operation: string) => ({ time: new Date().toISOString(), operation, result: 'Success' })

test('nothing is written before the turn ends; then log and store are', async (t) => {
  const { commit, put, names, log } = opened(t)
  for (const name of ['a', 'b', 'c']) {
    commit.write(put(name))
    commit.record(record(name))
  }
  t.is(log(), '')
  await commit.settled()
  t.deepEqual(names(), ['a', 'b', 'c'])
  t.is(log().trimEnd().split('\n').length, 3)
})

test('what throws is undone alone', async (t) => {
  const { commit, put, names } = opened(t)
  commit.write(put('a'))
  t.throws(
    () =>
      commit.write(() => {
        put('b')()
        put('a')()
      }),
    { any: true, code: 'SQLITE_CONSTRAINT_PRIMARYKEY' },
  )
  commit.write(put('c'))
  commit.record(record('x'))
  await commit.settled()
  t.deepEqual(names(), ['a', 'c'])
})

test('a group that cannot be committed is undone, said so in the log, and the next one goes on', async (t) => {
  const { commit, database, put, names, log } = opened(t)
  let forgotten = 0
  commit.onUndone(() => forgotten++)
  commit.write(put('a'))
  // A foreign key that is missing at the commit.
  database.pragma('defer_foreign_keys = ON')
  commit.write(() => void database.exec("INSERT INTO records VALUES ('nobody', 1, x'00')"))
  commit.record(record('a'))
  await t.throwsAsync(commit.settled(), { any: true, code: 'SQLITE_CONSTRAINT_FOREIGNKEY' })
  t.is(forgotten, 1)
  t.deepEqual(names(), [])
  commit.write(put('b'))
  commit.record(record('b'))
  await commit.settled()
  t.deepEqual(names(), ['b'])
  t.regex(log(), /"Undone"/)
})

test('a log that cannot be written undoes its group', async (t) => {
  const { commit, put, names } = opened(t, '/dev/full')
  commit.write(put('a'))
  commit.record(record('a'))
  await t.throwsAsync(commit.settled(), { code: 'ENOSPC' })
  t.deepEqual(names(), [])
})

test('an operation of the KMS itself does not wait for the turn', (t) => {
  const { commit, put, names, log } = opened(t)
  commit.write(put('a'))
  commit.writeNow(put('b'), () => record('b'))
  t.deepEqual(names(), ['a', 'b'])
  t.regex(log(), /"operation":"b"/)
})

test('a name is unique among the operations of one group', async (t) => {
  const { client } = await startWithClient(t)
  const attributes = [{ name: 'Name', value: { NameValue: 'a', NameType: 'UninterpretedTextString' } }]
  const results = await Promise.allSettled(Array.from({ length: 8 }, () => client.create({ attributes })))
  t.is(results.filter(({ status }) => status === 'fulfilled').length, 1)
  t.is((await client.locate({ name: 'a' })).length, 1)
})
