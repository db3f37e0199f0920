/** Row I5: what is refused before it began, whoever asked and wherever, is an event; what vCenter does by itself is its own. */
import test from 'ava'
import { setTimeout as pause } from 'node:timers/promises'
import { Kms, type VCenterEvent } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { encryption, openSite, plain, type Site } from './site.js'

const refusalsOf = (events: readonly VCenterEvent[]) =>
  events.flatMap((event) =>
    event.id === 'com.vmware.vc.crypto.Operation' && event.details.outcome === 'refused'
      ? [{ actor: event.actor, ...event.details }]
      : [],
  )

const create = (site: Site, name: string) =>
  site.vcenter.virtualMachines.create({
    name, cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [{ capacityBytes: 4096 }],
  }) // prettier-ignore

test('I5: a create, import or register that is refused leaves an event with actor, object, key id and reason', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const alice = await userWith(site.vcenter, allPrivileges)
  const place = { cluster: 'prod', datastore: 'ds1' }
  const machines = alice.virtualMachines
  const disk = { capacityBytes: 4096 }
  await t.throwsAsync(machines.create({ ...place, name: 'a', disks: [{ ...disk, policy: encryption }] }))
  await t.throwsAsync(machines.create({ ...place, name: 'b', homeKeyId: 'key-7', disks: [] }))
  await t.throwsAsync(machines.import({ ...place, name: 'c', policy: 'none', disks: ['/image'] }))
  await t.throwsAsync(machines.register({ ...place, vmx: 'no/no.vmx' }))
  await site.kms.stop()
  await t.throwsAsync(machines.create({ ...place, name: 'd', policy: encryption, disks: [] }))
  const refusals = refusalsOf(site.events)
  t.deepEqual(
    refusals.map(({ operation, vm, error }) => `${operation} ${vm} ${error}`),
    [
      'create a VMSEAL_ENCRYPTION_MISMATCH',
      'create b VMSEAL_POLICY_NOT_ENCRYPTION',
      'create c VMSEAL_POLICY_UNKNOWN',
      'register no/no.vmx VMSEAL_NOT_FOUND',
      'create d VMSEAL_KEY_PROVIDER_UNREACHABLE',
    ],
  )
  for (const { actor } of refusals) t.is(actor, alice.user)
  t.deepEqual(refusals[1]?.keys, [{ keyId: 'key-7', providerId: '' }])
})

test('I5: what a locked VM refuses is an event with the keys that are missing, once', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await create(site, 'db01')
  const { homeKey } = await vm.info()
  await site.kms.stop()
  await site.hosts[0]?.restart()
  await site.vcenter.hosts.reconnect('esx-1')
  site.events.length = 0
  const locked = { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' }
  await t.throwsAsync(vm.applyPolicy({ home: plain, disks: plain }).done, locked)
  await t.throwsAsync(vm.powerOn(), locked)
  await t.throwsAsync(vm.recrypt({ depth: 'shallow' }).done, locked)
  await t.throwsAsync(vm.detachDisk('scsi0:0'), locked)
  await t.throwsAsync(vm.digest('scsi0:0'), locked)
  await t.throwsAsync(vm.destroy(), locked)
  const refusals = refusalsOf(site.events)
  t.deepEqual(
    refusals.map(({ operation }) => operation),
    ['reconfigure', 'powerOn', 'recrypt', 'reconfigure', 'access', 'destroy'],
  )
  for (const refusal of refusals) {
    t.like(refusal, { vm: 'db01', host: 'esx-1', error: locked.code, actor: 'administrator' })
    t.true(refusal.keys.some(({ keyId }) => keyId === homeKey?.keyId))
  }
})

test('I5: no room for a copy is an event of its own: NoDiskSpace', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const { Host } = await import('../../src/index.js')
  const host = await Host.start({
    name: 'full',
    datastores: { ds1: site.datastore },
    freeBytes: async () => 10,
  })
  t.teardown(() => host.stop())
  await site.cluster.addHost(host)
  await site.vcenter.hosts.configureCryptoKey('full')
  const refused = { code: 'VMSEAL_NO_SPACE' }
  await t.throwsAsync(create(site, 'db01'), refused)
  t.like(site.events.find(({ id }) => id === 'com.vmware.vc.vm.crypto.NoDiskSpace')?.details, { vm: 'db01' })
})

test('I5: what vCenter does in the background is done by system, whoever was there last', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  await create(site, 'db01')
  const alice = await userWith(site.vcenter, allPrivileges)
  await site.kms.stop()
  await site.hosts[0]?.restart()
  await alice.hosts.reconnect('esx-1')
  const from = site.events.length
  const kms = await Kms.start({ directory: `${site.directory}/kms`, port: site.kms.endpoint.port })
  t.teardown(() => kms.stop())
  const unlocked = () => site.events.slice(from).find(({ id }) => id === 'com.vmware.vc.vm.Crypto.VMUnlocked')
  for (let turn = 0; turn < 600 && !unlocked(); turn += 1) await pause(50)
  t.is(unlocked()?.actor, 'system')
  for (const id of ['com.vmware.vc.host.Crypto.Enabled', 'vmseal.host.crypto.KeyPushed'])
    t.is(site.events.slice(from).find((event) => event.id === id)?.actor, 'system', id)
  t.true(site.events.slice(from).every(({ actor }) => actor !== alice.user))
})

test('I5: nobody can be system', async (t) => {
  const { vcenter } = await openSite(t, { hosts: [] })
  await t.throwsAsync(vcenter.authorization.users.create('system'), { code: 'VMSEAL_ALREADY_EXISTS' })
  t.throws(() => vcenter.as('system'), { code: 'VMSEAL_INVALID_ARGUMENT' })
})
