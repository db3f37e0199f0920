/** Snapshots through vCenter: states, keys in the store, events, privileges, refusals. */
import test from 'ava'
import { isVmsealError } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { encryption, openSite } from './site.js'

const place = { cluster: 'prod', datastore: 'ds1', policy: encryption }

test('J3: snapshot, revert and removal of an encrypted VM, off and on, make no key and change no state but what they say', async (t) => {
  const site = await openSite(t)
  const { vcenter } = site
  const { file, sha256 } = await site.image('db01')
  const vm = await vcenter.virtualMachines.import({ ...place, name: 'db01', disks: [file] })
  const keys = site.seen('Create')
  await vm.createSnapshot({ name: 'clean', description: 'as imported' }).done
  await vm.powerOn()
  await vm.createSnapshot({ name: 'running' }).done
  t.like(await vm.snapshots(), { length: 2, 0: { name: 'clean' }, 1: { name: 'running', memory: false } })
  t.is((await vm.digest('scsi0:0')).sha256, sha256)
  t.is((await vm.removeSnapshot('running').done).powerState, 'poweredOn')
  t.is((await vm.digest('scsi0:0')).sha256, sha256)
  t.is((await vm.revertToSnapshot('clean').done).powerState, 'poweredOff')
  await vm.removeAllSnapshots().done
  t.deepEqual(await vm.snapshots(), [])
  t.is((await vm.digest('scsi0:0')).sha256, sha256)
  t.is(site.seen('Create'), 0, `${keys} keys were made before, none since`)
  const operations = site.events.flatMap((event) =>
    event.id === 'com.vmware.vc.crypto.Operation' && event.details.outcome === 'success'
      ? [event.details.operation]
      : [],
  )
  t.deepEqual(operations, [
    'create',
    'createSnapshot',
    'createSnapshot',
    'removeSnapshot',
    'revertToSnapshot',
    'removeSnapshot',
  ])
})

test('D4, D7: recrypt of a VM with snapshots through vCenter: a chain at once, a tree refused before a key is made', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter } = site
  const { file } = await site.image('db01')
  const vm = await vcenter.virtualMachines.import({ ...place, name: 'db01', disks: [file] })
  const before = await vm.info()
  await vm.createSnapshot({ name: 'one' }).done
  await vm.createSnapshot({ name: 'two' }).done
  const info = await vm.recrypt({ depth: 'shallow' }).done
  t.notDeepEqual(info.homeKey, before.homeKey)
  t.deepEqual(info.disks[0]?.key, info.homeKey)
  t.is(info.formerKeys, undefined)
  await vm.revertToSnapshot('one').done
  site.seen('Create')
  for (const depth of ['shallow', 'deep'] as const)
    await t.throwsAsync(vm.recrypt({ depth }).done, {
      code: depth === 'deep' ? 'VMSEAL_SNAPSHOTS_EXIST' : 'VMSEAL_DISK_CHAIN',
    })
  await t.throwsAsync(vm.applyPolicy({ home: 'Datastore Default', disks: 'Datastore Default' }).done, {
    code: 'VMSEAL_SNAPSHOTS_EXIST',
  })
  t.is(site.seen('Create'), 0)
})

test('J3: the snapshot operations ask for their privileges and the keys of the host', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter, hosts } = site
  const { file } = await site.image('db01')
  const vm = await vcenter.virtualMachines.import({ ...place, name: 'db01', disks: [file] })
  const session = await userWith(
    vcenter,
    allPrivileges.filter((privilege) => privilege !== 'VirtualMachine.State.CreateSnapshot'),
  )
  const theirs = await session.virtualMachines.get('db01')
  const error = await t.throwsAsync(theirs.createSnapshot({ name: 'x' }).done, {
    code: 'VMSEAL_NO_PERMISSION',
  })
  t.is(isVmsealError(error) && error.details.privilege, 'VirtualMachine.State.CreateSnapshot')
  // A host that lacks the key is given it.
  for (const key of (await hosts[0]?.listKeys()) ?? []) await hosts[0]?.removeKey(key)
  await vm.createSnapshot({ name: 'x' }).done
  t.is((await vm.snapshots()).length, 1)
  await t.throwsAsync(vm.revertToSnapshot('y').done, { code: 'VMSEAL_NOT_FOUND' })
})

test('E1, J3: a locked VM tells its snapshots, whose names are not secret, and does nothing with them', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter, hosts } = site
  const { file } = await site.image('db01')
  const vm = await vcenter.virtualMachines.import({ ...place, name: 'db01', disks: [file] })
  await vm.createSnapshot({ name: 'one' }).done
  const before = await vm.snapshots()
  await site.kms.stop()
  for (const key of (await hosts[0]?.listKeys()) ?? []) await hosts[0]?.removeKey(key)
  t.is((await vm.info()).cryptoState, 'locked')
  t.deepEqual(await vm.snapshots(), before)
  t.is(before.length, 1)
})
