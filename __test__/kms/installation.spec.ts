import { createHash } from 'node:crypto'
import { chmodSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import Database from 'libsql'
import { Kms } from '../../src/kms/kms.js'
import { native } from '../../src/native/load.js'
import { connect, startKms, temporaryDirectory } from './running-kms.js'

test('the first start makes everything, for the owner alone', async (t) => {
  const directory = join(temporaryDirectory(t), 'new', 'kms')
  const kms = await startKms(t, directory)
  t.is(kms.endpoint.host, '127.0.0.1')
  t.true(kms.endpoint.port > 0)
  t.is(statSync(directory).mode & 0o777, 0o700)
  for (const name of ['root.key', 'ca.key', 'server.key', 'kms.db', 'kms.db-wal', 'audit.log'])
    t.is(statSync(join(directory, name)).mode & 0o777, 0o600, name)
  t.true(readdirSync(directory).includes('ca.pem'))
})

test('the port can be chosen', async (t) => {
  const first = await startKms(t)
  const { port } = first.endpoint
  const directory = temporaryDirectory(t)
  await t.throwsAsync(Kms.start({ directory, port }), { code: 'VMSEAL_ADDRESS_UNAVAILABLE' })
  await first.stop()
  const second = await Kms.start({ directory, port })
  t.teardown(() => second.stop())
  t.is(second.endpoint.port, port)
})

test('a restart serves the same authority, clients and keys', async (t) => {
  const directory = temporaryDirectory(t)
  const first = await startKms(t, directory)
  const credentials = await first.enrol('vcenter')
  const client = await connect(t, first, credentials)
  const { id } = await client.create({ attributes: [{ name: 'x-Name', value: 'db01' }] })
  await client.activate(id)
  const before = await client.get(id)
  const attributes = await client.getAttributes(id)
  await first.stop()
  await first.stop()

  const second = await startKms(t, directory)
  const again = await connect(t, second, credentials)
  const after = await again.get(id)
  t.true(after.key.equals(before.key))
  t.deepEqual(await again.getAttributes(id), attributes)
  before.key.dispose()
  after.key.dispose()
})

test('a directory is served once at a time', async (t) => {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  await t.throwsAsync(Kms.start({ directory }), { code: 'VMSEAL_FILE_LOCKED' })
  const credentials = await kms.enrol('vcenter')
  await connect(t, kms, credentials)
  await kms.stop()
  await connect(t, await startKms(t, directory), credentials)
})

test('another host gives another server certificate under the same authority', async (t) => {
  const directory = temporaryDirectory(t)
  const first = await startKms(t, directory)
  const credentials = await first.enrol('vcenter')
  await first.stop()
  for (const host of ['127.0.0.2', '127.0.0.3']) {
    const kms = await Kms.start({ directory, host })
    t.teardown(() => kms.stop())
    await connect(t, kms, credentials, { serverName: host })
    await kms.stop()
  }
  t.is(readdirSync(directory).filter((name) => name.startsWith('server')).length, 1, 'the old key is gone')
})

test('refused: a directory that holds something else; it is left as it is', async (t) => {
  const directory = temporaryDirectory(t)
  writeFileSync(join(directory, 'letter.txt'), 'dear')
  chmodSync(directory, 0o755)
  await t.throwsAsync(Kms.start({ directory }), { code: 'VMSEAL_ALREADY_EXISTS' })
  t.deepEqual(readdirSync(directory), ['letter.txt'])
  t.is(statSync(directory).mode & 0o777, 0o755)
  await t.throwsAsync(Kms.start({ directory: join(directory, 'letter.txt') }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
})

async function stoppedKms(t: Parameters<typeof startKms>[0]): Promise<string> {
  const directory = temporaryDirectory(t)
  await (await startKms(t, directory)).stop()
  return directory
}

test('refused: a missing or foreign root key; no other is made in its place', async (t) => {
  const directory = await stoppedKms(t)
  const file = join(directory, 'root.key')
  const digest = createHash('sha256').update(readFileSync(file)).digest('hex')
  renameSync(file, `${file}.away`)
  await t.throwsAsync(Kms.start({ directory }), { code: 'VMSEAL_STORE_INVALID' })
  t.false(readdirSync(directory).includes('root.key'))
  native.KeyHandle.createFile(file, 32).dispose()
  await t.throwsAsync(Kms.start({ directory }), { code: 'VMSEAL_STORE_INVALID' })
  renameSync(`${file}.away`, file)
  await startKms(t, directory)
  t.is(createHash('sha256').update(readFileSync(file)).digest('hex'), digest)
})

test('refused: a missing authority key; a missing server key is replaced', async (t) => {
  const directory = await stoppedKms(t)
  renameSync(join(directory, 'ca.key'), join(directory, 'away'))
  await t.throwsAsync(Kms.start({ directory }), { code: 'VMSEAL_STORE_INVALID' })
  renameSync(join(directory, 'away'), join(directory, 'ca.key'))
  rmSync(join(directory, 'server.key'))
  const kms = await startKms(t, directory)
  await connect(t, kms, await kms.enrol('vcenter'))
})

test('refused: a store of a newer version, and one that is no store', async (t) => {
  const directory = await stoppedKms(t)
  const file = join(directory, 'kms.db')
  const database = new Database(file)
  database.exec('PRAGMA user_version = 99')
  database.close()
  await t.throwsAsync(Kms.start({ directory }), { code: 'VMSEAL_STORE_INVALID' })
  writeFileSync(file, 'no database'.repeat(1000))
  await t.throwsAsync(Kms.start({ directory }), { code: 'VMSEAL_STORE_INVALID' })
})

test('a first start that broke off is taken up again', async (t) => {
  const directory = await stoppedKms(t)
  const database = new Database(join(directory, 'kms.db'))
  database.exec('DELETE FROM facts')
  database.close()
  rmSync(join(directory, 'ca.pem'))
  const kms = await startKms(t, directory)
  const client = await connect(t, kms, await kms.enrol('vcenter'))
  t.truthy((await client.create()).id)
})
