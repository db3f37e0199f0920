/** Which role counts where, who may give what, and what the built-in roles allow. */
import path from 'node:path'
import test from 'ava'
import { Host, VCenter, type VCenterSession } from '../../../src/index.js'
import { allPrivileges } from '../../../src/vcenter/authorization/privileges.js'
import { encryption, openSite, plain, type Site } from '../site.js'
import { give, userWith } from './users.js'

const denied = { code: 'VMSEAL_NO_PERMISSION' }

async function siteWithVm(t: Parameters<typeof openSite>[0]): Promise<Site> {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { file } = await site.image('db01')
  const place = { cluster: 'prod', datastore: 'ds1', disks: [file] }
  await site.vcenter.virtualMachines.import({ ...place, name: 'db01', policy: encryption })
  await site.vcenter.virtualMachines.import({ ...place, name: 'web01' })
  return site
}

async function names(session: VCenterSession): Promise<string[]> {
  return (await session.virtualMachines.list()).map(({ name }) => name)
}

test('I4: without a permission a user sees nothing, and an unknown one is refused', async (t) => {
  const { vcenter } = await siteWithVm(t)
  await vcenter.authorization.users.create('alice')
  for (const session of [vcenter.as('alice'), vcenter.as('nobody')]) {
    t.deepEqual(await names(session), [])
    t.deepEqual(await session.clusters.list(), [])
    t.deepEqual(await session.hosts.list(), [])
    await t.throwsAsync(session.virtualMachines.get('db01'), denied)
    await t.throwsAsync(session.keyProviders.list(), denied)
  }
})

test('I4: a role on a cluster holds for its VMs and hosts when it propagates, and only then', async (t) => {
  const { vcenter } = await siteWithVm(t)
  const below = await userWith(vcenter, ['System.Read'], { on: { cluster: 'prod' } })
  t.deepEqual(await names(below), ['db01', 'web01'])
  t.deepEqual(
    (await below.hosts.list()).map(({ name }) => name),
    ['esx-1'],
  )
  const only = await userWith(vcenter, ['System.Read'], { on: { cluster: 'prod' }, propagate: false })
  t.deepEqual(await names(only), [])
  t.deepEqual(
    (await only.clusters.list()).map(({ name }) => name),
    ['prod'],
  )
  const onHost = await userWith(vcenter, ['System.Read'], { on: { host: 'esx-1' } })
  t.deepEqual(
    (await onHost.hosts.list()).map(({ name }) => name),
    ['esx-1'],
  )
  t.deepEqual(await names(onHost), [])
})

test('I4: the nearest role counts, also when it allows less', async (t) => {
  const { vcenter } = await siteWithVm(t)
  const session = await userWith(vcenter, allPrivileges)
  await give(vcenter, session.user, 'No access', { on: { virtualMachine: 'db01' } })
  t.deepEqual(await names(session), ['web01'])
  await give(vcenter, session.user, 'Read-only', { on: { cluster: 'prod' } })
  const web = await session.virtualMachines.get('web01')
  await t.throwsAsync(web.powerOn(), denied)
  await vcenter.authorization.permissions.remove({ user: session.user, on: { cluster: 'prod' } })
  t.is((await web.powerOn()).powerState, 'poweredOn')
})

test('C5: a role that may encrypt but not decrypt', async (t) => {
  const { vcenter, seen } = await siteWithVm(t)
  const clerk = await userWith(vcenter, ['System.Read', 'StorageProfile.Apply', 'Cryptographer.Encrypt'], {
    on: { virtualMachine: 'web01' },
  })
  const web = await clerk.virtualMachines.get('web01')
  await web.applyPolicy({ home: encryption, disks: encryption }).done
  t.is(seen('Create'), 2)
  const error = await t.throwsAsync(web.applyPolicy({ home: plain, disks: plain }).done, denied)
  t.regex(error?.message ?? '', /Cryptographer\.Decrypt on virtual machine web01/)
  t.truthy((await web.info()).homeKey)
})

test('I3: the no cryptography administrator does everything but cryptography', async (t) => {
  const site = await siteWithVm(t)
  const { vcenter } = site
  await vcenter.authorization.users.create('nocrypt')
  await give(vcenter, 'nocrypt', 'No cryptography administrator')
  const session = vcenter.as('nocrypt')
  const sealed = await session.virtualMachines.get('db01')
  t.is((await sealed.powerOn()).powerState, 'poweredOn')
  await sealed.powerOff()
  await session.virtualMachines.create({ name: 'new', cluster: 'prod', datastore: 'ds1', disks: [] })
  await session.storagePolicies.create({ name: 'fast', encryption: false })
  await session.clusters.create('test')
  site.seen('Create')
  const refused = [
    session.virtualMachines.create({
      name: 'n2',
      cluster: 'prod',
      datastore: 'ds1',
      policy: encryption,
      disks: [],
    }),
    sealed.applyPolicy({ home: plain, disks: plain }).done,
    sealed.addDisk({ capacityBytes: 512 }).done,
    sealed.digest('scsi0:0'),
    sealed.unlock(),
    session.storagePolicies.create({ name: 'sealed', encryption: true }),
    session.keyProviders.keys.create(),
    session.keyProviders.remove('kms-1'),
    (await session.clusters.get('prod')).addHost(site.hosts[0] as never),
    session.events.list(),
  ]
  for (const outcome of refused) await t.throwsAsync(outcome, denied)
  t.is(site.seen('Create'), 0)
})

