/** Another host for a VM that is off: privileges, power state and keys first; its files do not change. */
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Host, isVmsealError, type VirtualMachine } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { fingerprints } from './datastore-files.js'
import { connectAsVCenter } from './kms-view.js'
import { encryption, openSite, plain, type Site } from './site.js'

const started = 'com.vmware.vc.vm.VmMigratingWithEncryptionEvent'
const done = 'vim.event.VmMigratedEvent'
const operation = 'com.vmware.vc.crypto.Operation'

/** A VM on esx-1, and what its disk reads as. */
async function make(site: Site, policy = encryption): Promise<{ vm: VirtualMachine; sha256: string }> {
  const { file, sha256 } = await site.image('db01')
  const place = { cluster: 'prod', datastore: 'ds1', host: 'esx-1' }
  const vm = await site.vcenter.virtualMachines.import({ ...place, name: 'db01', policy, disks: [file] })
  site.seen('Create')
  return { vm, sha256 }
}

async function homeKey(vm: VirtualMachine) {
  const key = (await vm.info()).homeKey
  if (!key) throw new Error('the set-up is not what the test needs')
  return key
}

/** It runs on `host` as it was. */
async function runsOn(t: ExecutionContext, vm: VirtualMachine, host: string, sha256: string): Promise<void> {
  t.like(await vm.powerOn(), { host, powerState: 'poweredOn', cryptoState: 'unlocked', missing: [] })
  t.is((await vm.digest('scsi0:0')).sha256, sha256)
}

test('J6: NoPermission: a host that is not safe and lacks the key gets both, and nothing without each privilege for it', async (t) => {
  const site = await openSite(t)
  const { vcenter, hosts } = site
  const { vm, sha256 } = await make(site)
  const key = await homeKey(vm)
  await vcenter.hosts.disableEncryption('esx-2')
  await hosts[1]?.restart()
  const before = await fingerprints(site.datastore)

  const needed = ['Resource.ColdMigrate', 'Cryptographer.Migrate', 'Cryptographer.RegisterHost'] as const
  for (const missing of needed) {
    const session = await userWith(
      vcenter,
      allPrivileges.filter((privilege) => privilege !== missing),
    )
    const theirs = await session.virtualMachines.get('db01')
    const error = await t.throwsAsync(theirs.migrate({ host: 'esx-2' }).done, {
      code: 'VMSEAL_NO_PERMISSION',
    })
    t.is(isVmsealError(error) && error.details.privilege, missing)
    t.is((await vm.info()).host, 'esx-1')
    t.deepEqual(await hosts[1]?.listKeys(), [])
    t.not((await vcenter.hosts.get('esx-2')).cryptoState, 'safe')
  }
  t.is(site.seen('Create'), 0)
  t.false(site.events.some(({ id }) => id === started || id === done))

  site.events.length = 0
  const session = await userWith(vcenter, ['System.Read', ...needed])
  const moved = await (await session.virtualMachines.get('db01')).migrate({ host: 'esx-2' }).done
  t.like(moved, { host: 'esx-2', homeKey: key, cryptoState: 'unlocked', missing: [] })
  t.is(site.seen('Create'), 1, 'the host key, and no other')
  t.deepEqual(await hosts[1]?.listKeys(), [key])
  t.deepEqual(await fingerprints(site.datastore), before)
  const told = site.events.filter(({ id }) => id === started || id === done || id === operation)
  t.deepEqual(
    told.map(({ id, actor, details }) => [id, actor, (details as { outcome?: string }).outcome]),
    [
      [operation, session.user, 'began'],
      [started, session.user, undefined],
      [operation, session.user, 'success'],
      [done, session.user, undefined],
    ],
  )
  t.like(told[1]?.details, { vm: 'db01', host: 'esx-2', sourceHost: 'esx-1', keys: [key] })
  t.like(told[2]?.details, { operation: 'migrate', vm: 'db01', host: 'esx-2', keys: [key] })
  await runsOn(t, vm, 'esx-2', sha256)
})

