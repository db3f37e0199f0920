/** Clones through vCenter: keys as asked, one for a task, and each privilege. */
import test from 'ava'
import { isVmsealError, type VCenterSession } from '../../src/index.js'
import { allPrivileges, type Privilege } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { encryption, openSite, plain } from './site.js'

const place = { cluster: 'prod', datastore: 'ds1' }

test('J1, J2: clones have the keys that were asked for: the same, one new one, one for each part, none', async (t) => {
  const site = await openSite(t)
  const { vcenter } = site
  const { file, sha256 } = await site.image('db01')
  const spec = { ...place, name: 'db01', policy: encryption, disks: [file, file] }
  const vm = await vcenter.virtualMachines.import(spec)
  const source = await vm.info()
  site.seen('Create')

  const same = await vm.clone({ name: 'same' }).done
  t.is(site.seen('Create'), 0)
  t.deepEqual((await same.info()).homeKey, source.homeKey)

  const fresh = await (await vm.clone({ name: 'fresh', keys: 'new' }).done).info()
  t.is(site.seen('Create'), 1)
  t.notDeepEqual(fresh.homeKey, source.homeKey)
  for (const disk of fresh.disks) t.deepEqual(disk.key, fresh.homeKey)

  await vm.clone({ name: 'each', keys: 'new', perDiskKeys: true }).done
  t.is(site.seen('Create'), 3)

  const open = await vm.clone({ name: 'open', policy: { home: plain, disks: plain } }).done
  t.like(await open.info(), { policy: plain, homeKey: undefined })
  const closed = await open.clone({ name: 'closed', policy: { home: encryption, disks: encryption } }).done
  t.is(site.seen('Create'), 1)
  t.truthy((await closed.info()).disks[0]?.key)
  for (const clone of [same, open, closed]) t.is((await clone.digest('scsi0:1')).sha256, sha256)

  await vm.powerOn()
  const running = await vm.clone({ name: 'of-a-running-vm' }).done
  t.is((await running.digest('scsi0:0')).sha256, sha256)
  t.deepEqual(await vm.snapshots(), [], 'the passing snapshot is gone')
  t.is((await vm.info()).powerState, 'poweredOn')
})

test('D7: a linked clone through vCenter; recrypt of both is refused before a key is made', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter } = site
  const { file, sha256 } = await site.image('db01')
  const vm = await vcenter.virtualMachines.import({
    ...place,
    name: 'db01',
    policy: encryption,
    disks: [file],
  })
  await t.throwsAsync(vm.clone({ name: 'linked', linked: true }).done, { code: 'VMSEAL_DISK_CHAIN' })
  await vm.createSnapshot({ name: 'golden' }).done
  site.seen('Create')
  const linked = { name: 'linked', snapshot: 'golden', linked: true }
  await t.throwsAsync(vm.clone({ ...linked, keys: 'new' }).done, { code: 'VMSEAL_DISK_CHAIN' })
  const clone = await vm.clone(linked).done
  t.is((await clone.digest('scsi0:0')).sha256, sha256)
  for (const each of [vm, clone])
    await t.throwsAsync(each.recrypt({ depth: 'shallow' }).done, { code: 'VMSEAL_DISK_CHAIN' })
  await t.throwsAsync(vm.destroy(), { code: 'VMSEAL_DISK_CHAIN' })
  await clone.destroy()
  t.is(site.seen('Create'), 0)
})

for (const [privilege, policy, options] of [
  ['Cryptographer.Clone', encryption, {}],
  ['Cryptographer.Recrypt', encryption, { keys: 'new' }],
  ['Cryptographer.Decrypt', encryption, { policy: { home: plain, disks: plain } }],
  ['Cryptographer.Encrypt', plain, { policy: { home: encryption } }],
  ['VirtualMachine.Inventory.CreateFromExisting', plain, {}],
  ['VirtualMachine.Provisioning.Clone', plain, {}],
] as const satisfies readonly (readonly [Privilege, string, object])[])
  test(`J2, I2: a clone without ${privilege} is refused by name, and nothing happens`, async (t) => {
    const site = await openSite(t, { hosts: ['esx-1'] })
    const { vcenter } = site
    const { file } = await site.image('db01')
    await vcenter.virtualMachines.import({ ...place, name: 'db01', policy, disks: [file] })
    site.seen('Create')
    const act = async (session: VCenterSession) =>
      (await session.virtualMachines.get('db01')).clone({ name: 'copy', ...options }).done
    const without = await userWith(
      vcenter,
      allPrivileges.filter((other) => other !== privilege),
    )
    const error = await t.throwsAsync(act(without), { code: 'VMSEAL_NO_PERMISSION' })
    t.is(isVmsealError(error) && error.details.privilege, privilege)
    t.is(site.seen('Create'), 0)
    await t.notThrowsAsync(act(await userWith(vcenter, allPrivileges)))
  })
