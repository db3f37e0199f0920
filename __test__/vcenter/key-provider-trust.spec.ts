/** Rows H3 and H4 of the feature table: trust in both directions, step by step. */
import test from 'ava'
import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { inspect } from 'node:util'
import { kmipFailure } from '../../src/kmip/failure.js'
import { openSite } from './site.js'
import { startTrustingServer } from './trusting-server.js'

async function openProvider(t: Parameters<typeof openSite>[0]) {
  const site = await openSite(t, { hosts: [], provider: false })
  const server = await startTrustingServer(t)
  const { keyProviders } = site.vcenter
  const address = { host: server.host, port: server.port }
  await keyProviders.add({ id: 'p', servers: address })
  const trusts = async () => {
    const status = await keyProviders.status('p')
    return [status.servers[0]?.clientTrustServer, status.servers[0]?.serverTrustClient]
  }
  const keyFiles = async () =>
    (await readdir(path.join(site.directory, 'vcenter', 'credentials')).catch(() => [])).length
  return { site, server, keyProviders, address, trusts, keyFiles }
}

const invalid = { code: 'VMSEAL_CERTIFICATE_INVALID' } as const

test('H3: the certificate is fetched, shown and trusted; before that nothing is sent, and a changed one is refused', async (t) => {
  const { site, server, keyProviders, address, trusts } = await openProvider(t)
  const { serverTrust, clientCertificates } = keyProviders
  await clientCertificates.upload('p', server.issue('vcenter'))
  t.deepEqual(await trusts(), [false, undefined])
  const shown = await serverTrust.fetch('p', address)
  t.like(shown, { trusted: false, info: { issuer: 'CN=test authority' } })
  t.true(shown.info.daysToExpiry > 300)
  await t.throwsAsync(keyProviders.keys.create(), {
    code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE',
    message: /fetch it, look at it, and trust it/,
  })
  t.deepEqual(server.asked, [])

  await serverTrust.trust('p', address, `${shown.certificate}${server.authority}`)
  t.true((await serverTrust.fetch('p', address)).trusted)
  t.deepEqual(await trusts(), [true, true])

  // Another certificate under the same authority, at the same place.
  const asked = server.asked.length
  await server.restart({ newCertificate: true })
  t.false((await serverTrust.fetch('p', address)).trusted)
  t.deepEqual(await trusts(), [false, undefined])
  await t.throwsAsync(keyProviders.keys.create(), {
    code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE',
    message: /trust: .*another certificate/,
  })
  t.is(server.asked.length, asked)
  t.true(site.events.some(({ id }) => id === 'vmseal.kms.crypto.ServerNotTrusted'))

  const next = await serverTrust.fetch('p', address)
  await serverTrust.trust('p', address, `${next.certificate}${server.authority}`)
  t.deepEqual(await trusts(), [true, true])
  t.is((await serverTrust.list('p', address)).length, 2)
  await serverTrust.distrust('p', address)
  t.deepEqual(await trusts(), [false, undefined])

  await t.throwsAsync(serverTrust.trust('p', address, 'no PEM'), invalid)
  await t.throwsAsync(serverTrust.trust('p', { host: 'other', port: 1 }, shown.certificate), {
    code: 'VMSEAL_NOT_FOUND',
  })
  await server.stop()
  await t.throwsAsync(serverTrust.fetch('p', address), { code: 'VMSEAL_KMIP_CONNECTION' })
})

test('H4: a self-signed certificate, which the KMS pins', async (t) => {
  const { server, keyProviders, trusts, keyFiles } = await openProvider(t)
  const { clientCertificates } = keyProviders
  await keyProviders.setAuthority('p', server.authority)
  await t.throwsAsync(clientCertificates.useSelfSigned('p'), { code: 'VMSEAL_INVALID_STATE' })
  const old = await clientCertificates.generateSelfSigned('p')
  const certificate = await clientCertificates.generateSelfSigned('p')
  t.not(old, certificate)
  // Only the last one is kept, and is not in use yet.
  t.is(await keyFiles(), 1)
  t.is(await clientCertificates.get('p'), null)
  t.deepEqual(await clientCertificates.getPending('p'), { kind: 'self-signed', pem: certificate })
  await clientCertificates.useSelfSigned('p')
  t.is(await clientCertificates.get('p'), certificate)
  t.is(await clientCertificates.getPending('p'), null)
  t.deepEqual(await trusts(), [true, false])
  await server.restart({ pinned: [old] })
  t.deepEqual(await trusts(), [true, false])
  await server.restart({ pinned: [certificate] })
  t.deepEqual(await trusts(), [true, true])
})

