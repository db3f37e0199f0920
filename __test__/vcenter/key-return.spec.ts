/** Row A9 of the feature table: how a host that lost its keys gets them back, and what happens when it cannot. */
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { Host, Kms, VmsealError } from '../../src/index.js'
import { connectAsVCenter } from './kms-view.js'
import { encryption, openSite } from './site.js'
import { addThrough } from './tampered-host.js'

test('A9: a host that restarts gets the same key by its id, without a new one', async (t) => {
  const site = await openSite(t)
  const { file, sha256 } = await site.image('a')
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [file], host: 'esx-1',
  }) // prettier-ignore
  const key = (await vm.info()).homeKey
  if (!key) throw new Error('the set-up is not what the test needs')
  t.is(site.seen('Create'), 1)
  site.seen('Get')

  await site.hosts[0]?.restart()
  const reference = { datastore: 'ds1', vmx: 'db01/db01.vmx' }
  t.like(await site.hosts[0]?.readVirtualMachine(reference), { cryptoState: 'locked', missingKeys: [key] })
  const refusal = await t.throwsAsync(site.hosts[0]?.powerOn(reference) ?? Promise.resolve(), {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
  })
  t.deepEqual((refusal as { details?: unknown } | undefined)?.details, {
    requiredKeys: [key], subject: '[ds1] db01/db01.vmx',
  }) // prettier-ignore
  t.is((await vm.digest('scsi0:0', { host: 'esx-2' })).sha256, sha256, 'the other host still has it')

  const sync = await site.vcenter.hosts.reconnect('esx-1')
  t.like(sync, { host: 'esx-1', restarted: true, pushed: [key], failed: [], unlocked: ['db01'], locked: [] })
  t.is(site.seen('Create'), 0)
  t.is(site.seen('Get'), 2, 'this one and the host key')
  t.like(await vm.info(), { cryptoState: 'unlocked', connectionState: 'connected', missingKeys: [] })
  t.is((await vm.powerOn()).powerState, 'poweredOn')
  t.is((await vm.digest('scsi0:0')).sha256, sha256)
  t.deepEqual(
    site.events.map(({ id }) => id).filter((id) => id.includes('.VM')),
    ['com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost', 'com.vmware.vc.vm.Crypto.VMUnlocked'],
  )
  // Nothing to do the second time.
  t.like(await site.vcenter.hosts.reconnect('esx-1'), { restarted: false, pushed: [], unlocked: [] })
  t.is(site.seen('Get'), 0)
})

test('A9: the VMs of a host that restarts are unlocked before it gets the keys of all others', async (t) => {
  const site = await openSite(t)
  const { vcenter, cluster } = site
  const make = (name: string, host: string) =>
    vcenter.virtualMachines.create({ name, cluster, host, datastore: 'ds1', policy: encryption, disks: [] })
  // Names and ids say nothing of whose turn it is: the others are many.
  for (let n = 0; n < 12; n += 1) await make(`other-${n}`, 'esx-2')
  const own = [await make('own-1', 'esx-1'), await make('own-2', 'esx-1')]
  const ownKeys = await Promise.all(own.map(async (vm) => (await vm.info()).homeKey?.keyId ?? ''))

  await site.hosts[0]?.restart()
  site.events.length = 0
  const sync = await vcenter.hosts.reconnect('esx-1')
  t.is(sync.pushed.length, 14)
  t.deepEqual(sync.unlocked.toSorted((a, b) => (a < b ? -1 : 1)), ['own-1', 'own-2']) // prettier-ignore
  const order = site.events.flatMap(({ id, details }) => {
    if (id === 'com.vmware.vc.vm.Crypto.VMUnlocked') return ['unlocked']
    if (id !== 'vmseal.host.crypto.KeyPushed') return []
    return [ownKeys.includes(details.keyId) ? 'own key' : 'other key']
  })
  const others = Array.from({ length: 12 }, () => 'other key')
  t.deepEqual(order, ['own key', 'own key', 'unlocked', 'unlocked', ...others])
})

