/** Rows F2 to F6 of the feature table: host encryption mode as tasks and administrators switch it. */
import test, { type ExecutionContext } from 'ava'
import { existsSync } from 'node:fs'
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Host, VmsealError } from '../../src/index.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { describeHostDump, extractHostDump } from '../../src/host/host-dumps.js'
import { EventLog } from '../../src/vcenter/events.js'
import { HostConnection, HostConnections } from '../../src/vcenter/host-connections.js'
import { HostEncryption } from '../../src/vcenter/host-encryption.js'
import { KeyDistribution } from '../../src/vcenter/key-distribution.js'
import { KeySealing } from '../../src/vcenter/key-sealing.js'
import { TaskKeys, homePart } from '../../src/vcenter/task-keys.js'
import { makeSafe } from '../host/fixture.js'
import { connectAsVCenter, keysAtKms } from './kms-view.js'
import { encryption, openSite, type Site } from './site.js'

const refused = new VmsealError('VMSEAL_INVALID_STATE', 'the user lacks Cryptographer.RegisterHost')

/** Hosts A, B and C, those in `safe` safe already, and the keys of one task for a user who may switch `allowed`. */
async function openCluster(t: ExecutionContext, safe: readonly string[], allowed: readonly string[]) {
  const site = await openSite(t, { hosts: [] })
  const store = openSqliteStore(':memory:')
  const events = new EventLog(store.events, () => new Date(), () => {}) // prettier-ignore
  await store.clusters.insert({ id: 'prod', name: 'prod', createdAt: '' })
  const connections = new HostConnections()
  const hosts = new Map<string, Host>()
  for (const name of ['A', 'B', 'C']) {
    const host = await Host.start({ name, datastores: {} })
    t.teardown(() => host.stop())
    if (safe.includes(name)) await makeSafe(host)
    const { hostId, bootId } = await host.identify()
    const record = { id: hostId, name, clusterId: 'prod', bootId, datastores: [], addedAt: '' }
    await store.hosts.save(record)
    connections.set(new HostConnection(host, await host.identify(), 'prod'))
    hosts.set(name, host)
  }
  t.teardown(() => store.close())
  const { keyProviders } = site.vcenter
  const sealing = new KeySealing(keyProviders, () => new Date())
  const hostEncryption = new HostEncryption({
    store,
    events,
    keyProviders,
    sealing,
    authorize: async ({ name }) => {
      if (!allowed.includes(name)) throw refused
    },
  })
  const distribution = new KeyDistribution({
    providers: keyProviders,
    events,
    sealing,
    encryption: hostEncryption,
  })
  const keys = new TaskKeys({ keyProviders, distribution, connections, hostEncryption, events })
  const provide = async (target: string) => {
    const plan = await keys.plan([homePart], {}, 'prod')
    const host = connections.require({ id: (hosts.get(target) as Host).id, name: target })
    const context = { signal: new AbortController().signal, step: () => {}, onProgress: () => {} }
    return (await keys.provide(plan, { id: '', name: 'db01', clusterId: 'prod' }, host, context)).get(
      homePart,
    )
  }
  const holders = async (): Promise<string> => {
    const found = []
    for (const [name, host] of hosts)
      found.push(
        `${name} ${(await host.identify()).cryptoState}${(await host.listKeys()).length > 0 ? ' key' : ''}`,
      )
    return found.join(', ')
  }
  return { site, provide, holders }
}

test('F2: A and B safe, C not: with leave to switch it, C is enabled and gets the key', async (t) => {
  const { provide, holders } = await openCluster(t, ['A', 'B'], ['A', 'B', 'C'])
  t.truthy(await provide('A'))
  t.is(await holders(), 'A safe key, B safe key, C safe key')
})

test('F2: A and B safe, C not: without leave the task succeeds, A and B have the key, C stays off', async (t) => {
  const { provide, holders } = await openCluster(t, ['A', 'B'], [])
  t.truthy(await provide('A'))
  t.is(await holders(), 'A safe key, B safe key, C incapable')
})

test('F2: none safe: the host that does the work has to be switched, else the task is refused and no key is made', async (t) => {
  const { site, provide, holders } = await openCluster(t, [], ['B'])
  const error = await t.throwsAsync(provide('A'))
  t.is(error, refused)
  t.is(site.seen('Create'), 0)
  t.is(await holders(), 'A incapable, B incapable, C incapable')
  t.truthy(await provide('B'))
  t.is(await holders(), 'A incapable, B safe key, C incapable')
})

function create(site: Site, name: string, more: object = {}) {
  const { vcenter, cluster } = site
  return vcenter.virtualMachines.create({ name, cluster, datastore: 'ds1', policy: encryption, disks: [], ...more }) // prettier-ignore
}

