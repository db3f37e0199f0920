/** Rows G1 and G4 of the feature table: providers, their servers, and the defaults. */
import test from 'ava'
import { encryption, openSite } from './site.js'

const spec = (name: string) => ({ name, datastore: 'ds1', policy: encryption, disks: [] })

test('G1: a provider and its servers are added, listed, changed and removed; nothing twice', async (t) => {
  const { vcenter, kms, credentials } = await openSite(t, { provider: false })
  const { keyProviders } = vcenter
  const [a, b] = [
    { host: 'kms-a.example', port: 5696 },
    { host: 'kms-b.example', port: 5696 },
  ]
  await keyProviders.add({ id: 'p', servers: a, credentials })
  await t.throwsAsync(keyProviders.add({ id: 'p', servers: b, credentials }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  await t.throwsAsync(keyProviders.add({ id: 'q', servers: [a, a], credentials }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  t.deepEqual((await keyProviders.addServer('p', b)).servers, [a, b])
  await t.throwsAsync(keyProviders.addServer('p', b), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(keyProviders.addServer('q', b), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(keyProviders.addServer('p', { host: 'c', port: 70_000 }), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
  t.deepEqual((await keyProviders.setServers('p', [b, a])).servers, [b, a])
  await t.throwsAsync(keyProviders.setServers('p', []), { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.deepEqual((await keyProviders.removeServer('p', b)).servers, [a])
  await t.throwsAsync(keyProviders.removeServer('p', b), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(keyProviders.removeServer('p', a), { code: 'VMSEAL_INVALID_STATE' })
  t.deepEqual(await keyProviders.list(), [{ id: 'p', servers: [a], isDefault: true, defaultOf: [] }])
  await keyProviders.remove('p')
  t.deepEqual(await keyProviders.list(), [])
  await t.throwsAsync(keyProviders.remove('p'), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(keyProviders.status('p'), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(keyProviders.doctor('p'), { code: 'VMSEAL_NOT_FOUND' })
  t.truthy(kms)
})

test('G1: the servers of a provider in use are changed while it works, and it can be removed', async (t) => {
  const { vcenter, cluster, kms } = await openSite(t)
  const vm = await vcenter.virtualMachines.create({ ...spec('db01'), cluster })
  await vcenter.keyProviders.setServers('kms-1', [{ host: '127.0.0.1', port: 1 }, kms.endpoint])
  await vcenter.virtualMachines.create({ ...spec('db02'), cluster })
  await vcenter.keyProviders.removeServer('kms-1', kms.endpoint)
  await t.throwsAsync(vcenter.virtualMachines.create({ ...spec('db03'), cluster }), {
    code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE',
  })
  await vcenter.keyProviders.remove('kms-1')
  t.is((await vm.info()).cryptoState, 'unlocked')
})

test('G1: changes at the same moment follow one another, and none is lost', async (t) => {
  const { vcenter, credentials } = await openSite(t, { provider: false, hosts: [] })
  const { keyProviders } = vcenter
  const address = (index: number) => ({ host: `kms-${index}.example`, port: 5696 })
  await keyProviders.add({ id: 'p', servers: address(0), credentials })
  await Promise.all([1, 2, 3, 4].map((index) => keyProviders.addServer('p', address(index))))
  t.deepEqual((await keyProviders.get('p')).servers, [0, 1, 2, 3, 4].map(address))
  const twice = await Promise.allSettled([5, 5].map((index) => keyProviders.addServer('p', address(index))))
  t.deepEqual(twice.map(({ status }) => status), ['fulfilled', 'rejected']) // prettier-ignore
  const taken = await Promise.allSettled([0, 1, 2, 3, 4, 5].map((index) => keyProviders.removeServer('p', address(index)))) // prettier-ignore
  t.deepEqual(taken.map(({ status }) => status), [...Array.from({ length: 5 }, () => 'fulfilled'), 'rejected']) // prettier-ignore
  t.is((await keyProviders.get('p')).servers.length, 1)
})

test('G1: a provider that is opened while it is changed works by what it is changed to', async (t) => {
  const { vcenter, kms } = await openSite(t, { hosts: [] })
  const { keyProviders } = vcenter
  for (let times = 0; times < 5; times += 1) {
    const opening = keyProviders.open('kms-1')
    await keyProviders.setServers('kms-1', [{ host: '127.0.0.1', port: 1 }])
    await opening
    await t.throwsAsync((await keyProviders.open('kms-1')).fetchKey('k'), {
      code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE',
    })
    await keyProviders.setServers('kms-1', [kms.endpoint])
    await t.throwsAsync((await keyProviders.open('kms-1')).fetchKey('k'), {
      code: 'VMSEAL_KEY_MISSING_IN_KMS',
    })
  }
})

test('G4: a cluster has a default of its own, else that of the whole vCenter', async (t) => {
  const { vcenter, cluster, kms, credentials, hosts } = await openSite(t)
  const { keyProviders } = vcenter
  const other = await vcenter.clusters.create('test')
  await keyProviders.add({ id: 'kms-2', servers: kms.endpoint, credentials })
  await keyProviders.setDefault('kms-2', cluster)
  const of = async (...args: Parameters<typeof keyProviders.getDefault>) =>
    (await keyProviders.getDefault(...args))?.id ?? null
  t.is(await of(), 'kms-1')
  t.is(await of(cluster), 'kms-2')
  t.is(await of(other), 'kms-1')
  t.is(await of(other.id), 'kms-1')
  t.is(await of(other, { defaultsToParent: false }), null)
  t.deepEqual((await keyProviders.get('kms-2')).defaultOf, [cluster.id])
  await t.throwsAsync(keyProviders.setDefault('kms-2', 'no-such-cluster'), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(keyProviders.setDefault('no-such-provider', cluster), { code: 'VMSEAL_NOT_FOUND' })

  const vm = await vcenter.virtualMachines.create({ ...spec('db01'), cluster })
  t.is((await vm.info()).homeKey?.providerId, 'kms-2')
  // No default of the whole vCenter: the cluster's own still counts, and nobody else has one.
  await keyProviders.setDefault(null)
  await vcenter.virtualMachines.create({ ...spec('db02'), cluster })
  t.is(await of(other), null)
  await keyProviders.setDefault(null, cluster)
  t.is(await of(cluster), null)
  await t.throwsAsync(vcenter.virtualMachines.create({ ...spec('db03'), cluster }), {
    code: 'VMSEAL_NO_DEFAULT_KEY_PROVIDER',
  })
  await keyProviders.setDefault('kms-1')
  const third = await vcenter.virtualMachines.create({ ...spec('db03'), cluster })
  t.is((await third.info()).homeKey?.providerId, 'kms-1')

  await keyProviders.setDefault('kms-2', cluster)
  await keyProviders.remove('kms-2')
  t.is(await of(cluster), 'kms-1')
  t.is(hosts.length, 2)
})