test('A9: a key that the KMS lost or deactivated keeps the VM locked, and unlock says why', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter, cluster } = site
  const make = (name: string) =>
    vcenter.virtualMachines.create({ name, cluster, datastore: 'ds1', policy: encryption, disks: [] })
  const [gone, off, fine] = [await make('gone'), await make('off'), await make('fine')]
  const client = await connectAsVCenter(site)
  const idOf = async (vm: typeof gone): Promise<string> => (await vm.info()).homeKey?.keyId ?? ''
  await client.revoke(await idOf(gone), 'CessationOfOperation')
  await client.destroy(await idOf(gone))
  await client.revoke(await idOf(off), 'CessationOfOperation')
  client.close()
  await site.hosts[0]?.restart()
  const sync = await vcenter.hosts.reconnect('esx-1')
  t.deepEqual(sync.unlocked, ['fine'])
  t.deepEqual(sync.locked, ['gone', 'off'])
  t.deepEqual(sync.failed.map(({ error }) => error.code).toSorted(), ['VMSEAL_KEY_MISSING_IN_KMS', 'VMSEAL_KEY_NOT_ACTIVE']) // prettier-ignore
  t.is((await fine.info()).cryptoState, 'unlocked')
  await t.throwsAsync(gone.unlock(), { code: 'VMSEAL_KEY_MISSING_IN_KMS' })
  await t.throwsAsync(off.unlock(), { code: 'VMSEAL_KEY_NOT_ACTIVE' })
  await t.throwsAsync(gone.powerOn(), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  await gone.unregister()
  t.deepEqual((await vcenter.virtualMachines.list()).map(({ name }) => name), ['fine', 'off']) // prettier-ignore
})

test('A9: a restart that a task is the first to see: the host gets the keys of the other VMs too', async (t) => {
  const site = await openSite(t)
  const make = (name: string) =>
    site.vcenter.virtualMachines.create({
      name, cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [], host: 'esx-1',
    }) // prettier-ignore
  await make('first')
  await site.hosts[1]?.restart()
  await make('second')
  const keys = async (index: number): Promise<string[]> =>
    ((await site.hosts[index]?.listKeys()) ?? []).map(({ keyId }) => keyId).toSorted()
  const wanted = await keys(0)
  t.is(wanted.length, 2)
  while ((await keys(1)).length < wanted.length) await sleep(50)
  t.deepEqual(await keys(1), wanted)
})

test('F6: a host that did not take a key is given it again when the VM is on record', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  let fails = false
  const host = await addThrough(t, site, 'esx-2', async (method, act) => {
    if (method !== 'installKey' || !fails) return act()
    fails = false
    throw new VmsealError('VMSEAL_IO')
  })
  await site.vcenter.hosts.configureCryptoKey('esx-2')
  fails = true
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [], host: 'esx-1',
  }) // prettier-ignore
  const failures = site.events.filter(({ id }) => id === 'com.vmware.vc.host.Crypto.SendKeyError.HostError')
  t.is(failures.length, 1)
  while ((await host.listKeys()).length === 0) await sleep(50)
  t.deepEqual(await host.listKeys(), [(await vm.info()).homeKey])
})

test('F6: a host that joined while a VM was made gets its key although the KMS was down at that moment', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const late = await Host.start({ name: 'esx-2', datastores: { ds1: site.datastore } })
  t.teardown(() => late.stop())
  await addThrough(t, site, 'esx-1', async (method, act) => {
    if (method !== 'createVirtualMachine') return act()
    await site.cluster.addHost(late)
    await site.vcenter.hosts.configureCryptoKey('esx-2')
    await site.kms.stop()
    return act()
  })
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [], host: 'esx-1',
  }) // prettier-ignore
  t.deepEqual(await late.listKeys(), [])
  const kms = await Kms.start({ directory: path.join(site.directory, 'kms'), port: site.kms.endpoint.port })
  t.teardown(() => kms.stop())
  while ((await late.listKeys()).length === 0) await sleep(50)
  t.deepEqual(await late.listKeys(), [(await vm.info()).homeKey])
})

test('F6: a VM registered while the KMS is down: all hosts get its key when it is back', async (t) => {
  const site = await openSite(t)
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [], host: 'esx-1',
  }) // prettier-ignore
  const { homeKey: key, vmx } = await vm.info()
  if (!key) throw new Error('the set-up is not what the test needs')
  await vm.unregister()
  for (const host of site.hosts) await host.removeKey(key)
  const { port } = site.kms.endpoint
  await site.kms.stop()
  const registered = await site.vcenter.virtualMachines.register({
    cluster: site.cluster, datastore: 'ds1', vmx, host: 'esx-1',
  }) // prettier-ignore
  t.is((await registered.info()).cryptoState, 'locked')
  const kms = await Kms.start({ directory: `${site.directory}/kms`, port })
  t.teardown(() => kms.stop())
  for (const host of site.hosts) while ((await host.listKeys()).length === 0) await sleep(50)
  t.is((await registered.info()).cryptoState, 'unlocked')
})
