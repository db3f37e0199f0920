import { readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { native } from '../../src/native/load.js'
import { connect, refusal, startKms, startWithClient, temporaryDirectory } from './running-kms.js'

test('a client does not see the keys of another', async (t) => {
  const { kms, client } = await startWithClient(t)
  const other = await connect(t, kms, await kms.enrol('other'))
  const { id } = await client.create({ attributes: [{ name: 'x-Name', value: 'db01' }] })
  t.is(await refusal(t, other.get(id)), 'ItemNotFound')
  t.is(await refusal(t, other.getAttributes(id)), 'ItemNotFound')
  t.is(await refusal(t, other.addAttribute(id, { name: 'x-A', value: 'a' })), 'ItemNotFound')
  t.is(await refusal(t, other.activate(id)), 'ItemNotFound')
  t.is(await refusal(t, other.revoke(id, 'KeyCompromise')), 'ItemNotFound')
  t.is(await refusal(t, other.destroy(id)), 'ItemNotFound')
  t.deepEqual(await other.locate(), [])
  t.deepEqual(await other.locate({ attributes: [{ name: 'Unique Identifier', value: id }] }), [])
  t.deepEqual(await other.locate({ attributes: [{ name: 'x-Name', value: 'db01' }] }), [])
  t.deepEqual(await client.locate(), [id])
  t.deepEqual(await client.getAttributes(id, ['State']), [{ name: 'State', value: 'PreActive' }])
})

test('enrolling a name again gives another certificate for the same keys', async (t) => {
  const { kms, client, credentials } = await startWithClient(t)
  const { id } = await client.create()
  const again = await kms.enrol('vcenter')
  t.not(again.certificate, credentials.certificate)
  t.not(again.privateKeyFile, credentials.privateKeyFile)
  const renewed = await connect(t, kms, again)
  const [first, second] = [await client.get(id), await renewed.get(id)]
  t.true(first.key.equals(second.key))
  first.key.dispose()
  second.key.dispose()
  t.deepEqual(
    kms.clients.map(({ name, enabled }) => ({ name, enabled })),
    [{ name: 'vcenter', enabled: true }],
  )
})

test('credentials go where they are wanted, the key for its owner alone', async (t) => {
  const kms = await startKms(t)
  const directory = temporaryDirectory(t)
  const { privateKeyFile } = await kms.enrol('vcenter', { directory: join(directory, 'deep', 'er') })
  t.deepEqual(readdirSync(join(directory, 'deep', 'er')).toSorted(), ['ca.pem', 'client.key', 'client.pem'])
  t.is(statSync(privateKeyFile).mode & 0o777, 0o600)
})

test('refused: names that are no names', async (t) => {
  const kms = await startKms(t)
  for (const name of ['', '.', '..', 'a/b', '../x', 'a b', 'ä', 'x'.repeat(65), 'a\0b', 'a\n'])
    await t.throwsAsync(kms.enrol(name), { code: 'VMSEAL_INVALID_ARGUMENT' }, JSON.stringify(name))
  t.deepEqual(kms.clients, [])
})

test('refused: a directory for credentials that cannot be made', async (t) => {
  const kms = await startKms(t)
  const file = join(temporaryDirectory(t), 'file')
  writeFileSync(file, '')
  await t.throwsAsync(kms.enrol('vcenter', { directory: join(file, 'sub') }), { code: 'VMSEAL_IO' })
  t.deepEqual(kms.clients, [])
})

test('refused: a certificate of another authority, in the handshake', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const stranger = await (await startKms(t)).enrol('vcenter')
  await t.throwsAsync(connect(t, kms, { ...stranger, caCertificate: credentials.caCertificate }), {
    code: 'VMSEAL_KMIP_TLS',
  })
  await t.throwsAsync(connect(t, kms, { ...credentials, caCertificate: stranger.caCertificate }), {
    code: 'VMSEAL_KMIP_TLS',
  })
})

test('refused: a certificate of our authority that is not recorded', async (t) => {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  const { caCertificate } = await kms.enrol('vcenter')
  const privateKeyFile = join(directory, 'stranger.key')
  const certificate = native.issueClientCertificate(
    caCertificate,
    join(directory, 'ca.key'),
    'vcenter',
    privateKeyFile,
  )
  const stranger = { caCertificate, certificate, privateKeyFile }
  await t.throwsAsync(connect(t, kms, stranger), { code: 'VMSEAL_KMIP_TLS' })
})

test('refused: a disabled client, on its open connection too, until it is enabled', async (t) => {
  const { kms, client, credentials } = await startWithClient(t)
  const { id } = await client.create()
  kms.disable('vcenter')
  await t.throwsAsync(client.get(id))
  const refused = await connect(t, kms, credentials, { protocolVersions: ['1.2'] })
  t.is(await refusal(t, refused.get(id)), 'AuthenticationNotSuccessful')
  kms.enable('vcenter')
  const enabled = await connect(t, kms, credentials)
  ;(await enabled.get(id)).key.dispose()
  t.throws(() => kms.disable('nobody'), { code: 'VMSEAL_NOT_FOUND' })
})

test('the server proves itself under each of its names', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  for (const serverName of ['localhost', '127.0.0.1', '::1']) {
    const client = await connect(t, kms, credentials, { serverName })
    t.is(client.version, '1.4')
  }
  await t.throwsAsync(connect(t, kms, credentials, { serverName: 'kms.example' }), {
    code: 'VMSEAL_KMIP_TLS',
  })
})