test('F2: a task switches every host of the cluster to safe by itself, each with a host key of its own', async (t) => {
  const site = await openSite(t, { safe: false })
  const plain = await site.vcenter.hosts.list()
  t.deepEqual(plain.map(({ cryptoState, cryptoKeyId }) => [cryptoState, cryptoKeyId]), [['incapable', undefined], ['incapable', undefined]]) // prettier-ignore
  await site.vcenter.virtualMachines.create({ name: 'plain', cluster: 'prod', datastore: 'ds1', disks: [] })
  t.is(site.seen('Create'), 0, 'a plain VM needs no encryption mode')
  await create(site, 'db01')
  const hosts = await site.vcenter.hosts.list()
  t.deepEqual(hosts.map(({ cryptoState }) => cryptoState), ['safe', 'safe']) // prettier-ignore
  t.is(new Set(hosts.map(({ cryptoKeyId }) => cryptoKeyId?.keyId)).size, 2)
  t.is(site.seen('Create'), 3, 'one key for the VM, one for each host')
  t.is(site.events.filter(({ id }) => id === 'com.vmware.vc.host.Crypto.Enabled').length, 2)
  await create(site, 'db02')
  t.is(site.seen('Create'), 1)
  t.deepEqual(await site.vcenter.keyProviders.keys.unused('kms-1'), [], 'host keys are in use')
})

test('F2: without a key provider the task is refused, and the host stays off', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'], provider: false })
  await t.throwsAsync(create(site, 'db01'), { code: 'VMSEAL_NO_DEFAULT_KEY_PROVIDER' })
  t.is((await site.vcenter.hosts.get('esx-1')).cryptoState, 'incapable')
  await t.throwsAsync(site.vcenter.hosts.configureCryptoKey('esx-1'), {
    code: 'VMSEAL_NO_DEFAULT_KEY_PROVIDER',
  })
})

test('F3: a host that joins is enabled, gets a host key and the key of every VM', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const keys = []
  for (const name of ['a', 'b', 'c']) keys.push((await (await create(site, name)).info()).homeKey)
  const joining = await Host.start({ name: 'esx-2', datastores: { ds1: site.datastore } })
  t.teardown(() => joining.stop())
  const sync = await site.cluster.addHost(joining)
  t.is(sync.cryptoState, 'safe')
  t.is(sync.pushed.length, 3)
  const sorted = (list: readonly ({ keyId: string } | undefined)[]) =>
    list.map((key) => `${key?.keyId}`).toSorted((a, b) => (a < b ? -1 : 1))
  t.deepEqual(sorted(await joining.listKeys()), sorted(keys))
  t.truthy((await site.vcenter.hosts.get('esx-2')).cryptoKeyId)

  // Where nothing is encrypted a host stays as it is.
  const lab = await site.vcenter.clusters.create('lab')
  const outside = await Host.start({ name: 'esx-9', datastores: {} })
  t.teardown(() => outside.stop())
  t.like(await lab.addHost(outside), { cryptoState: 'incapable', pushed: [], failed: [] })
})

test('F3: a host that restarts is safe again with the same host key', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const before = await site.vcenter.hosts.get('esx-1')
  await site.hosts[0]?.restart()
  t.is((await site.hosts[0]?.identify())?.cryptoState, 'incapable')
  t.is((await site.vcenter.hosts.reconnect('esx-1')).cryptoState, 'safe')
  t.deepEqual(await site.vcenter.hosts.get('esx-1'), before)
  t.is(site.seen('Create'), 0)
})

test('F3: a host key that the KMS lost is replaced, and the event names both', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const lost = (await site.vcenter.hosts.get('esx-1')).cryptoKeyId
  if (!lost) throw new Error('the set-up is not what the test needs')
  const client = await connectAsVCenter(site)
  await client.revoke(lost.keyId, 'CessationOfOperation')
  await client.destroy(lost.keyId)
  client.close()
  await site.hosts[0]?.restart()
  await site.vcenter.hosts.reconnect('esx-1')
  const { cryptoState, cryptoKeyId } = await site.vcenter.hosts.get('esx-1')
  t.is(cryptoState, 'safe')
  t.notDeepEqual(cryptoKeyId, lost)
  const id = 'com.vmware.vc.host.Crypto.HostKey.NewKey.KeyMissingOnKMS'
  t.deepEqual(site.events.find((event) => event.id === id)?.details, { host: 'esx-1', lost, key: cryptoKeyId }) // prettier-ignore
})

test('F3: while the KMS is down a restarted host stays incapable, with the reason on record', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  await create(site, 'db01')
  await site.kms.stop()
  await site.hosts[0]?.restart()
  const sync = await site.vcenter.hosts.reconnect('esx-1')
  t.is(sync.cryptoState, 'incapable')
  t.deepEqual(sync.failed.map(({ error }) => error.code), ['VMSEAL_KEY_PROVIDER_UNREACHABLE']) // prettier-ignore
  t.true(site.events.some(({ id }) => id === 'com.vmware.vc.host.Crypto.ReqEnable.KMSClusterError'))
})

