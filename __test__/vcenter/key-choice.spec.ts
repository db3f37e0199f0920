/** Rows A10 and G2 of the feature table: which provider makes a task's keys, how many, and what when there is none. */
import test from 'ava'
import { encryption, openSite } from './site.js'

test('A10: different keys for VM home and each disk on request, each made by one Create', async (t) => {
  const site = await openSite(t)
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [{ capacityBytes: 2 ** 20 }, { capacityBytes: 2 ** 20 }],
  }) // prettier-ignore
  const { homeKey, disks } = await vm.applyPolicy(
    { home: encryption, disks: encryption },
    { perDiskKeys: true },
  ).done
  t.is(site.seen('Create'), 3)
  const ids = [homeKey, ...disks.map(({ key }) => key)].map((key) => key?.keyId)
  t.is(new Set(ids).size, 3)
  t.false(ids.includes(undefined))

  // An existing key by its id, for one disk; the rest shares a new one.
  const other = await site.vcenter.virtualMachines.create({
    name: 'db02', cluster: site.cluster, datastore: 'ds1', policy: encryption,
    disks: [{ capacityBytes: 2 ** 20 }, { capacityBytes: 2 ** 20, keyId: ids[0] ?? '' }],
  }) // prettier-ignore
  t.is(site.seen('Create'), 1)
  const info = await other.info()
  t.is(info.disks[1]?.key?.keyId, ids[0])
  t.is(info.disks[0]?.key?.keyId, info.homeKey?.keyId)
  t.false(ids.includes(info.homeKey?.keyId))
  await t.throwsAsync(
    site.vcenter.virtualMachines.create({
      name: 'db03', cluster: site.cluster, datastore: 'ds1', policy: encryption, homeKeyId: 'no-such-key', disks: [],
    }), // prettier-ignore
    { code: 'VMSEAL_KEY_MISSING_IN_KMS' },
  )
  t.is(site.seen('Create'), 0)
})

test('G2: without a default provider every encryption fails cleanly and the KMS is asked for nothing', async (t) => {
  const site = await openSite(t)
  const { vcenter, cluster } = site
  const vm = await vcenter.virtualMachines.create({
    name: 'db01', cluster, datastore: 'ds1', disks: [{ capacityBytes: 2 ** 20 }],
  }) // prettier-ignore
  await vcenter.keyProviders.setDefault(null)
  t.is(await vcenter.keyProviders.getDefault(), null)
  const none = { code: 'VMSEAL_NO_DEFAULT_KEY_PROVIDER' }
  await t.throwsAsync(vm.applyPolicy({ home: encryption, disks: encryption }).done, none)
  await t.throwsAsync(vm.applyPolicy({ home: encryption }).done, none)
  const spec = {
    name: 'db02',
    cluster,
    datastore: 'ds1',
    policy: encryption,
    disks: [{ capacityBytes: 2 ** 20 }],
  }
  await t.throwsAsync(vcenter.virtualMachines.create(spec), none)
  t.deepEqual(site.operations, [])
  t.is((await vm.info()).homeKey, undefined)
  t.deepEqual((await vcenter.virtualMachines.list()).map(({ name }) => name), ['db01']) // prettier-ignore
  t.is((await vcenter.tasks.list())[0]?.errorCode, 'VMSEAL_NO_DEFAULT_KEY_PROVIDER')

  await vcenter.keyProviders.setDefault('kms-1')
  await vm.applyPolicy({ home: encryption }).done
  t.is(site.seen('Create'), 1)
})

test('G2: with no provider at all; the first one added becomes the default, later ones do not', async (t) => {
  const site = await openSite(t, { provider: false })
  const { vcenter, cluster, kms, credentials } = site
  const spec = { name: 'db01', cluster, datastore: 'ds1', policy: encryption, disks: [] }
  await t.throwsAsync(vcenter.virtualMachines.create(spec), { code: 'VMSEAL_NO_DEFAULT_KEY_PROVIDER' })
  await vcenter.keyProviders.add({ id: 'b', servers: kms.endpoint, credentials })
  await vcenter.keyProviders.add({ id: 'a', servers: [kms.endpoint], credentials })
  t.deepEqual((await vcenter.keyProviders.list()).map(({ id, isDefault }) => [id, isDefault]), [['b', true], ['a', false]]) // prettier-ignore
  await t.throwsAsync(vcenter.keyProviders.add({ id: 'a', servers: kms.endpoint, credentials }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  const vm = await vcenter.virtualMachines.create(spec)
  t.is((await vm.info()).homeKey?.providerId, 'b')
  await vcenter.keyProviders.remove('b')
  t.is(await vcenter.keyProviders.getDefault(), null)
})

test('G2: a KMS that is down makes no VM and leaves an event', async (t) => {
  const site = await openSite(t)
  await site.kms.stop()
  const spec = { name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [] }
  await t.throwsAsync(site.vcenter.virtualMachines.create(spec), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  t.deepEqual(await site.vcenter.virtualMachines.list(), [])
  const ids = new Set<string>(site.events.map(({ id }) => id))
  t.true(ids.has('com.vmware.vc.kms.crypto.Unreachable'))
  t.true(ids.has('com.vmware.vc.kms.crypto.KeyGenerateFail'))
})