test('E11: who may register but not register encrypted VMs gets a locked one, which RegisterVM unlocks', async (t) => {
  const site = await siteWithVm(t)
  const { vcenter, hosts } = site
  const { vmx, homeKey } = await (await vcenter.virtualMachines.get('db01')).info()
  await (await vcenter.virtualMachines.get('db01')).unregister()
  if (homeKey) await hosts[0]?.removeKey(homeKey)
  const clerk = await userWith(vcenter, ['System.Read', 'VirtualMachine.Inventory.Register'])
  const vm = await clerk.virtualMachines.register({ cluster: 'prod', datastore: 'ds1', vmx })
  t.is((await vm.info()).cryptoState, 'locked')
  await t.throwsAsync(vm.unlock(), denied)
  const officer = await userWith(vcenter, ['System.Read', 'Cryptographer.RegisterVM'])
  t.is((await (await officer.virtualMachines.get('db01')).unlock()).cryptoState, 'unlocked')
})

test('E12: power-on needs no crypto privilege while the key is on the host, and cannot be had without it', async (t) => {
  const { vcenter, hosts } = await siteWithVm(t)
  const clerk = await userWith(vcenter, [
    'System.Read',
    'VirtualMachine.Interact.PowerOn',
    'VirtualMachine.Interact.PowerOff',
  ])
  const vm = await clerk.virtualMachines.get('db01')
  t.is((await vm.powerOn()).powerState, 'poweredOn')
  const { homeKey } = await vm.powerOff()
  if (homeKey) await hosts[0]?.removeKey(homeKey)
  await t.throwsAsync(vm.powerOn(), denied)
  await t.throwsAsync(vm.unlock(), denied)
})

test('I4: nobody gives, or keeps for himself, what he does not have', async (t) => {
  const { vcenter } = await siteWithVm(t)
  const { permissions } = vcenter.authorization
  const keeper = await userWith(vcenter, [
    'System.Read',
    'Authorization.ModifyPermissions',
    'Authorization.ModifyRoles',
  ])
  const theirs = keeper.authorization.permissions
  await t.throwsAsync(theirs.set({ user: keeper.user, role: 'Administrator', on: 'root' }), denied)
  await t.throwsAsync(
    keeper.authorization.roles.update(`role of ${keeper.user}`, ['System.Read', 'Cryptographer.Decrypt']),
    denied,
  )
  await t.throwsAsync(
    theirs.set({ user: keeper.user, role: 'Read-only', on: { virtualMachine: 'web01' } }),
    denied,
  )
  const strong = await userWith(vcenter, allPrivileges)
  await permissions.set({ user: strong.user, role: 'No access', on: { virtualMachine: 'db01' } })
  await t.throwsAsync(theirs.remove({ user: strong.user, on: { virtualMachine: 'db01' } }), denied)
  t.deepEqual(await names(strong), ['web01'])
})

test('I4: built-in roles and the administrator never change, and a role in use stays', async (t) => {
  const { vcenter } = await siteWithVm(t)
  const { roles, users } = vcenter.authorization
  await t.throwsAsync(roles.update('Read-only', []), { code: 'VMSEAL_INVALID_STATE' })
  await t.throwsAsync(roles.remove('Administrator'), { code: 'VMSEAL_INVALID_STATE' })
  await t.throwsAsync(roles.create({ name: 'No access', privileges: [] }), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(roles.create({ name: 'x', privileges: ['Cryptographer.All' as never] }), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
  await t.throwsAsync(users.create('administrator'), { code: 'VMSEAL_ALREADY_EXISTS' })
  const { user } = await userWith(vcenter, [])
  await t.throwsAsync(roles.remove(`role of ${user}`), { code: 'VMSEAL_INVALID_STATE' })
  await users.remove(user)
  await roles.remove(`role of ${user}`)
  await t.throwsAsync(roles.get(`role of ${user}`), { code: 'VMSEAL_NOT_FOUND' })
})

test('I4: users, roles and permissions are there after vCenter was closed; those of a VM end with it', async (t) => {
  const site = await siteWithVm(t)
  const { user } = await userWith(site.vcenter, ['System.Read'], { on: { virtualMachine: 'web01' } })
  await give(site.vcenter, user, 'Read-only', { on: { virtualMachine: 'db01' } })
  const { vmx } = await (await site.vcenter.virtualMachines.get('web01')).info()
  await (await site.vcenter.virtualMachines.get('web01')).unregister()
  await site.vcenter.virtualMachines.register({ cluster: 'prod', datastore: 'ds1', vmx })
  await site.vcenter.close()
  const again = await VCenter.open({ directory: path.join(site.directory, 'vcenter') })
  t.teardown(() => again.close())
  t.deepEqual(await names(again.as(user)), ['db01'])
})

test('I2: the view of a user cannot be changed, and hides what is not for users', async (t) => {
  const { vcenter } = await siteWithVm(t)
  const session = await userWith(vcenter, allPrivileges)
  t.throws(() => Object.assign(session.virtualMachines, { list: () => [] }), { instanceOf: TypeError })
  const { tasks, keyProviders } = session as unknown as VCenter
  t.throws(() => tasks.start({} as never), denied)
  t.throws(() => void keyProviders.open('kms-1'), denied)
})

test('F3: a host gets the keys of a cluster only from who has RegisterHost', async (t) => {
  const { vcenter, datastore, cluster } = await siteWithVm(t)
  const clerk = await userWith(vcenter, ['System.Read', 'Host.Inventory.AddHostToCluster'])
  const host = await Host.start({ name: 'esx-9', datastores: { ds1: datastore } })
  t.teardown(() => host.stop())
  const theirs = await clerk.clusters.get('prod')
  const error = await t.throwsAsync(theirs.addHost(host), denied)
  t.regex(error?.message ?? '', /Cryptographer\.RegisterHost on cluster prod/)
  t.deepEqual(
    (await cluster.hosts()).map(({ name }) => name),
    ['esx-1'],
  )
  t.deepEqual(await host.listKeys(), [])
})
