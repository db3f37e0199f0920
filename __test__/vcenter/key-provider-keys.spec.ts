/** Rows E10, G5, G6 and G7 of the feature table: the keys of the providers in view. */
import test from 'ava'
import { cp, rm } from 'node:fs/promises'
import path from 'node:path'
import { Kms } from '../../src/kms/kms.js'
import { connectAsVCenter, keysAtKms } from './kms-view.js'
import { encryption, openSite } from './site.js'

const spec = (name: string) => ({ name, datastore: 'ds1', policy: encryption, disks: [] })

test('G5: every reason why a key cannot be had, and which VMs and hosts use it', async (t) => {
  const site = await openSite(t)
  const { vcenter, cluster, kms, credentials, operations } = site
  const { keys } = vcenter.keyProviders
  const vm = await vcenter.virtualMachines.create({ ...spec('db01'), cluster })
  const key = (await vm.info()).homeKey
  if (!key) return t.fail()
  const gets = operations.filter((operation) => operation === 'Get').length
  const [used] = await keys.query([key.keyId])
  t.deepEqual(used, {
    key,
    available: true,
    state: 'Active',
    virtualMachines: ['db01'],
    hosts: ['esx-1', 'esx-2'],
  })
  t.deepEqual(await keys.list(), [key])

  const client = await connectAsVCenter(site)
  const { id: preActive } = await client.create()
  const { id: revoked } = await client.create()
  await client.activate(revoked)
  await client.revoke(revoked, 'KeyCompromise')
  const { id: destroyed } = await client.create()
  await client.destroy(destroyed)
  client.close()
  await vcenter.keyProviders.add({ id: 'down', servers: { host: '127.0.0.1', port: 1 }, credentials })
  const reasons = async (names: Parameters<typeof keys.query>[0]) =>
    (await keys.query(names)).map(({ available, state, reason }) => [available, state, reason])
  t.deepEqual(await reasons([preActive, revoked, destroyed, 'never-made']), [
    [false, 'PreActive', 'KeyStateNotActiveOrEnabled'],
    [false, 'Compromised', 'KeyStateNotActiveOrEnabled'],
    [false, 'Destroyed', 'KeyStateMissingInKMS'],
    [false, undefined, 'KeyStateMissingInKMS'],
  ])
  t.deepEqual(
    await reasons([
      { providerId: 'down', keyId: 'k' },
      { providerId: 'no-such-provider', keyId: key.keyId },
    ]),
    [
      [false, undefined, 'KeyStateClusterUnreachable'],
      [false, undefined, 'KeyStateClusterInvalid'],
    ],
  )
  await vcenter.keyProviders.setDefault(null)
  t.deepEqual(await reasons(['k']), [[false, undefined, 'KeyStateMissingInCache']])
  kms.disable('vcenter')
  t.deepEqual(await reasons([key]), [[false, undefined, 'NoPermissionToAccessKeyProvider']])
  // Looking at a key is no reason to fetch it.
  t.is(operations.filter((operation) => operation === 'Get').length, gets)
})