test('J6: InvalidPowerState: a VM that is on stays; so does every VM without a host to go to', async (t) => {
  const site = await openSite(t)
  const { vm } = await make(site)
  const elsewhere = path.join(site.directory, 'elsewhere')
  await mkdir(elsewhere)
  // It has another directory under the name of the datastore.
  const stranger = await Host.start({ name: 'esx-3', datastores: { ds1: elsewhere } })
  t.teardown(() => stranger.stop())
  await site.cluster.addHost(stranger)
  const before = await fingerprints(site.datastore)
  site.seen('Create')
  site.events.length = 0

  await t.throwsAsync(vm.migrate({ host: 'esx-9' }).done, { code: 'VMSEAL_HOST_UNREACHABLE' })
  await t.throwsAsync(vm.migrate({} as { host: string }).done, { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(vm.migrate({ host: 'esx-3' }).done, { code: 'VMSEAL_NOT_FOUND' })
  const refusals = site.events.filter(({ id }) => id === operation)
  t.deepEqual(refusals.map(({ details }) => (details as { outcome?: string }).outcome), ['refused', 'refused', 'refused']) // prettier-ignore
  t.is((await vm.migrate({ host: 'esx-1' }).done).host, 'esx-1')
  t.false(
    site.events.some(({ id }) => id === done),
    'nothing changed',
  )
  await vm.powerOn()
  await t.throwsAsync(vm.migrate({ host: 'esx-2' }).done, { code: 'VMSEAL_INVALID_POWER_STATE' })
  t.like(await vm.info(), { host: 'esx-1', powerState: 'poweredOn' })
  await vm.powerOff()
  t.is(site.seen('Create'), 0)
  t.deepEqual(await fingerprints(site.datastore), before)
})

test('J6: EncryptionKeyRequired: the host lacks the key and cannot be given it: the VM stays, and opens, where it is', async (t) => {
  const site = await openSite(t)
  const { vm, sha256 } = await make(site)
  const key = await homeKey(vm)
  await site.hosts[1]?.removeKey(key)
  const client = await connectAsVCenter(site)
  await client.revoke(key.keyId, 'CessationOfOperation')
  await client.destroy(key.keyId)
  client.close()
  const before = await fingerprints(site.datastore)
  const error = await t.throwsAsync(vm.migrate({ host: 'esx-2' }).done, {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
    message: /db01 stays where it is: host esx-2 lacks keys of it\. \w/,
  })
  t.like(isVmsealError(error) && error.details, {
    requiredKeys: [key],
    subject: '[ds1] db01/db01.vmx',
  })
  t.deepEqual(await site.hosts[1]?.listKeys(), [])
  t.deepEqual(await fingerprints(site.datastore), before)
  await runsOn(t, vm, 'esx-1', sha256)
})

test('J6: a VM that is locked on its host opens on one that has the key, with the KMS down', async (t) => {
  const site = await openSite(t)
  const { vm, sha256 } = await make(site)
  await site.hosts[0]?.removeKey(await homeKey(vm))
  await site.kms.stop()
  t.is((await vm.reload()).cryptoState, 'locked')
  t.like(await vm.migrate({ host: 'esx-2' }).done, {
    host: 'esx-2',
    cryptoState: 'unlocked',
    missing: [],
  })
  t.true(site.events.some(({ id }) => id === 'com.vmware.vc.vm.Crypto.VMUnlocked'))
  await runsOn(t, vm, 'esx-2', sha256)
})

test('J6: a host that is silent can be left by a VM that is off, and not by one that was on', async (t) => {
  const site = await openSite(t)
  const { vm, sha256 } = await make(site)
  const other = await vm.clone({ name: 'db02' }).done
  t.is((await other.powerOn()).host, 'esx-1')
  await site.hosts[0]?.stop()
  await t.throwsAsync(other.migrate({ host: 'esx-2' }).done, {
    code: 'VMSEAL_INVALID_POWER_STATE',
    message: /db02 was on when esx-1 was last heard of/,
  })
  t.is((await other.info()).host, 'esx-1')
  t.is((await vm.migrate({ host: 'esx-2' }).done).host, 'esx-2')
  await runsOn(t, vm, 'esx-2', sha256)
})

test('J6: a plain VM moves without a crypto privilege, key or crypto event', async (t) => {
  const site = await openSite(t, { provider: false })
  const { vm, sha256 } = await make(site, plain)
  site.events.length = 0
  const session = await userWith(site.vcenter, ['System.Read', 'Resource.ColdMigrate'])
  const theirs = await session.virtualMachines.get('db01')
  t.is((await theirs.migrate({ host: 'esx-2' }).done).host, 'esx-2')
  t.deepEqual(site.events.filter(({ id }) => id.startsWith('com.vmware.vc.')), []) // prettier-ignore
  t.like(site.events.find(({ id }) => id === done)?.details, { vm: 'db01', host: 'esx-2', sourceHost: 'esx-1' }) // prettier-ignore
  t.is((await site.vcenter.hosts.get('esx-2')).cryptoState, 'incapable')
  await runsOn(t, vm, 'esx-2', sha256)
})

test('J6: a migration that is cancelled, before it begins or once the host has the key, leaves the VM where it is', async (t) => {
  const site = await openSite(t)
  const { vm, sha256 } = await make(site)
  const key = await homeKey(vm)
  await site.hosts[1]?.removeKey(key)
  const before = await fingerprints(site.datastore)
  const cancelled = { code: 'VMSEAL_CANCELLED' }
  await t.throwsAsync(vm.migrate({ host: 'esx-2', signal: AbortSignal.abort() }).done, cancelled)
  t.deepEqual(await site.hosts[1]?.listKeys(), [])
  const abort = new AbortController()
  const task = vm.migrate({ host: 'esx-2', signal: abort.signal })
  task.on('step', ({ action }) => action === 'key pushed' && abort.abort())
  await t.throwsAsync(task.done, cancelled)
  t.deepEqual(await site.hosts[1]?.listKeys(), [key])
  t.is((await vm.info()).host, 'esx-1')
  t.false(site.events.some(({ id }) => id === done))
  const outcomes = site.events.filter(({ id }) => id === operation).map(({ details }) => (details as { outcome?: string }).outcome) // prettier-ignore
  t.deepEqual(outcomes.slice(-2), ['began', 'error'])
  t.deepEqual(await fingerprints(site.datastore), before)
  await runsOn(t, vm, 'esx-1', sha256)
  await vm.powerOff()
  t.is((await vm.migrate({ host: 'esx-2' }).done).host, 'esx-2')
  await runsOn(t, vm, 'esx-2', sha256)
})
