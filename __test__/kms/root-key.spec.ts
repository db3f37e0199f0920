import { copyFileSync, existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { AuditLog } from '../../src/kms/audit-log.js'
import { closeDatabase, openDatabase } from '../../src/kms/database.js'
import { Facts } from '../../src/kms/facts.js'
import { GroupCommit } from '../../src/kms/group-commit.js'
import { Kms } from '../../src/kms/kms.js'
import { Keys } from '../../src/kms/keys.js'
import { RootKeys } from '../../src/kms/root-keys.js'
import { connect, startKms, startWithClient, temporaryDirectory } from './running-kms.js'

async function withKeys(t: ExecutionContext, count: number) {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  const credentials = await kms.enrol('vcenter')
  const client = await connect(t, kms, credentials)
  const ids: string[] = []
  for (let n = 0; n < count; n++) ids.push((await client.create()).id)
  return { directory, kms, client, credentials, ids }
}

const roots = (directory: string) =>
  readdirSync(directory)
    .filter((name) => name.startsWith('root'))
    .toSorted()

test('every record moves to the new root key while keys are in use', async (t) => {
  const { directory, kms, client, credentials, ids } = await withKeys(t, 250)
  const before = await client.get(ids[0] as string)
  let isRunning = true
  const reading = (async () => {
    let read = 0
    for (; isRunning; read++) (await client.get(ids[read % ids.length] as string)).key.dispose()
    return read
  })()
  await kms.rotateRootKey()
  isRunning = false
  t.true((await reading) > 0)
  t.deepEqual(roots(directory), ['root-2.key'])
  t.deepEqual(await kms.verify(), { keys: 250, ok: true, broken: [] })
  await kms.rotateRootKey()
  t.deepEqual(roots(directory), ['root-3.key'])
  await kms.stop()

  const again = await startKms(t, directory)
  const after = await (await connect(t, again, credentials)).get(ids[0] as string)
  t.true(after.key.equals(before.key))
  before.key.dispose()
  after.key.dispose()
})

test('a replacement that a crash broke off goes on at the next start', async (t) => {
  const { directory, kms, credentials, ids } = await withKeys(t, 250)
  await kms.stop()
  // Begins, moves one batch and ends as a crash does.
  const database = openDatabase(join(directory, 'kms.db'))
  const facts = new Facts(database)
  const halves = await RootKeys.open(directory, facts)
  const commit = new GroupCommit(
    database,
    AuditLog.open(join(directory, 'audit.log'), facts.getJson('audit-head')),
  )
  halves.begin(commit)
  let batches = 0
  await halves.move(new Keys(database, commit), commit, () => batches++ > 0)
  const under = database
    .prepare('SELECT root, COUNT(*) AS count FROM records GROUP BY root ORDER BY root')
    .all()
  t.deepEqual(under, [
    { root: 1, count: 150 },
    { root: 2, count: 100 },
  ])
  closeDatabase(database)
  halves.dispose()
  t.deepEqual(roots(directory), ['root-2.key', 'root.key'])

  const again = await startKms(t, directory)
  const client = await connect(t, again, credentials)
  for (const id of ids) (await client.get(id)).key.dispose()
  await again.stop()
  await (await startKms(t, directory)).stop()
  t.deepEqual(roots(directory), ['root-2.key'])
  t.true((await Kms.verifyAudit(directory)).ok)
})

test('a root key file that was made and not noted is made anew', async (t) => {
  const { directory, kms, client, ids } = await withKeys(t, 2)
  copyFileSync(join(directory, 'root.key'), join(directory, 'root-2.key'))
  await kms.rotateRootKey()
  ;(await client.get(ids[0] as string)).key.dispose()
  t.deepEqual(roots(directory), ['root-2.key'])
})

test('a record that does not open stays, with the root key it may be under', async (t) => {
  const { directory, kms, credentials, ids } = await withKeys(t, 3)
  await kms.stop()
  const database = openDatabase(join(directory, 'kms.db'))
  database.prepare("UPDATE records SET sealed = x'0102' WHERE key_id = ?").run(ids[1])
  closeDatabase(database)
  const again = await startKms(t, directory)
  t.deepEqual(await again.verify(), { keys: 3, ok: false, broken: [ids[1] as string] })
  const error = await t.throwsAsync(again.rotateRootKey(), { code: 'VMSEAL_SEALED_RECORD_INVALID' })
  t.regex(error?.message ?? '', new RegExp(ids[1] as string))
  t.deepEqual(roots(directory), ['root-2.key', 'root.key'])
  const client = await connect(t, again, credentials)
  ;(await client.get(ids[0] as string)).key.dispose()
})

test('verify names a key without a record', async (t) => {
  const { kms, client } = await startWithClient(t)
  t.deepEqual(await kms.verify(), { keys: 0, ok: true, broken: [] })
  const { id } = await client.create()
  await client.destroy((await client.create()).id)
  t.deepEqual(await kms.verify(), { keys: 1, ok: true, broken: [] })
  t.truthy(id)
})

test('a root key from a passphrase leaves no file', async (t) => {
  const directory = temporaryDirectory(t)
  const secret = () => new TextEncoder().encode('correct horse battery staple')
  const first = await Kms.start({ directory, passphrase: secret() })
  t.teardown(() => first.stop())
  const credentials = await first.enrol('vcenter')
  const client = await connect(t, first, credentials)
  const { id } = await client.create()
  await first.rotateRootKey()
  await first.stop()
  t.deepEqual(roots(directory), [])

  const wrong = new TextEncoder().encode('correct horse battery stable')
  for (const passphrase of [wrong, undefined]) {
    const error = await t.throwsAsync(Kms.start({ directory, ...(passphrase ? { passphrase } : {}) }), {
      code: 'VMSEAL_INVALID_ARGUMENT',
    })
    t.deepEqual((error as unknown as { details: object }).details, { subject: 'passphrase' })
  }
  t.true(
    wrong.every((byte) => byte === 0),
    'it is wiped',
  )

  const passphrase = secret()
  const second = await Kms.start({ directory, passphrase })
  t.teardown(() => second.stop())
  t.true(passphrase.every((byte) => byte === 0))
  ;(await (await connect(t, second, credentials)).get(id)).key.dispose()
})

test('refused: a passphrase for a store whose root key lies in a file', async (t) => {
  const { directory, kms } = await withKeys(t, 1)
  await kms.stop()
  await t.throwsAsync(Kms.start({ directory, passphrase: new Uint8Array(8) }), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
  t.true(existsSync(join(directory, 'root.key')))
  await startKms(t, directory)
})
