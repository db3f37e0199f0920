/** What the store keeps of key providers besides their registration. */
import test from 'ava'
import path from 'node:path'
import { SqliteDatabase } from '../../src/store/sqlite-database.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { vcenterMigrations } from '../../src/store/vcenter-schema.js'
import { temporaryDirectory } from '../kms/running-kms.js'

const provider = (id: string) => ({
  id, servers: [{ host: 'h', port: 1 }], caCertificate: 'ca', certificate: 'c', privateKeyFile: 'k', addedAt: 'now',
}) // prettier-ignore
const pin = (keyHash: string) => ({
  providerId: 'a', host: 'h', port: 1, certificate: `pem ${keyHash}`, keyHash, trustedAt: 'now',
}) // prettier-ignore
const creation = (name: string) => ({ providerId: 'a', name, server: 'h:1', keyId: null, beganAt: 'now' })

test('trust, log-in and defaults go with their provider; Creates under way stay', async (t) => {
  const file = path.join(temporaryDirectory(t), 'db')
  const store = openSqliteStore(file)
  const { keyProviders, keyProviderTrust: trust, keyCreations } = store
  await keyProviders.insert(provider('a'))
  await keyProviders.setDefault('a', 'cluster-1')
  await trust.trustServer(pin('one'))
  await trust.trustServer(pin('two'))
  await trust.trustServer({ ...pin('two'), certificate: 'renewed' })
  const pending = {
    providerId: 'a',
    kind: 'request',
    pem: 'csr',
    privateKeyFile: 'f',
    createdAt: 'now',
  } as const
  await trust.setPending({ ...pending, pem: 'older' })
  await trust.setPending(pending)
  await trust.setLogin('a', { username: 'u', passwordFile: 'p' })
  await keyCreations.begin(creation('n1'))
  await keyCreations.begin(creation('n2'))
  await t.throwsAsync(keyCreations.begin(creation('n1')), { code: 'VMSEAL_ALREADY_EXISTS' })
  await keyCreations.found('n2', 'key-2')
  t.true(await trust.noteWarning('cert', 60))
  t.false(await trust.noteWarning('cert', 60))
  t.true(await trust.noteWarning('cert', 30))
  await keyProviders.update({ ...provider('a'), caCertificate: 'new ca' })
  await store.close()

  const again = openSqliteStore(file)
  t.teardown(() => again.close())
  t.like((await again.keyProviders.list())[0], { caCertificate: 'new ca' })
  t.deepEqual(await again.keyProviderTrust.listServers('a'), [
    pin('one'),
    { ...pin('two'), certificate: 'renewed' },
  ])
  t.deepEqual(await again.keyProviderTrust.getPending('a'), pending)
  t.deepEqual(await again.keyProviders.clustersOf('a'), ['cluster-1'])
  const creations = [creation('n1'), { ...creation('n2'), keyId: 'key-2' }]
  t.deepEqual(await again.keyCreations.list('a'), creations)
  t.deepEqual(await again.keyCreations.list('b'), [])
  t.false(await again.keyProviderTrust.noteWarning('cert', 60))

  await again.keyProviders.remove('a')
  t.deepEqual(await again.keyProviderTrust.listServers('a'), [])
  t.is(await again.keyProviderTrust.getPending('a'), null)
  t.is(await again.keyProviderTrust.getLogin('a'), null)
  t.is(await again.keyProviders.getDefault('cluster-1'), null)
  t.deepEqual(await again.keyCreations.list('a'), creations)
  await again.keyCreations.end('n1')
  t.deepEqual(await again.keyCreations.list('a'), creations.slice(1))
  await t.throwsAsync(again.keyProviderTrust.trustServer(pin('one')), { code: 'VMSEAL_INVALID_STATE' })
})

test('a database of the first schema opens with its providers', async (t) => {
  const file = path.join(temporaryDirectory(t), 'db')
  const old = SqliteDatabase.open(file, vcenterMigrations.slice(0, 1))
  old.run(
    `INSERT INTO key_provider (id, servers, ca_certificate, certificate, private_key_file, added_at)
     VALUES ('a', '[{"host":"h","port":1}]', 'ca', 'c', 'k', 'now')`,
  )
  old.close()
  const store = openSqliteStore(file)
  t.teardown(() => store.close())
  t.deepEqual(await store.keyProviders.list(), [provider('a')])
  t.deepEqual(await store.keyCreations.list('a'), [])
  t.is(await store.keyProviderTrust.getPending('a'), null)
})
