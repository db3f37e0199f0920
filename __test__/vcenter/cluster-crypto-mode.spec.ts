/** Row F7: the crypto mode of a cluster, on demand or forced, with a host key or a key provider of its own. */
import test from 'ava'
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { Host, Kms, VCenter, type ClusterCryptoMode } from '../../src/index.js'
import { connectAsVCenter } from './kms-view.js'
import { encryption, openSite, type Site } from './site.js'

const hosts = ['esx-1', 'esx-2']
const statesOf = async ({ vcenter }: Pick<Site, 'vcenter'>) =>
  Object.fromEntries((await vcenter.hosts.list()).map(({ name, cryptoState }) => [name, cryptoState]))
const keysOf = async ({ vcenter }: Pick<Site, 'vcenter'>) =>
  (await vcenter.hosts.list()).map(({ cryptoKeyId }) => cryptoKeyId)

async function addProvider(t: Parameters<typeof openSite>[0], { directory, vcenter }: Site, id: string) {
  const kms = await Kms.start({ directory: path.join(directory, id) })
  t.teardown(() => kms.stop())
  await vcenter.keyProviders.add({ id, servers: [kms.endpoint], credentials: await kms.enrol('vcenter') })
}

async function startHost(
  t: Parameters<typeof openSite>[0],
  { datastore }: Site,
  name: string,
): Promise<Host> {
  const host = await Host.start({ name, datastores: { ds1: datastore } })
  t.teardown(() => host.stop())
  return host
}

test('F7: on demand is the default and what "" means: no host is switched before a task needs it', async (t) => {
  const site = await openSite(t, { hosts, safe: false })
  const { cluster } = site
  t.deepEqual(await cluster.cryptoMode(), { mode: 'onDemand' })
  await cluster.setCryptoMode('forceEnable')
  t.is((await cluster.cryptoMode()).mode, 'forceEnable')
  site.operations.length = 0
  t.like(await cluster.setCryptoMode(''), { mode: 'onDemand' })
  t.deepEqual(await cluster.cryptoMode(), { mode: 'onDemand' })
  t.deepEqual(await statesOf(site), { 'esx-1': 'safe', 'esx-2': 'safe' }, 'what is safe stays so')

  const third = await startHost(t, site, 'esx-3')
  await cluster.addHost(third)
  t.is((await statesOf(site))['esx-3'], 'incapable')
  t.deepEqual(site.operations, [], 'the KMS is not asked for anything')
})

test('F7: forceEnable makes every connected host safe at once, each with a host key of its own', async (t) => {
  const site = await openSite(t, { hosts, safe: false })
  t.deepEqual(await statesOf(site), { 'esx-1': 'incapable', 'esx-2': 'incapable' })
  const change = await site.cluster.setCryptoMode('forceEnable')
  t.deepEqual(change.hosts.toSorted((a, b) => (a.host < b.host ? -1 : 1)), [
    { host: 'esx-1', cryptoState: 'safe' },
    { host: 'esx-2', cryptoState: 'safe' },
  ]) // prettier-ignore
  t.deepEqual(await statesOf(site), { 'esx-1': 'safe', 'esx-2': 'safe' })
  t.is(site.seen('Create'), 2)
  t.is(new Set((await keysOf(site)).map((key) => key?.keyId)).size, 2)
  t.like(site.events.find(({ id }) => id === 'vmseal.cluster.crypto.ModeChanged')?.details, {
    cluster: 'prod',
    mode: 'forceEnable',
  })
  await site.cluster.setCryptoMode('forceEnable')
  t.is(site.seen('Create'), 0, 'a host that is safe keeps its host key')
})

test('F7: a forced cluster stays so: for a host that joins, one that restarts, and after a restart of vCenter', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'], safe: false })
  const { cluster, vcenter } = site
  await cluster.setCryptoMode('forceEnable')
  const [before] = await keysOf(site)
  const joined = await cluster.addHost(await startHost(t, site, 'esx-2'))
  t.is(joined.cryptoState, 'safe', 'although no VM is encrypted')

  const [first] = site.hosts as [Host]
  await first.restart()
  t.is((await first.identify()).cryptoState, 'incapable')
  t.is((await vcenter.hosts.reconnect('esx-1')).cryptoState, 'safe')
  t.deepEqual((await keysOf(site))[0], before, 'the same host key')

  await vcenter.close()
  const again = await VCenter.open({ directory: path.join(site.directory, 'vcenter') })
  t.teardown(() => again.close())
  t.deepEqual(await (await again.clusters.get('prod')).cryptoMode(), { mode: 'forceEnable' })
  const late = await startHost(t, site, 'esx-3')
  t.is((await (await again.clusters.get('prod')).addHost(late)).cryptoState, 'safe')
})

test('F7: with a key every host that becomes safe has it as its host key, and it counts as used', async (t) => {
  const site = await openSite(t, { hosts, safe: false })
  const { cluster, vcenter } = site
  const client = await connectAsVCenter(site)
  t.teardown(() => client.close())
  const { id } = await client.create()
  await client.activate(id)
  const keyId = { providerId: 'kms-1', keyId: id }
  await cluster.setCryptoMode('onDemand', { keyId })
  t.deepEqual(await cluster.cryptoMode(), { mode: 'onDemand', keyId })
  t.deepEqual(await keysOf(site), [undefined, undefined])
  t.false((await vcenter.keyProviders.keys.unused('kms-1')).some(({ key }) => key.keyId === id))
  site.seen('Create')

  await vcenter.virtualMachines.create({ name: 'db01', cluster: 'prod', datastore: 'ds1', policy: encryption, disks: [] }) // prettier-ignore
  t.deepEqual(await keysOf(site), [keyId, keyId])
  t.is(site.seen('Create'), 1, 'the key of the VM')
})