test('F4: by hand with a key of the KMS, changed for another one, which opens the old dump', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const { hosts, keyProviders } = site.vcenter
  const dumpDirectory = path.join(site.directory, 'dumps')
  await mkdir(dumpDirectory)
  const host = await Host.start({ name: 'esx-1', datastores: {}, dumpDirectory })
  t.teardown(() => host.stop())
  await site.cluster.addHost(host)
  const core = path.join(site.directory, 'core')
  await writeFile(core, 'a dump of a host: this text is in plain sight')
  await t.throwsAsync(host.writeDump('early', core), { code: 'VMSEAL_INVALID_STATE' })
  await t.throwsAsync(hosts.changeHostKey('esx-1'), { code: 'VMSEAL_INVALID_STATE' })
  await t.throwsAsync(hosts.configureCryptoKey('esx-1', 'no such key'), { code: 'VMSEAL_KEY_MISSING_IN_KMS' })

  const own = await keyProviders.keys.create()
  await hosts.configureCryptoKey('esx-1', own.keyId)
  t.like(await hosts.get('esx-1'), { cryptoState: 'safe', cryptoKeyId: own })
  const dump = await host.writeDump('crash-1', core)
  t.deepEqual((await describeHostDump(dump)).key, own)
  const stream = await readFile(dump)
  t.false(stream.includes('plain sight'))
  // Nothing given: it keeps what it has.
  await hosts.configureCryptoKey('esx-1')
  t.deepEqual((await hosts.get('esx-1')).cryptoKeyId, own)

  t.deepEqual(await hosts.changeHostKey('esx-1'), { rewrapped: ['crash-1'], failed: [] })
  const { cryptoKeyId } = await hosts.get('esx-1')
  t.notDeepEqual(cryptoKeyId, own)
  t.deepEqual((await describeHostDump(dump)).key, cryptoKeyId)
  t.deepEqual(await readFile(dump), stream, 'the dump itself was not touched')
  const provider = await keyProviders.open('kms-1')
  const newKey = await provider.fetchKey(cryptoKeyId?.keyId ?? '')
  const oldKey = await provider.fetchKey(own.keyId)
  const opened = path.join(site.directory, 'opened')
  const otherKey = await t.throwsAsync<VmsealError>(
    extractHostDump(dump, { id: own, handle: oldKey }, opened),
    {
      code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
      message: new RegExp(`opens with host key ${cryptoKeyId?.keyId} .*, not with ${own.keyId}`),
    },
  )
  t.deepEqual(otherKey?.details.requiredKeys, [cryptoKeyId])
  // A key that is not what its id says.
  const posing = { id: cryptoKeyId ?? own, handle: oldKey }
  await t.throwsAsync(extractHostDump(dump, posing, opened), { code: 'VMSEAL_ENVELOPE_AUTHENTICATION' })
  t.false(existsSync(opened))
  t.deepEqual(
    await extractHostDump(dump, { id: cryptoKeyId ?? own, handle: newKey }, opened),
    await describeHostDump(dump),
  )
  t.is((await stat(opened)).mode & 0o777, 0o600)
  t.deepEqual(await readFile(opened), await readFile(core))
  newKey.dispose()
  oldKey.dispose()
  const event = site.events.find(({ id }) => id === 'com.vmware.vc.crypto.HostKeyUpdatedEvent')
  t.like(event?.details, { host: 'esx-1', key: cryptoKeyId, rewrapped: ['crash-1'], failed: [] })
})

test('F5: disabling by hand: not with an encrypted VM, real after a restart, and no encrypted VM meanwhile', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1', 'esx-2'] })
  const { hosts } = site.vcenter
  const vm = await create(site, 'db01', { host: 'esx-1' })
  await t.throwsAsync(hosts.disableEncryption('esx-1'), { code: 'VMSEAL_INVALID_STATE', message: /db01/ })
  t.is((await site.hosts[0]?.listKeys())?.length, 1, 'nothing was taken from it')

  await hosts.disableEncryption('esx-2')
  t.deepEqual(await site.hosts[1]?.listKeys(), [])
  const off = await hosts.get('esx-2')
  t.like(off, { cryptoState: 'pendingIncapable' })
  t.is(off.cryptoKeyId, undefined)
  await t.throwsAsync(hosts.disableEncryption('esx-2'), { code: 'VMSEAL_INVALID_STATE' })
  await t.throwsAsync(create(site, 'db02', { host: 'esx-2' }), { code: 'VMSEAL_INVALID_STATE', message: /Restart the host/ }) // prettier-ignore
  t.is((await keysAtKms(site, [])).length, 1)
  await t.throwsAsync(hosts.configureCryptoKey('esx-2'), { code: 'VMSEAL_INVALID_STATE' })
  await create(site, 'db03', { host: 'esx-1' })
  t.deepEqual(await site.hosts[1]?.listKeys(), [])

  await site.hosts[1]?.restart()
  t.like(await hosts.reconnect('esx-2'), { cryptoState: 'incapable', pushed: [], failed: [] })
  await create(site, 'db04', { host: 'esx-2' })
  t.is((await hosts.get('esx-2')).cryptoState, 'safe', 'the next task that needs it switches it on again')
  t.is((await vm.info()).cryptoState, 'unlocked')
})
