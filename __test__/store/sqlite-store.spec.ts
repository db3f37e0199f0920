import test from 'ava'
import Database from 'libsql'
import { randomUUID } from 'node:crypto'
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { DirectoryLock } from '../../src/store/directory-lock.js'
import { SqliteDatabase } from '../../src/store/sqlite-database.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import type { Store, VmRecord } from '../../src/store/store.js'

const encryptionPolicy = '4d5f673c-536f-11e6-beb8-9e71128cae77'

const folder = async (t: { teardown: (end: () => Promise<void>) => void }): Promise<string> => {
  const directory = await mkdtemp(path.join(tmpdir(), 'vmseal-store-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  return directory
}

const provider = (id: string) => ({
  id,
  servers: [{ host: '127.0.0.1', port: 5696 }],
  caCertificate: 'ca',
  certificate: 'certificate',
  privateKeyFile: `${id}.key`,
  addedAt: '2026-01-01T00:00:00.000Z',
})

async function withHost(store: Store): Promise<{ clusterId: string; hostId: string }> {
  const clusterId = randomUUID()
  const hostId = randomUUID()
  await store.clusters.insert({ id: clusterId, name: clusterId, createdAt: 'now' })
  await store.hosts.save({
    id: hostId,
    name: hostId,
    clusterId,
    bootId: 'b',
    datastores: ['ds1'],
    addedAt: 'now',
  })
  return { clusterId, hostId }
}

const vm = (place: { clusterId: string; hostId: string }, name: string, keyId: string): VmRecord => ({
  id: randomUUID(),
  revision: 1,
  name,
  ...place,
  datastore: 'ds1',
  vmx: `${name}/${name}.vmx`,
  homePolicyId: encryptionPolicy,
  homeKey: { keyId, providerId: 'kms-1' },
  homeGeneration: 2,
  formerKeys: [],
  cryptoState: 'unlocked',
  powerState: 'poweredOff',
  disks: [
    { diskId: randomUUID(), device: 'scsi0:0', file: 'a.vmdk', capacityBytes: 2 ** 45, policyId: encryptionPolicy, key: { keyId, providerId: 'kms-1' }, generation: 3 }, // prettier-ignore
    { diskId: randomUUID(), device: 'scsi0:1', file: 'b.vmdk', capacityBytes: 512, policyId: encryptionPolicy, key: null, generation: null }, // prettier-ignore
  ],
})

const task = (state: 'queued' | 'running' | 'success' | 'error' | 'cancelled') => ({
  id: state, name: 'n', entity: 'e', state, createdAt: 'c', startedAt: null, endedAt: null, errorCode: null,
  errorMessage: null, doneBytes: 5, totalBytes: 10,
}) // prettier-ignore

test('everything is there again after close and open', async (t) => {
  const file = path.join(await folder(t), 'x.db')
  const store = openSqliteStore(file)
  await store.keyProviders.insert(provider('kms-1'))
  const place = await withHost(store)
  const record = vm(place, 'db01', 'k1')
  await store.virtualMachines.insert(record)
  await store.events.append({ id: 'e', time: 'now', actor: 'alice', details: { keyId: 'k1' } })
  await store.close()

  const again = openSqliteStore(file)
  t.teardown(() => again.close())
  t.deepEqual(await again.keyProviders.list(), [provider('kms-1')])
  t.is(await again.keyProviders.getDefault(), 'kms-1')
  t.deepEqual(await again.virtualMachines.list(), [record])
  t.deepEqual(await again.virtualMachines.findByName('db01'), record)
  t.deepEqual(await again.virtualMachines.listByHost(place.hostId), [record])
  t.is(await again.virtualMachines.findByName('db02'), undefined)
  t.deepEqual(await again.events.list(0, 10), [
    { sequence: 1, id: 'e', time: 'now', actor: 'alice', details: { keyId: 'k1' } },
  ])
  t.like((await again.hosts.list())[0], { datastores: ['ds1'] })
})

test('the first provider is the default; a removed default is cleared; setting one again works', async (t) => {
  const store = openSqliteStore(path.join(await folder(t), 'x.db'))
  t.teardown(() => store.close())
  await store.keyProviders.insert(provider('b'))
  await store.keyProviders.insert(provider('a'))
  t.deepEqual((await store.keyProviders.list()).map(({ id }) => id), ['b', 'a']) // prettier-ignore
  t.is(await store.keyProviders.getDefault(), 'b')
  await store.keyProviders.setDefault('a')
  await store.keyProviders.remove('a')
  t.is(await store.keyProviders.getDefault(), null)
  await store.keyProviders.setDefault('b')
  await store.keyProviders.setDefault(null)
  t.is(await store.keyProviders.getDefault(), null)
  await t.throwsAsync(store.keyProviders.insert(provider('b')), { code: 'VMSEAL_ALREADY_EXISTS' })
})

test('a second provider does not take over from a default that was cleared', async (t) => {
  const store = openSqliteStore(path.join(await folder(t), 'x.db'))
  t.teardown(() => store.close())
  await store.keyProviders.insert(provider('a'))
  await store.keyProviders.setDefault(null)
  await store.keyProviders.insert(provider('b'))
  t.is(await store.keyProviders.getDefault(), null)
})

test('names are unique, and a VM with a disk that is refused leaves nothing', async (t) => {
  const store = openSqliteStore(path.join(await folder(t), 'x.db'))
  t.teardown(() => store.close())
  const place = await withHost(store)
  const record = vm(place, 'db01', 'k1')
  await store.virtualMachines.insert(record)
  await t.throwsAsync(store.virtualMachines.insert({ ...vm(place, 'db01', 'k2'), vmx: 'other' }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  const [disk] = record.disks
  if (!disk) throw new Error('the set-up is not what the test needs')
  await t.throwsAsync(store.virtualMachines.insert({ ...vm(place, 'db02', 'k2'), disks: [disk, disk] }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  await t.throwsAsync(store.virtualMachines.update({ ...record, disks: [disk, disk] }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  t.deepEqual(await store.virtualMachines.list(), [record])
  await t.throwsAsync(store.virtualMachines.insert({ ...vm(place, 'db03', 'k'), clusterId: 'none' }), {
    code: 'VMSEAL_INVALID_STATE',
  })
})

test('an update of an older revision changes nothing', async (t) => {
  const store = openSqliteStore(path.join(await folder(t), 'x.db'))
  t.teardown(() => store.close())
  const record = vm(await withHost(store), 'db01', 'k1')
  await store.virtualMachines.insert(record)
  t.true(await store.virtualMachines.update({ ...record, cryptoState: 'locked' }))
  t.false(await store.virtualMachines.update({ ...record, disks: [] }))
  t.deepEqual(await store.virtualMachines.findById(record.id), {
    ...record,
    revision: 2,
    cryptoState: 'locked',
  })
  await store.virtualMachines.remove(record.id)
  t.false(await store.virtualMachines.update(record))
  await store.close()
  await t.throwsAsync(store.virtualMachines.list(), { code: 'VMSEAL_INVALID_STATE' })
})

test('keys of a cluster are each there once, and those of another cluster are not', async (t) => {
  const store = openSqliteStore(path.join(await folder(t), 'x.db'))
  t.teardown(() => store.close())
  const [one, two] = [await withHost(store), await withHost(store)]
  await store.virtualMachines.insert(vm(one, 'a', 'k1'))
  await store.virtualMachines.insert(vm(one, 'b', 'k1'))
  const c = vm(one, 'c', 'k3')
  await store.virtualMachines.insert(c)
  await store.virtualMachines.insert(vm(two, 'd', 'k4'))
  const ids = async (cluster: string): Promise<string[]> =>
    (await store.virtualMachines.keysOfCluster(cluster)).map(({ keyId }) => keyId).toSorted()
  t.deepEqual(await ids(one.clusterId), ['k1', 'k3'])
  t.deepEqual(await ids(two.clusterId), ['k4'])
  await store.virtualMachines.remove(c.id)
  t.deepEqual(await ids(one.clusterId), ['k1'])
})

test('a host that is removed leaves its VMs without a host', async (t) => {
  const store = openSqliteStore(path.join(await folder(t), 'x.db'))
  t.teardown(() => store.close())
  const place = await withHost(store)
  await store.virtualMachines.insert(vm(place, 'a', 'k1'))
  await store.hosts.remove(place.hostId)
  t.is((await store.virtualMachines.findByName('a'))?.hostId, null)
})

test('bundled policies are there from the start', async (t) => {
  const store = openSqliteStore(path.join(await folder(t), 'x.db'))
  t.teardown(() => store.close())
  t.like(await store.storagePolicies.list(), [
    { name: 'Datastore Default', encryption: false, bundled: true },
    { id: encryptionPolicy, name: 'VM Encryption Policy', encryption: true, bundled: true },
  ])
  const taken = {
    id: randomUUID(), name: 'VM Encryption Policy', encryption: false, filtersBeforeEncryption: false, bundled: false, version: 1,
  } // prettier-ignore
  await t.throwsAsync(store.storagePolicies.insert(taken), { code: 'VMSEAL_ALREADY_EXISTS' })
})

test('a newer schema is refused and untouched; an older one is brought up', async (t) => {
  const directory = await folder(t)
  const file = path.join(directory, 'x.db')
  await openSqliteStore(file).close()
  const raw = new Database(file)
  raw.exec('PRAGMA user_version = 1000')
  raw.close()
  t.throws(() => openSqliteStore(file), { code: 'VMSEAL_STORE_INVALID', message: /schema version 1000/ })

  const small = path.join(directory, 'small.db')
  const first = 'CREATE TABLE a (n INTEGER)'
  SqliteDatabase.open(small, [first]).close()
  const upgraded = SqliteDatabase.open(small, [first, 'CREATE TABLE b (n INTEGER); INSERT INTO b VALUES (7)'])
  t.deepEqual(upgraded.all('SELECT n FROM b'), [{ n: 7 }])
  t.deepEqual(upgraded.first('PRAGMA user_version'), { user_version: 2 })
  upgraded.close()
})

test('a migration that fails leaves the old version whole', async (t) => {
  const file = path.join(await folder(t), 'x.db')
  const first = 'CREATE TABLE a (n INTEGER)'
  SqliteDatabase.open(file, [first]).close()
  t.throws(() =>
    SqliteDatabase.open(file, [first, 'CREATE TABLE b (n INTEGER); INSERT INTO nowhere VALUES (1)']),
  )
  const database = SqliteDatabase.open(file, [first])
  t.deepEqual(database.all(`SELECT name FROM sqlite_master WHERE name = 'b'`), [])
  database.close()
})

test('durability is on: WAL, synchronous FULL, foreign keys', async (t) => {
  const database = SqliteDatabase.open(path.join(await folder(t), 'x.db'), [])
  t.deepEqual(database.all('PRAGMA journal_mode'), [{ journal_mode: 'wal' }])
  t.deepEqual(database.all('PRAGMA synchronous'), [{ synchronous: 2 }])
  t.deepEqual(database.all('PRAGMA foreign_keys'), [{ foreign_keys: 1 }])
  database.close()
})

test('what is no database, or a broken one, is refused', async (t) => {
  const directory = await folder(t)
  const text = path.join(directory, 'text.db')
  await writeFile(text, 'this is no database at all\n'.repeat(500))
  t.throws(() => openSqliteStore(text), { code: 'VMSEAL_STORE_INVALID' })

  const cut = path.join(directory, 'cut.db')
  await openSqliteStore(cut).close()
  await rm(`${cut}-wal`, { force: true })
  await truncate(cut, 5000)
  await t.throwsAsync(async () => {
    const store = openSqliteStore(cut)
    try {
      await store.storagePolicies.list()
      await store.virtualMachines.list()
    } finally {
      await store.close()
    }
  })
  t.throws(() => openSqliteStore(path.join(directory, 'missing', 'x.db')), { code: 'VMSEAL_IO' })
})

test('a directory has one owner until it is released', async (t) => {
  const directory = await folder(t)
  const lock = DirectoryLock.acquire(directory)
  t.throws(() => DirectoryLock.acquire(directory), { code: 'VMSEAL_FILE_LOCKED' })
  lock.release()
  lock.release()
  DirectoryLock.acquire(directory).release()
})

test('tasks that were left behind are failed once; ended ones stay', async (t) => {
  const store = openSqliteStore(path.join(await folder(t), 'x.db'))
  t.teardown(() => store.close())
  for (const state of ['queued', 'running', 'success', 'error', 'cancelled'] as const)
    await store.tasks.save(task(state))
  t.is(await store.tasks.failUnfinished('end', 'VMSEAL_SHUTTING_DOWN', 'interrupted'), 2)
  t.is(await store.tasks.failUnfinished('end', 'VMSEAL_SHUTTING_DOWN', 'interrupted'), 0)
  const states = Object.fromEntries((await store.tasks.list(10)).map(({ id, state, endedAt }) => [id, [state, endedAt]])) // prettier-ignore
  t.deepEqual(states, {
    queued: ['error', 'end'], running: ['error', 'end'], success: ['success', null], error: ['error', null],
    cancelled: ['cancelled', null],
  }) // prettier-ignore
  t.deepEqual((await store.tasks.list(1)).map(({ id }) => id), ['cancelled']) // prettier-ignore
})

test('keys of an interrupted recrypt count as used, and generations outlive the registration', async (t) => {
  const store = openSqliteStore(path.join(await folder(t), 'x.db'))
  await store.keyProviders.insert(provider('kms-1'))
  const place = await withHost(store)
  const former = [{ keyId: 'former-1', providerId: 'kms-1' }, { keyId: 'former-2', providerId: 'kms-2' }] // prettier-ignore
  const record = { ...vm(place, 'db01', 'k1'), formerKeys: former }
  await store.virtualMachines.insert(record)
  t.deepEqual(await store.virtualMachines.findById(record.id), record)
  t.deepEqual(await store.virtualMachines.list(), [record])
  const keys = await store.virtualMachines.keysOfCluster(place.clusterId)
  t.deepEqual(keys.map(({ keyId }) => keyId).toSorted(), ['former-1', 'former-2', 'k1'])
  t.deepEqual((await store.virtualMachines.keysOfProvider('kms-1')).toSorted(), ['former-1', 'k1'])

  t.true(await store.virtualMachines.update({ ...record, homeGeneration: 7, formerKeys: [] }))
  t.deepEqual((await store.virtualMachines.findById(record.id))?.formerKeys, [])
  t.deepEqual(await store.virtualMachines.retiredGenerations(record.id), new Map())
  await store.virtualMachines.remove(record.id)
  const retired = await store.virtualMachines.retiredGenerations(record.id)
  t.deepEqual(Object.fromEntries(retired), { home: 7, [record.disks[0]!.diskId]: 3 })
  await store.close()
})

async function openJournal(t: Parameters<typeof folder>[0]): Promise<SqliteDatabase> {
  const file = path.join(await folder(t), 'journal.db')
  return SqliteDatabase.open(file, ['CREATE TABLE line (text TEXT PRIMARY KEY) STRICT'])
}

const write = (database: SqliteDatabase, text: string) => (): string => {
  database.run('INSERT INTO line VALUES (@text)', { text })
  return text
}
const lines = (database: SqliteDatabase): string[] =>
  database.all<{ text: string }>('SELECT text FROM line ORDER BY rowid').map(({ text }) => text)

test('what is asked for in one turn is committed together, in the order of asking', async (t) => {
  const database = await openJournal(t)
  t.teardown(() => database.close())
  const texts = Array.from({ length: 64 }, (_, index) => `line ${index}`)
  const written = texts.map((text) => database.inGroup(write(database, text)))
  t.deepEqual(lines(database), [], 'nothing is told before it is done')
  t.deepEqual(await Promise.all(written), texts)
  t.deepEqual(lines(database), texts)
})

test('one of a group that fails leaves nothing of itself and takes nothing of the others', async (t) => {
  const database = await openJournal(t)
  t.teardown(() => database.close())
  const refused = new Error('refused')
  const outcomes = await Promise.allSettled([
    database.inGroup(write(database, 'first')),
    database.inGroup(write(database, 'first')),
    database.inGroup(() => {
      write(database, 'half')()
      throw refused
    }),
    database.inGroup(write(database, 'last')),
  ])
  t.deepEqual(
    outcomes.map((outcome) => (outcome.status === 'rejected' ? (outcome.reason as { code?: string }).code : outcome.value)), // prettier-ignore
    ['first', 'VMSEAL_ALREADY_EXISTS', undefined, 'last'],
  )
  t.is((outcomes[2] as PromiseRejectedResult).reason, refused)
  t.deepEqual(lines(database), ['first', 'last'])
  await t.throwsAsync(database.inGroup(write(database, 'last')), { code: 'VMSEAL_ALREADY_EXISTS' })
  t.deepEqual(lines(database), ['first', 'last'])
})

test('a group that cannot be committed fails as a whole, and the next one does not', async (t) => {
  const database = await openJournal(t)
  t.teardown(() => database.close())
  const { transaction } = SqliteDatabase.prototype
  const full = new Error('the disk is full')
  database.transaction = () => {
    throw full
  }
  const outcomes = await Promise.allSettled([
    database.inGroup(write(database, 'a')),
    database.inGroup(write(database, 'b')),
  ])
  t.deepEqual(outcomes.map((outcome) => (outcome as PromiseRejectedResult).reason as unknown), [full, full]) // prettier-ignore
  database.transaction = transaction
  await database.inGroup(write(database, 'c'))
  t.deepEqual(lines(database), ['c'])
})

test('what waits for its group when a database is closed is written; what comes later is refused', async (t) => {
  const file = path.join(await folder(t), 'journal.db')
  const schema = ['CREATE TABLE line (text TEXT PRIMARY KEY) STRICT']
  const database = SqliteDatabase.open(file, schema)
  const written = database.inGroup(write(database, 'last words'))
  database.close()
  t.is(await written, 'last words')
  await t.throwsAsync(database.inGroup(write(database, 'too late')), { code: 'VMSEAL_INVALID_STATE' })
  const again = SqliteDatabase.open(file, schema)
  t.teardown(() => again.close())
  t.deepEqual(lines(again), ['last words'])
})