test('F7: with a key provider host keys are made there, not at the default provider', async (t) => {
  const site = await openSite(t, { hosts, safe: false })
  await addProvider(t, site, 'kms-2')
  const change = await site.cluster.setCryptoMode('forceEnable', { providerId: 'kms-2' })
  t.is(change.providerId, 'kms-2')
  t.deepEqual((await keysOf(site)).map((key) => key?.providerId), ['kms-2', 'kms-2']) // prettier-ignore
  t.is(site.seen('Create'), 0)
})

test('F7: InvalidArgument: a key and a provider, another mode, no key; and a provider that there is not', async (t) => {
  const site = await openSite(t, { hosts, safe: false })
  const { cluster } = site
  const keyId = { providerId: 'kms-1', keyId: 'k' }
  const invalid = { code: 'VMSEAL_INVALID_ARGUMENT' }
  for (const mode of ['onDemand', 'forceEnable', ''] as const)
    await t.throwsAsync(cluster.setCryptoMode(mode, { keyId, providerId: 'kms-1' }), invalid)
  for (const mode of ['disabled', 'forceenable', ' ', undefined, null, 1])
    await t.throwsAsync(cluster.setCryptoMode(mode as ClusterCryptoMode), invalid)
  for (const wrong of ['k', { providerId: 'kms-1' }, { providerId: 'kms-1', keyId: '' }])
    await t.throwsAsync(cluster.setCryptoMode('forceEnable', { keyId: wrong as typeof keyId }), invalid)
  const absent = { code: 'VMSEAL_NOT_FOUND' }
  await t.throwsAsync(cluster.setCryptoMode('forceEnable', { providerId: 'kms-9' }), absent)
  await t.throwsAsync(cluster.setCryptoMode('onDemand', { keyId: { ...keyId, providerId: 'kms-9' } }), absent)
  t.deepEqual(await cluster.cryptoMode(), { mode: 'onDemand' })
  t.deepEqual(await statesOf(site), { 'esx-1': 'incapable', 'esx-2': 'incapable' })
  t.deepEqual(site.events, [])
  t.is(site.seen('Create'), 0)
})

test('F7: without any key provider nothing can be forced, and the mode stays', async (t) => {
  const { cluster } = await openSite(t, { hosts: ['esx-1'], provider: false })
  await t.throwsAsync(cluster.setCryptoMode('forceEnable'), { code: 'VMSEAL_NO_DEFAULT_KEY_PROVIDER' })
  t.deepEqual(await cluster.cryptoMode(), { mode: 'onDemand' })
})

test('F7: a host that cannot become safe does not hold up the others, and is named with its reason', async (t) => {
  const site = await openSite(t, { hosts: [...hosts, 'esx-3'], safe: false })
  await site.vcenter.hosts.configureCryptoKey('esx-2')
  await site.vcenter.hosts.disableEncryption('esx-2')
  const { hosts: told } = await site.cluster.setCryptoMode('forceEnable')
  t.deepEqual(
    told.map(({ host, cryptoState, error }) => [host, cryptoState, error]),
    [
      ['esx-1', 'safe', undefined],
      ['esx-2', 'pendingIncapable', 'VMSEAL_INVALID_STATE'],
      ['esx-3', 'safe', undefined],
    ],
  )
  // Its restart ends what was in the way.
  await (site.hosts[1] as Host).restart()
  t.is((await site.vcenter.hosts.reconnect('esx-2')).cryptoState, 'safe')
})

test('F7: while the KMS is down the mode is on record, and its hosts follow when it is back', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'], safe: false })
  const { port } = site.kms.endpoint
  await site.kms.stop()
  const { hosts: told } = await site.cluster.setCryptoMode('forceEnable')
  t.is(told[0]?.cryptoState, 'incapable')
  t.truthy(told[0]?.error)
  t.is((await site.cluster.cryptoMode()).mode, 'forceEnable')
  const kms = await Kms.start({ directory: path.join(site.directory, 'kms'), port })
  t.teardown(() => kms.stop())
  t.is((await site.vcenter.hosts.reconnect('esx-1')).cryptoState, 'safe')
})

test('F7: encryption mode of a host is not switched off while its cluster forces it', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'], safe: false })
  await site.cluster.setCryptoMode('forceEnable')
  await t.throwsAsync(site.vcenter.hosts.disableEncryption('esx-1'), { code: 'VMSEAL_INVALID_STATE' })
  t.is((await statesOf(site))['esx-1'], 'safe')
  await site.cluster.setCryptoMode('onDemand')
  await site.vcenter.hosts.disableEncryption('esx-1')
  t.is((await statesOf(site))['esx-1'], 'pendingIncapable')
})

test('F7: the mode is that of one cluster: hosts of another stay as they are', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'], safe: false })
  const folder = path.join(site.directory, 'ds2')
  await mkdir(folder)
  const other = await Host.start({ name: 'esx-9', datastores: { ds2: folder } })
  t.teardown(() => other.stop())
  await (await site.vcenter.clusters.create('lab')).addHost(other)
  await site.cluster.setCryptoMode('forceEnable')
  t.deepEqual(await statesOf(site), { 'esx-1': 'safe', 'esx-9': 'incapable' })
})