test('H4: a request that the KMS signs; the answer to an older one, or to another’s, is refused', async (t) => {
  const { server, keyProviders, trusts, keyFiles } = await openProvider(t)
  const { clientCertificates } = keyProviders
  await keyProviders.setAuthority('p', server.authority)
  await t.throwsAsync(clientCertificates.installSigned('p', server.authority), {
    code: 'VMSEAL_INVALID_STATE',
  })
  const older = await clientCertificates.generateRequest('p')
  const request = await clientCertificates.generateRequest('p', { commonName: 'vcenter-1' })
  t.is(await keyFiles(), 1)
  await t.throwsAsync(clientCertificates.installSigned('p', server.sign(older)), invalid)
  await t.throwsAsync(clientCertificates.installSigned('p', server.issue('another').certificate), invalid)
  await t.throwsAsync(clientCertificates.installSigned('p', 'no PEM'), invalid)
  t.deepEqual(await clientCertificates.getPending('p'), { kind: 'request', pem: request })
  const answer = server.sign(request)
  await clientCertificates.installSigned('p', answer)
  t.deepEqual(await trusts(), [true, true])
  await t.throwsAsync(clientCertificates.installSigned('p', answer), { code: 'VMSEAL_INVALID_STATE' })

  // While the next one is prepared, the present one goes on.
  const later = await clientCertificates.generateRequest('p')
  t.deepEqual(await trusts(), [true, true])
  await clientCertificates.installSigned('p', server.sign(later))
  t.deepEqual(await trusts(), [true, true])
  t.is(await keyFiles(), 1)
})

test('H4: a pair that the KMS issued; one that does not match is refused and the present one stays', async (t) => {
  const { site, server, keyProviders, trusts, keyFiles } = await openProvider(t)
  const { clientCertificates } = keyProviders
  await keyProviders.setAuthority('p', server.authority)
  const [pair, other] = [server.issue('vcenter'), server.issue('other')]
  await clientCertificates.upload('p', pair)
  t.deepEqual(await trusts(), [true, true])
  const wrong = path.join(site.directory, 'wrong.key')
  await writeFile(wrong, 'this is no key')
  for (const privateKeyFile of [other.privateKeyFile, wrong, path.join(site.directory, 'none.key')])
    await t.throwsAsync(
      clientCertificates.upload('p', { certificate: pair.certificate, privateKeyFile }),
      invalid,
    )
  t.is(await keyFiles(), 1)
  t.deepEqual(await trusts(), [true, true])
  await t.throwsAsync(clientCertificates.upload('no-such', pair), { code: 'VMSEAL_NOT_FOUND' })
})

test('H7: user name and password go with every message, are kept in a file, and are not shown', async (t) => {
  const site = await openSite(t, { hosts: [], provider: false })
  const server = await startTrustingServer(t, {
    authenticate: (_caller, credential) => {
      if (credential?.username !== 'vcenter' || credential.password !== 'correct horse')
        throw kmipFailure('AuthenticationNotSuccessful', 'user name or password is wrong')
    },
  })
  const { keyProviders } = site.vcenter
  const { certificate, privateKeyFile } = server.issue('vcenter')
  const credentials = { caCertificate: server.authority, certificate, privateKeyFile }
  await keyProviders.add({ id: 'p', servers: { host: server.host, port: server.port }, credentials })
  const trusted = async () => (await keyProviders.status('p')).servers[0]?.serverTrustClient
  t.false(await trusted())
  await keyProviders.setLogin('p', { username: 'vcenter', password: 'wrong' })
  t.false(await trusted())
  await keyProviders.setLogin('p', { username: 'vcenter', password: 'correct horse' })
  t.true(await trusted())
  const shown = inspect([await keyProviders.list(), await keyProviders.doctor('p')], { depth: null })
  t.notRegex(shown, /correct horse/)
  const directory = path.join(site.directory, 'vcenter', 'credentials')
  const [file, ...others] = (await readdir(directory)).filter((name) => name.endsWith('.password'))
  t.deepEqual(others, [])
  t.is((await stat(path.join(directory, file ?? ''))).mode & 0o777, 0o600)
  // A password that is lost is named, and does not hang anybody.
  await rm(path.join(directory, file ?? ''))
  await t.throwsAsync(keyProviders.status('p'), { code: 'VMSEAL_STORE_INVALID', message: /set it again/ })
  await keyProviders.setLogin('p', null)
  t.false(await trusted())
  await keyProviders.remove('p')
  t.deepEqual(await readdir(directory), [])
})

test('H4: a private key is a 0600 file that nothing here shows, and is gone with its provider', async (t) => {
  const { site, keyProviders, keyFiles } = await openProvider(t)
  const { clientCertificates } = keyProviders
  await clientCertificates.generateSelfSigned('p')
  await clientCertificates.useSelfSigned('p')
  await clientCertificates.generateRequest('p')
  const directory = path.join(site.directory, 'vcenter', 'credentials')
  const shown = inspect(
    [
      await clientCertificates.get('p'),
      await clientCertificates.getPending('p'),
      await keyProviders.list(),
      await keyProviders.status('p'),
      await keyProviders.doctor('p'),
      await site.vcenter.events.list(),
    ],
    { depth: null },
  )
  t.notRegex(shown, /PRIVATE KEY/)
  for (const name of await readdir(directory)) {
    t.is((await stat(path.join(directory, name))).mode & 0o777, 0o600)
    const lines = (await readFile(path.join(directory, name), 'utf8')).split('\n')
    for (const line of lines.filter((text) => text.length > 20 && !text.startsWith('---')))
      t.false(shown.includes(line))
    t.false(shown.includes(name))
  }
  t.is(await keyFiles(), 2)
  await keyProviders.remove('p')
  t.is(await keyFiles(), 0)
})
