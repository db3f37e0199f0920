/** A cluster is made, renamed and removed; what is in it keeps it there. */
import test from 'ava'
import { isVmsealError } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { give, userWith } from './authorization/users.js'
import { encryption, openSite } from './site.js'
import { addThrough } from './tampered-host.js'

test('I4: a cluster is removed when no host and no VM is in it, with what users may do there', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter, cluster } = site
  const vm = await vcenter.virtualMachines.create({
    name: 'db01', cluster, datastore: 'ds1', policy: encryption, disks: [],
  }) // prettier-ignore
  const remove = () => vcenter.clusters.remove('prod')
  await t.throwsAsync(remove(), { code: 'VMSEAL_INVALID_STATE', message: /host esx-1 is in cluster prod/ })
  await cluster.removeHost('esx-1')
  await t.throwsAsync(remove(), { code: 'VMSEAL_INVALID_STATE', message: /VM db01 is in cluster prod/ })
  await vm.unregister()
  const session = await userWith(vcenter, ['System.Read'], { on: { cluster: 'prod' } })
  await vcenter.keyProviders.setDefault('kms-1', { id: cluster.id })
  await remove()
  t.deepEqual(await vcenter.clusters.list(), [])
  t.is(site.events.at(-1)?.id, 'vim.event.ClusterDestroyedEvent')
  t.deepEqual(
    (await vcenter.authorization.permissions.list()).filter(({ user }) => user === session.user),
    [],
  )
  await t.throwsAsync(remove(), { code: 'VMSEAL_NOT_FOUND' })
  // What is in hand of it is of no use any more, and its provider can go.
  const [host] = site.hosts
  if (host) await t.throwsAsync(cluster.addHost(host), { code: 'VMSEAL_NOT_FOUND' })
  site.seen('Create')
  await t.throwsAsync(
    vcenter.virtualMachines.create({
      name: 'db02',
      cluster,
      datastore: 'ds1',
      policy: encryption,
      disks: [],
    }),
    { code: 'VMSEAL_HOST_UNREACHABLE' },
  )
  t.is(site.seen('Create'), 0)
  await vcenter.keyProviders.remove('kms-1')
})

test('I4: a cluster stays while a VM is being made in it', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const { vcenter } = site
  const refused: unknown[] = []
  await addThrough(t, site, 'esx-1', async (method, act) => {
    if (method !== 'createVirtualMachine') return act()
    await site.cluster.removeHost('esx-1')
    refused.push(await vcenter.clusters.remove('prod').catch((error: unknown) => error))
    return act()
  })
  const spec = { name: 'db01', cluster: 'prod', datastore: 'ds1', policy: 'Datastore Default', disks: [] }
  await t.throwsAsync(vcenter.virtualMachines.create(spec))
  t.true(isVmsealError(refused[0], 'VMSEAL_INVALID_STATE'), String(refused[0]))
  t.is((await vcenter.clusters.list()).length, 1)
})

test('I4: a cluster gets another name: hosts, VMs and permissions stay, a name that is taken is refused', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter } = site
  const session = await userWith(vcenter, [], { on: { cluster: 'prod' } })
  await give(vcenter, session.user, 'Read-only', { on: { cluster: 'prod' } })
  await vcenter.clusters.create('test')
  await t.throwsAsync(vcenter.clusters.rename('prod', 'test'), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(vcenter.clusters.rename('prod', ' '), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(vcenter.clusters.rename('none', 'other'), { code: 'VMSEAL_NOT_FOUND' })
  t.is((await vcenter.clusters.rename('prod', 'factory')).id, site.cluster.id)
  t.deepEqual((await session.clusters.list()).map(({ name }) => name), ['factory']) // prettier-ignore
  t.is((await vcenter.hosts.get('esx-1')).cluster, 'factory')
  const { length } = site.events
  await vcenter.clusters.rename('factory', 'factory')
  t.is(site.events.length, length)
})

for (const [privilege, act] of [
  ['Host.Inventory.DeleteCluster', 'remove'],
  ['Host.Inventory.RenameCluster', 'rename'],
] as const)
  test(`I2: ${act} of a cluster without ${privilege} is refused by name`, async (t) => {
    const { vcenter } = await openSite(t, { hosts: [] })
    const others = allPrivileges.filter((other) => other !== privilege)
    const { clusters } = await userWith(vcenter, others)
    const error = await t.throwsAsync(
      act === 'remove' ? clusters.remove('prod') : clusters.rename('prod', 'x'),
      {
        code: 'VMSEAL_NO_PERMISSION',
      },
    )
    t.is(isVmsealError(error) && error.details.privilege, privilege)
    t.deepEqual((await vcenter.clusters.list()).map(({ name }) => name), ['prod']) // prettier-ignore
  })