test('G6: a key is made on request, with attributes that the administrator of the KMS sees', async (t) => {
  const site = await openSite(t)
  const { keys } = site.vcenter.keyProviders
  const key = await keys.create({ attributes: { 'x-Cost-Center': '4711', 'x-Owner': 'Zoë' } })
  t.is(key.providerId, 'kms-1')
  const names = ['State', 'x-Product', 'x-Vendor', 'x-Cost-Center', 'x-Owner']
  t.deepEqual(await keysAtKms(site, names), [
    {
      id: key.keyId,
      State: 'Active',
      'x-Product': 'vmseal vCenter',
      'x-Vendor': 'vmseal',
      'x-Cost-Center': '4711',
      'x-Owner': 'Zoë',
    },
  ])
  // It can be used for a VM by its id.
  const vm = await site.vcenter.virtualMachines.create({
    ...spec('db01'), cluster: site.cluster, homeKeyId: key.keyId,
  }) // prettier-ignore
  t.deepEqual((await vm.info()).homeKey, key)
  for (const attributes of [{ Name: 'x' }, { 'x-': 'v' }, { 'x-a\n': 'v' }, { 'x-long': 'v'.repeat(1001) }])
    await t.throwsAsync(keys.create({ attributes }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(keys.create({ providerId: 'no-such' }), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  t.is((await keysAtKms(site, [])).length, 1)
})

test('G7: a key is taken from the hosts only when nothing uses it, or by force, which locks; never from the KMS', async (t) => {
  const site = await openSite(t)
  const { vcenter, cluster, hosts, events } = site
  const { keys } = vcenter.keyProviders
  const vm = await vcenter.virtualMachines.create({ ...spec('db01'), cluster })
  const used = (await vm.info()).homeKey
  const gone = await vcenter.virtualMachines.create({ ...spec('db02'), cluster })
  const unused = (await gone.info()).homeKey
  if (!used || !unused) return t.fail()
  await gone.destroy()

  await t.throwsAsync(keys.remove([used.keyId]), { code: 'VMSEAL_INVALID_STATE', message: /db01/ })
  await t.throwsAsync(keys.remove([unused, used]), { code: 'VMSEAL_INVALID_STATE' })
  await t.throwsAsync(keys.remove(['never-made']), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(keys.remove([unused, 'never-made'], { force: true }), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
  t.is((await hosts[0]?.listKeys())?.length, 2)

  t.deepEqual(await keys.remove([unused.keyId]), [{ key: unused, hosts: ['esx-1', 'esx-2'] }])
  for (const host of hosts) t.deepEqual(await host.listKeys(), [used])
  await t.throwsAsync(keys.remove([unused]), { code: 'VMSEAL_INVALID_ARGUMENT' })

  t.deepEqual(await keys.remove([used], { force: true }), [{ key: used, hosts: ['esx-1', 'esx-2'] }])
  for (const host of hosts) t.deepEqual(await host.listKeys(), [])
  t.is((await vm.info()).cryptoState, 'locked')
  const locked = events.filter(({ id }) => id === 'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost')
  t.is(locked.length, 1)
  t.is((await keysAtKms(site, [])).length, 2)
  await vcenter.hosts.reconnect('esx-1')
  t.is((await vm.info()).cryptoState, 'unlocked')
})

test('keys that nothing uses any more are reported, and destroyed only by their id', async (t) => {
  const site = await openSite(t)
  const { vcenter, cluster, operations, events } = site
  const { keys } = vcenter.keyProviders
  const vm = await vcenter.virtualMachines.create({ ...spec('db01'), cluster })
  const used = (await vm.info()).homeKey
  const gone = await vcenter.virtualMachines.create({ ...spec('db02'), cluster })
  const left = (await gone.info()).homeKey
  if (!used || !left) return t.fail()
  await gone.destroy()
  const client = await connectAsVCenter(site)
  t.teardown(() => client.close())
  // Another program's key under the same certificate is none of ours.
  const { id: foreign } = await client.create()
  const spare = await keys.create()

  // A host still has it.
  t.deepEqual((await keys.unused('kms-1')).map(({ key }) => key), [spare]) // prettier-ignore
  await t.throwsAsync(keys.destroyUnused('kms-1', [left.keyId]), { code: 'VMSEAL_INVALID_STATE' })
  await keys.remove([left])
  const report = await keys.unused('kms-1')
  t.deepEqual(report.map(({ key }) => key.keyId).toSorted(), [left.keyId, spare.keyId].toSorted()) // prettier-ignore
  t.like(
    report.find(({ key }) => key.keyId === left.keyId),
    { state: 'Active', madeFor: 'db02' },
  )
  t.false(operations.includes('Destroy'))

  for (const [ids, code] of [
    [[left.keyId, used.keyId], 'VMSEAL_INVALID_STATE'],
    [[left.keyId, foreign], 'VMSEAL_INVALID_ARGUMENT'],
    [[left.keyId, 'never-made'], 'VMSEAL_INVALID_ARGUMENT'],
  ] as const)
    await t.throwsAsync(keys.destroyUnused('kms-1', ids), { code })
  t.false(operations.includes('Destroy'))
  t.deepEqual(await keys.destroyUnused('kms-1', [left.keyId]), [left.keyId])
  t.deepEqual((await keys.unused('kms-1')).map(({ key }) => key), [spare]) // prettier-ignore
  t.is((await keys.query([left]))[0]?.reason, 'KeyStateMissingInKMS')
  t.deepEqual(
    events.filter(({ id }) => id === 'vmseal.kms.crypto.KeyDestroyed').map(({ details }) => details),
    [{ ...left }],
  )
  t.is((await keys.query([used]))[0]?.available, true)
})

test('E10: a key that is deactivated or destroyed at the KMS, named; and the VM opens when it is restored', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter, cluster, events, directory, kms } = site
  const vm = await vcenter.virtualMachines.create({ ...spec('db01'), cluster })
  const key = (await vm.info()).homeKey
  if (!key) return t.fail()
  const { endpoint } = kms
  await kms.stop()
  await cp(path.join(directory, 'kms'), path.join(directory, 'backup'), { recursive: true })
  let running = await Kms.start({ directory: path.join(directory, 'kms'), port: endpoint.port })
  t.teardown(() => running.stop())

  const client = await connectAsVCenter({ ...site, kms: running })
  await client.revoke(key.keyId)
  await vcenter.keyProviders.keys.remove([key], { force: true })
  t.like((await vcenter.keyProviders.keys.query([key]))[0], {
    available: false,
    state: 'Deactivated',
    reason: 'KeyStateNotActiveOrEnabled',
    virtualMachines: ['db01'],
    hosts: [],
  })
  const inactive = await vcenter.hosts.reconnect('esx-1')
  t.like(inactive.failed[0]?.error, { code: 'VMSEAL_KEY_NOT_ACTIVE' })
  t.deepEqual(inactive.locked, ['db01'])

  await client.destroy(key.keyId)
  client.close()
  const missing = await vcenter.hosts.reconnect('esx-1')
  t.like(missing.failed[0]?.error, { code: 'VMSEAL_KEY_MISSING_IN_KMS' })
  t.is((await vcenter.keyProviders.keys.query([key]))[0]?.reason, 'KeyStateMissingInKMS')
  t.true(events.some(({ id }) => id === 'com.vmware.vc.kms.crypto.SendKeyError.KeyMissingOnKMS'))
  t.true(events.some(({ id }) => id === 'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnKMS'))
  t.is((await vm.info()).connectionState, 'invalid')

  await running.stop()
  await rm(path.join(directory, 'kms'), { recursive: true })
  await cp(path.join(directory, 'backup'), path.join(directory, 'kms'), { recursive: true })
  running = await Kms.start({ directory: path.join(directory, 'kms'), port: endpoint.port })
  const restored = await vcenter.hosts.reconnect('esx-1')
  t.deepEqual(restored.pushed, [key])
  t.deepEqual(restored.unlocked, ['db01'])
  t.is((await vcenter.keyProviders.keys.query([key]))[0]?.available, true)
})
