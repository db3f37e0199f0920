/** vCenter itself: what it keeps over a restart, what it makes of files that changed meanwhile, and its refusals. */
import test from 'ava'
import Database from 'libsql'
import { randomUUID } from 'node:crypto'
import { mkdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { Host, VCenter } from '../../src/index.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { encryption, openSite, plain } from './site.js'

test('after close and open everything is there; hosts are connected again, and no key is made', async (t) => {
  const site = await openSite(t)
  const directory = path.join(site.directory, 'vcenter')
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [{ capacityBytes: 2 ** 20 }],
  }) // prettier-ignore
  const before = await vm.info()
  await site.vcenter.close()
  await site.vcenter.close()
  await site.hosts[0]?.restart()
  site.seen('Create')

  const again = await VCenter.open({ directory })
  t.teardown(() => again.close())
  t.deepEqual((await again.keyProviders.list()).map(({ id, isDefault }) => [id, isDefault]), [['kms-1', true]]) // prettier-ignore
  const same = await again.virtualMachines.get('db01')
  t.is(same.id, vm.id)
  t.like(await same.info(), {
    connectionState: 'disconnected',
    homeKey: before.homeKey,
    cluster: 'prod',
    policy: encryption,
  })
  await t.throwsAsync(same.powerOn(), { code: 'VMSEAL_HOST_UNREACHABLE' })
  await t.throwsAsync(again.hosts.reconnect('esx-1'), { code: 'VMSEAL_HOST_UNREACHABLE' })
  const [first, second] = site.hosts
  if (!first || !second) throw new Error('the set-up is not what the test needs')
  t.like(await again.hosts.connect(first), { pushed: [before.homeKey], unlocked: ['db01'] })
  t.like(await (await again.clusters.get('prod')).addHost(second), { pushed: [] })
  t.deepEqual(await same.info(), before)
  t.is(site.seen('Create'), 0)
  const tasks = (await again.tasks.list()).filter(({ name }) => name !== 'Hosts.configureCryptoKey')
  t.deepEqual(tasks.map(({ name, state }) => [name, state]), [
    ['VirtualMachine.powerOn', 'error'],
    ['VirtualMachines.create', 'success'],
  ]) // prettier-ignore
  t.true((await again.events.list()).length > site.events.length - 1)
})

test('a task that an earlier vCenter left running is failed as interrupted', async (t) => {
  const { vcenter, directory } = await openSite(t, { hosts: [] })
  await vcenter.close()
  const store = openSqliteStore(path.join(directory, 'vcenter', 'vcenter.db'))
  await store.tasks.save({
    id: randomUUID(), name: 'VirtualMachine.applyPolicy', entity: 'db01', state: 'running', createdAt: 'c', startedAt: 's',
    endedAt: null, errorCode: null, errorMessage: null, doneBytes: 1, totalBytes: 2,
  }) // prettier-ignore
  await store.close()
  const again = await VCenter.open({ directory: path.join(directory, 'vcenter') })
  t.teardown(() => again.close())
  const [task] = await again.tasks.list()
  t.is(task?.state, 'error')
  t.regex(task?.errorMessage ?? '', /^interrupted/)
})

test('files are the truth: what changed behind the back of vCenter is taken over when the host is connected', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const [host] = site.hosts
  if (!host) throw new Error('the set-up is not what the test needs')
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [{ capacityBytes: 2 ** 20 }],
  }) // prettier-ignore
  const other = await site.vcenter.virtualMachines.create({
    name: 'db02', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [],
  }) // prettier-ignore
  const key = (await other.info()).homeKey
  if (!key) throw new Error('the set-up is not what the test needs')
  await site.vcenter.close()
  // As if vCenter had died after the host committed and before it could write that down.
  await host.reconfigureVirtualMachine(
    { datastore: 'ds1', vmx: 'db01/db01.vmx' },
    { home: { type: 'encrypt', key } },
  )
  const again = await VCenter.open({ directory: path.join(site.directory, 'vcenter') })
  t.teardown(() => again.close())
  const same = await again.virtualMachines.get('db01')
  t.is((await same.info()).homeKey, undefined)
  await again.hosts.connect(host)
  t.deepEqual((await same.info()).homeKey, key)
  t.is((await same.info()).policy, plain)
  t.like(await same.applyPolicy({ home: encryption }).done, { policy: encryption, homeKey: key })
  t.is(vm.id, same.id)
})

test('one vCenter to a directory, mode 0700; a newer database is refused', async (t) => {
  const { vcenter, directory } = await openSite(t, { hosts: [] })
  const home = path.join(directory, 'vcenter')
  await t.throwsAsync(VCenter.open({ directory: home }), { code: 'VMSEAL_FILE_LOCKED' })
  t.is((await stat(home)).mode & 0o777, 0o700)
  await vcenter.close()
  const raw = new Database(path.join(home, 'vcenter.db'))
  raw.exec('PRAGMA user_version = 99')
  raw.close()
  for (const _ of [1, 2])
    await t.throwsAsync(VCenter.open({ directory: home }), { code: 'VMSEAL_STORE_INVALID' })
})

