/** Four ways to become a client, and what a client may do. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import type { KmsOperationName } from '../../src/kms/permissions.js'
import { native } from '../../src/native/load.js'
import { connect, refusal, startKms, startWithClient, temporaryDirectory } from './running-kms.js'

/** An authority of somebody else, and what issues clients under it. */
function foreignAuthority(t: ExecutionContext) {
  const directory = temporaryDirectory(t)
  const keyFile = join(directory, 'ca.key')
  const certificate = native.createAuthority('corporate', keyFile)
  let number = 0
  const issue = (commonName: string) => {
    const privateKeyFile = join(directory, `${number++}.key`)
    return {
      certificate: native.issueClientCertificate(certificate, keyFile, commonName, privateKeyFile),
      privateKeyFile,
    }
  }
  return { certificate, issue }
}

async function caOf(kms: Awaited<ReturnType<typeof startKms>>): Promise<{ caCertificate: string }> {
  const { caCertificate } = await kms.enrol('somebody')
  return { caCertificate }
}

test('a request is signed: the key never leaves the client', async (t) => {
  const kms = await startKms(t)
  const privateKeyFile = join(temporaryDirectory(t), 'client.key')
  const request = native.createCertificateRequest('whatever it calls itself', privateKeyFile)
  const signed = await kms.enrolRequest('vcenter', request)
  const client = await connect(t, kms, { ...signed, privateKeyFile })
  await client.create()
  t.like(kms.clients[0], { name: 'vcenter', enabled: true })
  const [certificate] = kms.clients[0]?.certificates ?? []
  t.is(certificate?.origin, 'signed')
  t.true((certificate?.expires?.getTime() ?? 0) > Date.now())
  await t.throwsAsync(kms.enrolRequest('other', request), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(kms.enrolRequest('other', 'no request'), { code: 'VMSEAL_CERTIFICATE_INVALID' })
  await t.throwsAsync(kms.enrolRequest('other', signed.certificate), { code: 'VMSEAL_CERTIFICATE_INVALID' })
  await t.throwsAsync(kms.enrolRequest('../other', request), { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.is(kms.clients.length, 1)
})

test('a self-signed certificate is pinned; one that is not is refused', async (t) => {
  const kms = await startKms(t)
  const ca = await caOf(kms)
  const directory = temporaryDirectory(t)
  const credentials = (name: string) => {
    const privateKeyFile = join(directory, `${name}.key`)
    return { ...ca, certificate: native.createSelfSignedClient(name, privateKeyFile), privateKeyFile }
  }
  const [pinned, stranger] = [credentials('vcenter'), credentials('vcenter-2')]
  await t.throwsAsync(connect(t, kms, pinned), { code: 'VMSEAL_KMIP_TLS' })
  await kms.pin('vcenter', pinned.certificate)
  const client = await connect(t, kms, pinned)
  const { id } = await client.create()
  await t.throwsAsync(connect(t, kms, stranger), { code: 'VMSEAL_KMIP_TLS' })
  t.is(kms.clients.find(({ name }) => name === 'vcenter')?.certificates[0]?.origin, 'pinned')
  await t.throwsAsync(kms.pin('again', pinned.certificate), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(kms.pin('again', 'no certificate'), { code: 'VMSEAL_CERTIFICATE_INVALID' })
  kms.disable('vcenter')
  await t.throwsAsync(client.get(id))
})

test('clients of an uploaded authority are recorded at first contact, each key one client', async (t) => {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  const ca = await caOf(kms)
  const authority = foreignAuthority(t)
  const [one, two] = [authority.issue('vcenter'), authority.issue('vcenter')]
  await t.throwsAsync(connect(t, kms, { ...ca, ...one }), { code: 'VMSEAL_KMIP_TLS' })
  const keyHash = await kms.trustAuthority(authority.certificate)
  t.like(kms.authorities[0], { keyHash, subject: kms.authorities[0]?.subject ?? '' })
  const [first, second] = [await connect(t, kms, { ...ca, ...one }), await connect(t, kms, { ...ca, ...two })]
  const { id } = await first.create()
  t.is(await refusal(t, second.get(id)), 'ItemNotFound', 'one name, two keys: two clients')
  const admitted = kms.clients.filter(({ name }) => name.startsWith('vcenter-'))
  t.is(admitted.length, 2)
  t.true(admitted.every(({ certificates }) => certificates[0]?.origin === 'authority'))
  t.is(readFileSync(join(directory, 'audit.log'), 'utf8').match(/"operation":"Admit"/g)?.length, 2)

  kms.distrustAuthority(keyHash)
  await t.throwsAsync(first.get(id))
  await t.throwsAsync(connect(t, kms, { ...ca, ...one }), { code: 'VMSEAL_KMIP_TLS' })
  t.throws(() => kms.distrustAuthority(keyHash), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(kms.trustAuthority('no certificate'), { code: 'VMSEAL_CERTIFICATE_INVALID' })
})

test('a rule says who of an authority becomes a client, and what they may do', async (t) => {
  const kms = await startKms(t)
  const ca = await caOf(kms)
  const authority = foreignAuthority(t)
  await kms.trustAuthority(authority.certificate, { commonNames: ['backup'], operations: ['Get', 'Locate'] })
  const backup = await connect(t, kms, { ...ca, ...authority.issue('backup') })
  t.deepEqual(await backup.locate(), [])
  t.is(await refusal(t, backup.create()), 'PermissionDenied')
  const other = await connect(t, kms, { ...ca, ...authority.issue('other') }, { protocolVersions: ['1.2'] })
  t.is(await refusal(t, other.locate()), 'AuthenticationNotSuccessful')
})

test('a certificate of our own authority that is not recorded stays out, whoever else is let in', async (t) => {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  const { caCertificate } = await kms.enrol('vcenter')
  await kms.trustAuthority(foreignAuthority(t).certificate)
  const privateKeyFile = join(directory, 'stranger.key')
  const caKey = join(directory, 'ca.key')
  const certificate = native.issueClientCertificate(caCertificate, caKey, 'vcenter', privateKeyFile)
  await t.throwsAsync(connect(t, kms, { caCertificate, certificate, privateKeyFile }), {
    code: 'VMSEAL_KMIP_TLS',
  })
})

test('trust lasts over a restart', async (t) => {
  const directory = temporaryDirectory(t)
  const first = await startKms(t, directory)
  const ca = await caOf(first)
  const authority = foreignAuthority(t)
  await first.trustAuthority(authority.certificate)
  const privateKeyFile = join(temporaryDirectory(t), 'pinned.key')
  const certificate = native.createSelfSignedClient('vcenter', privateKeyFile)
  await first.pin('vcenter', certificate)
  await first.stop()
  const second = await startKms(t, directory)
  const pinned = await connect(t, second, { ...ca, certificate, privateKeyFile })
  t.deepEqual(await pinned.locate(), [])
  const admitted = await connect(t, second, { ...ca, ...authority.issue('new') })
  t.deepEqual(await admitted.locate(), [])
})

test('a client may do what is allowed, on its open connection from the next request on', async (t) => {
  const { kms, client } = await startWithClient(t)
  const { id } = await client.create()
  kms.allow('vcenter', ['GetAttributes', 'Create'])
  t.is(await refusal(t, client.get(id)), 'PermissionDenied')
  t.is(await refusal(t, client.activate(id)), 'PermissionDenied')
  t.is(await refusal(t, client.addAttribute(id, { name: 'x-A', value: 'a' })), 'PermissionDenied')
  t.is(await refusal(t, client.locate()), 'PermissionDenied')
  await client.create()
  t.deepEqual(kms.clients[0]?.operations, ['GetAttributes', 'Create'])
  kms.allow('vcenter', undefined)
  ;(await client.get(id)).key.dispose()
  t.throws(() => kms.allow('vcenter', ['Fly' as KmsOperationName]), { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.throws(() => kms.allow('nobody', []), { code: 'VMSEAL_NOT_FOUND' })
})

test('a grant opens one key for some operations, each checked by its own name', async (t) => {
  const { kms, client } = await startWithClient(t)
  const other = await connect(t, kms, await kms.enrol('other'))
  const { id } = await client.create()
  const hidden = (await client.create()).id
  kms.grant(id, 'other', ['Get', 'Locate'])
  ;(await other.get(id)).key.dispose()
  t.deepEqual(await other.locate(), [id])
  t.is(await refusal(t, other.get(hidden)), 'ItemNotFound')
  for (const refused of [
    other.activate(id),
    other.revoke(id, 'KeyCompromise'),
    other.destroy(id),
    other.addAttribute(id, { name: 'x-A', value: 'a' }),
    other.getAttributes(id),
  ])
    t.is(await refusal(t, refused), 'PermissionDenied')
  t.deepEqual(kms.grants, [{ client: 'other', keyId: id, operations: ['Get', 'Locate'] }])

  kms.revokeGrant(id, 'other')
  t.is(await refusal(t, other.get(id)), 'ItemNotFound')
  t.deepEqual(await other.locate(), [])

  kms.grant('all', 'other', ['Get', 'Locate'])
  t.deepEqual(await other.locate(), [id, hidden])
  ;(await other.get(hidden)).key.dispose()
  t.is(await refusal(t, other.destroy(hidden)), 'PermissionDenied')
})

test('refused: grants of what is not there', async (t) => {
  const { kms, client } = await startWithClient(t)
  const { id } = await client.create()
  t.throws(() => kms.grant(id, 'nobody', ['Get']), { code: 'VMSEAL_NOT_FOUND' })
  t.throws(() => kms.grant('nothing', 'vcenter', ['Get']), { code: 'VMSEAL_NOT_FOUND' })
  t.throws(() => kms.grant(id, 'vcenter', []), { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.throws(() => kms.grant(id, 'vcenter', ['Query' as KmsOperationName]), { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.throws(() => kms.revokeGrant(id, 'vcenter'), { code: 'VMSEAL_NOT_FOUND' })
  t.deepEqual(kms.grants, [])
})
