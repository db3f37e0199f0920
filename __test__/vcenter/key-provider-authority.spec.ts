/** Row H4, the fourth way: the KMS is given vCenter's own authority. */
import test from 'ava'
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { VCenter } from '../../src/index.js'
import { native } from '../../src/native/load.js'
import { openSite } from './site.js'

async function openProvider(t: Parameters<typeof openSite>[0]) {
  const site = await openSite(t, { hosts: [], provider: false })
  const { keyProviders } = site.vcenter
  await keyProviders.add({ id: 'p', servers: site.kms.endpoint })
  await keyProviders.setAuthority('p', site.credentials.caCertificate)
  const trusted = async () => (await keyProviders.status('p')).servers[0]?.serverTrustClient
  return { ...site, keyProviders, trusted, files: path.join(site.directory, 'vcenter', 'credentials') }
}

test('H4: a certificate under the authority that the KMS was given is let in, and no longer when it is taken back', async (t) => {
  const { kms, keyProviders, trusted } = await openProvider(t)
  const { clientCertificates } = keyProviders
  const authority = await clientCertificates.authority()
  const first = await clientCertificates.useIssued('p')
  t.is(native.describeCertificate(first).issuer, native.describeCertificate(authority).subject)
  t.is(await clientCertificates.get('p'), first)
  t.false(await trusted())
  await t.throwsAsync(keyProviders.keys.create(), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })

  const given = await kms.trustAuthority(authority, { commonNames: ['vcenter-1'] })
  t.false(await trusted(), 'another name')
  await clientCertificates.useIssued('p', { commonName: 'vcenter-1' })
  t.true(await trusted())
  const key = await keyProviders.keys.create()
  t.true((await keyProviders.keys.query([key]))[0]?.available)

  kms.distrustAuthority(given)
  t.false(await trusted())
  await t.throwsAsync(keyProviders.keys.create(), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
})

test('H4: one authority for all providers, also after a restart; its key is a 0600 file that nothing shows', async (t) => {
  const { vcenter, kms, keyProviders, directory, files } = await openProvider(t)
  await keyProviders.add({ id: 'q', servers: kms.endpoint })
  const made = await Promise.all(Array.from({ length: 4 }, () => keyProviders.clientCertificates.authority()))
  t.is(new Set(made).size, 1)
  const issued = await Promise.all(['p', 'q'].map((id) => keyProviders.clientCertificates.useIssued(id)))
  t.is(new Set(issued.map((pem) => native.describeCertificate(pem).keyHash)).size, 2)
  await t.throwsAsync(keyProviders.clientCertificates.useIssued('none'), { code: 'VMSEAL_NOT_FOUND' })
  // A certificate that follows takes the key of the one before away.
  await keyProviders.clientCertificates.useIssued('q')
  const keys = (await readdir(files)).filter((name) => name.endsWith('.key'))
  t.is(keys.length, 3)
  const shown = JSON.stringify([made, issued, await keyProviders.list(), await vcenter.events.list()])
  for (const name of await readdir(files)) {
    t.is((await stat(path.join(files, name))).mode & 0o777, 0o600)
    t.false(shown.includes(name))
  }
  t.notRegex(shown + (await readFile(path.join(files, 'authority.json'), 'utf8')), /PRIVATE KEY/)

  await vcenter.close()
  const again = await VCenter.open({ directory: path.join(directory, 'vcenter') })
  t.teardown(() => again.close())
  t.is(await again.keyProviders.clientCertificates.authority(), made[0] ?? '')
})

test('H4: an authority that is damaged is named, and the certificate in use stays', async (t) => {
  for (const text of ['', '{}', '{"certificate":"x","privateKeyFile":"a.key"}', '{"certificate":1}']) {
    const { keyProviders, files, credentials } = await openProvider(t)
    await keyProviders.clientCertificates.upload('p', credentials)
    await writeFile(path.join(files, 'authority.json'), text)
    const damaged = { code: 'VMSEAL_STORE_INVALID', message: /authority\.json/ } as const
    await t.throwsAsync(keyProviders.clientCertificates.authority(), damaged)
    await t.throwsAsync(keyProviders.clientCertificates.useIssued('p'), damaged)
    t.is(await keyProviders.clientCertificates.get('p'), credentials.certificate)
  }
})

test('H4: a key file outside the credentials is not taken for that of the authority', async (t) => {
  const { keyProviders, files, directory } = await openProvider(t)
  const elsewhere = path.join(directory, 'elsewhere.key')
  const certificate = native.createAuthority('another', elsewhere)
  await keyProviders.clientCertificates.generateRequest('p')
  const record = JSON.stringify({ certificate, privateKeyFile: '../../elsewhere.key' })
  await writeFile(path.join(files, 'authority.json'), record)
  await t.throwsAsync(keyProviders.clientCertificates.useIssued('p'), { code: 'VMSEAL_STORE_INVALID' })
  t.is(await keyProviders.clientCertificates.get('p'), null)
})