test('hosts: they belong to one cluster, leave without keys, and come back with them', async (t) => {
  const site = await openSite(t)
  const [first, second] = site.hosts
  if (!first || !second) throw new Error('the set-up is not what the test needs')
  const lab = await site.vcenter.clusters.create('lab')
  await t.throwsAsync(site.vcenter.clusters.create('lab'), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(site.vcenter.clusters.get('none'), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(lab.addHost(first), { code: 'VMSEAL_INVALID_STATE' })
  const twin = await Host.start({ name: 'esx-1', id: randomUUID(), datastores: { ds1: site.datastore } })
  t.teardown(() => twin.stop())
  await t.throwsAsync(lab.addHost(twin), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(site.vcenter.hosts.connect(twin), { code: 'VMSEAL_NOT_FOUND' })
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [], host: 'esx-1',
  }) // prettier-ignore
  const key = (await vm.info()).homeKey
  await vm.powerOn()
  await t.throwsAsync(site.cluster.removeHost('esx-1'), { code: 'VMSEAL_INVALID_STATE' })
  await t.throwsAsync(site.cluster.removeHost('esx-7'), { code: 'VMSEAL_NOT_FOUND' })
  await vm.powerOff()
  await site.cluster.removeHost('esx-1')
  t.deepEqual(await first.listKeys(), [])
  t.deepEqual((await site.cluster.hosts()).map(({ name }) => name), ['esx-2']) // prettier-ignore
  t.is((await vm.powerOn()).host, 'esx-2')
  await vm.powerOff()
  t.like(await site.cluster.addHost(first), { pushed: [key] })
  t.deepEqual((await site.vcenter.hosts.list()).map(({ name, cluster, connectionState }) => [name, cluster, connectionState]), [
    ['esx-1', 'prod', 'connected'],
    ['esx-2', 'prod', 'connected'],
  ]) // prettier-ignore
})

test('J6: register: a VM comes back with its keys under the same provider id, and is locked under another one', async (t) => {
  const site = await openSite(t)
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [{ capacityBytes: 2 ** 20 }],
  }) // prettier-ignore
  const { homeKey } = await vm.info()
  await site.vcenter.virtualMachines.create({ name: 'db02', cluster: 'prod', datastore: 'ds1', disks: [] })
  const spec = { cluster: 'prod', datastore: 'ds1', vmx: 'db01/db01.vmx' }
  await t.throwsAsync(site.vcenter.virtualMachines.register(spec), { code: 'VMSEAL_ALREADY_EXISTS' })
  await vm.unregister()

  // Another vCenter with hosts of its own, first with the wrong name for the same KMS.
  const vcenter = await VCenter.open({ directory: path.join(site.directory, 'new') })
  t.teardown(() => vcenter.close())
  const credentials = site.credentials
  await vcenter.keyProviders.add({ id: 'other-name', servers: site.kms.endpoint, credentials })
  const host = await Host.start({ name: 'esx-5', datastores: { ds1: site.datastore } })
  t.teardown(() => host.stop())
  await (await vcenter.clusters.create('prod')).addHost(host)
  const registered = await vcenter.virtualMachines.register(spec)
  t.is(registered.id, vm.id)
  t.like(await registered.info(), { cryptoState: 'locked', missingKeys: [homeKey], policy: encryption })
  await t.throwsAsync(registered.unlock(), { code: 'VMSEAL_INVALID_STATE', message: /'kms-1'/ })
  await t.throwsAsync(registered.powerOn(), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })

  await vcenter.keyProviders.add({ id: 'kms-1', servers: site.kms.endpoint, credentials })
  t.like(await registered.unlock(), { cryptoState: 'unlocked', missingKeys: [] })
  t.is((await registered.powerOn()).powerState, 'poweredOn')
  const plainOne = await vcenter.virtualMachines.register({ ...spec, vmx: 'db02/db02.vmx' })
  t.like(await plainOne.info(), { cryptoState: 'unlocked', policy: plain })
  for (const vmx of ['none/none.vmx', '../x.vmx', ''])
    await t.throwsAsync(vcenter.virtualMachines.register({ ...spec, vmx }))
})

test('a key provider is copied in with mode 0600 and checked; removing it removes the copy', async (t) => {
  const { vcenter, directory, kms, credentials } = await openSite(t, { hosts: [], provider: false })
  const folder = path.join(directory, 'vcenter', 'credentials')
  const add = (change: object) =>
    vcenter.keyProviders.add({ id: 'k', servers: kms.endpoint, credentials: { ...credentials, ...change } })
  await t.throwsAsync(add({ certificate: 'no certificate' }), { code: 'VMSEAL_CERTIFICATE_INVALID' })
  await t.throwsAsync(add({ caCertificate: '' }), { code: 'VMSEAL_CERTIFICATE_INVALID' })
  await t.throwsAsync(add({ privateKeyFile: path.join(directory, 'none.key') }), {
    code: 'VMSEAL_CERTIFICATE_INVALID',
  })
  const spec = { id: 'k', servers: [kms.endpoint], credentials }
  for (const id of ['', ' ', 'a\nb'])
    await t.throwsAsync(vcenter.keyProviders.add({ ...spec, id }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(vcenter.keyProviders.add({ ...spec, servers: [] }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  for (const port of [0, 65_536, 1.5])
    await t.throwsAsync(vcenter.keyProviders.add({ ...spec, servers: { host: '127.0.0.1', port } }), {
      code: 'VMSEAL_INVALID_ARGUMENT',
    })
  await mkdir(folder, { recursive: true })
  t.deepEqual(await keyFiles(folder), [])
  await vcenter.keyProviders.add(spec)
  t.deepEqual(await keyFiles(folder), [0o600])
  await vcenter.keyProviders.remove('k')
  t.deepEqual(await keyFiles(folder), [])
  await t.throwsAsync(vcenter.keyProviders.remove('k'), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(vcenter.keyProviders.setDefault('k'), { code: 'VMSEAL_NOT_FOUND' })
})

async function keyFiles(folder: string): Promise<number[]> {
  const { readdir } = await import('node:fs/promises')
  const modes = (await readdir(folder)).map(
    async (name) => (await stat(path.join(folder, name))).mode & 0o777,
  )
  return Promise.all(modes)
}
