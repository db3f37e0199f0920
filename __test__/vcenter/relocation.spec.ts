/** Another datastore for a VM that is off: privileges, locks and power state first; its files move as they lie. */
import { mkdir, readdir } from 'node:fs/promises'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Host, VmsealError, isVmsealError, type HostApi, type VirtualMachine } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { fingerprints } from './datastore-files.js'
import { encryption, openSite, plain, type Site } from './site.js'
import { through } from './tampered-host.js'

const done = 'vim.event.VmRelocatedEvent'
const operation = 'com.vmware.vc.crypto.Operation'

interface TwoDatastores {
  readonly site: Site
  readonly ds2: string
  readonly host: Host
  readonly vm: VirtualMachine
  readonly sha256: string
}

/** A VM on the first datastore of a host that has two. `reach`: the host as vCenter reaches it. */
async function openTwo(
  t: ExecutionContext,
  policy = encryption,
  reach: (host: Host) => HostApi = (host) => host,
): Promise<TwoDatastores> {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const ds2 = path.join(site.directory, 'ds2')
  await mkdir(ds2)
  const host = await Host.start({ name: 'esx-2', datastores: { ds1: site.datastore, ds2 } })
  t.teardown(() => host.stop())
  await site.cluster.addHost(reach(host))
  await site.vcenter.hosts.configureCryptoKey('esx-2')
  const { file, sha256 } = await site.image('db01')
  const place = { cluster: 'prod', datastore: 'ds1', host: 'esx-2' }
  const vm = await site.vcenter.virtualMachines.import({ ...place, name: 'db01', policy, disks: [file] })
  site.seen('Create')
  site.events.length = 0
  return { site, ds2, host, vm, sha256 }
}

test('J7: a VM is moved as ciphertext by whoever has each privilege for it, and its record, keys and events follow', async (t) => {
  const { site, ds2, vm, sha256 } = await openTwo(t)
  const before = await fingerprints(site.datastore)
  const { homeKey, disks } = await vm.info()
  const needed = ['Resource.ColdMigrate', 'Datastore.AllocateSpace', 'Cryptographer.Migrate'] as const
  for (const missing of needed) {
    const session = await userWith(
      site.vcenter,
      allPrivileges.filter((privilege) => privilege !== missing),
    )
    const theirs = await session.virtualMachines.get('db01')
    const error = await t.throwsAsync(theirs.relocate({ datastore: 'ds2' }).done, {
      code: 'VMSEAL_NO_PERMISSION',
    })
    t.is(isVmsealError(error) && error.details.privilege, missing)
    t.deepEqual(await fingerprints(site.datastore), before)
    t.deepEqual(await readdir(ds2), [])
  }
  site.events.length = 0
  const session = await userWith(site.vcenter, ['System.Read', ...needed])
  const task = (await session.virtualMachines.get('db01')).relocate({ datastore: 'ds2' })
  let rate = -1
  task.on('progress', ({ bytesPerSecond }) => (rate = bytesPerSecond))
  t.like(await task.done, { datastore: 'ds2', vmx: 'db01/db01.vmx', host: 'esx-2', homeKey, disks })
  t.true(rate >= 0)
  t.deepEqual(await fingerprints(ds2), before, 'every byte, wrapped keys included')
  t.deepEqual(await readdir(site.datastore), [])
  t.is(site.seen('Create'), 0)
  const told = site.events.filter(({ id }) => id === done || id === operation)
  t.deepEqual(
    told.map(({ id, actor, details }) => [id, actor, (details as { outcome?: string }).outcome]),
    [
      [operation, session.user, 'began'],
      [operation, session.user, 'success'],
      [done, session.user, undefined],
    ],
  )
  t.like(told[0]?.details, { operation: 'relocate', vm: 'db01', host: 'esx-2', keys: [homeKey] })
  t.like(told[2]?.details, { vm: 'db01', datastore: 'ds2', sourceDatastore: 'ds1' })
  t.like(await vm.powerOn(), { datastore: 'ds2', powerState: 'poweredOn', missing: [] })
  t.is((await vm.digest('scsi0:0')).sha256, sha256)
  await vm.powerOff()
  t.is((await vm.relocate({ datastore: 'ds1' }).done).datastore, 'ds1')
  t.deepEqual(await fingerprints(site.datastore), before)
})

test('J7: a VM that is on or locked, and one without a way, stays; so does one whose move is cancelled', async (t) => {
  const { site, ds2, host, vm } = await openTwo(t)
  const before = await fingerprints(site.datastore)
  const move = (datastore: unknown, signal?: AbortSignal) =>
    vm.relocate({ datastore: datastore as string, ...(signal && { signal }) })
  await t.throwsAsync(move('ds3').done, { code: 'VMSEAL_NOT_FOUND', message: /has no datastore ds3/ })
  await t.throwsAsync(move(undefined).done, { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.is((await move('ds1').done).datastore, 'ds1')
  await vm.powerOn()
  await t.throwsAsync(move('ds2').done, { code: 'VMSEAL_INVALID_POWER_STATE' })
  await vm.powerOff()
  await t.throwsAsync(move('ds2', AbortSignal.abort()).done, { code: 'VMSEAL_CANCELLED' })
  const abort = new AbortController()
  const task = move('ds2', abort.signal)
  // Once the host is about to be asked.
  task.on('step', ({ action }) => action === 'work started' && abort.abort())
  await t.throwsAsync(task.done, { code: 'VMSEAL_CANCELLED' })
  t.deepEqual(await fingerprints(site.datastore), before)

  await host.removeKey((await vm.info()).homeKey!)
  await site.kms.stop()
  await t.throwsAsync(move('ds2').done, { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  t.deepEqual(await fingerprints(site.datastore), before)
  t.deepEqual(await readdir(ds2), [])
  t.false(site.events.some(({ id }) => id === done))
  await host.stop()
  await t.throwsAsync(move('ds2').done, { code: 'VMSEAL_HOST_UNREACHABLE' })
})

test('J7: a plain VM moves without a crypto privilege, key or crypto event', async (t) => {
  const { site, vm, sha256 } = await openTwo(t, plain)
  const needed = ['System.Read', 'Resource.ColdMigrate', 'Datastore.AllocateSpace'] as const
  const session = await userWith(site.vcenter, needed)
  await (await session.virtualMachines.get('db01')).relocate({ datastore: 'ds2' }).done
  t.deepEqual(site.events.filter(({ id }) => id.startsWith('com.vmware.vc.crypto')), []) // prettier-ignore
  t.is((await vm.digest('scsi0:0')).sha256, sha256)
})

for (const code of ['VMSEAL_HOST_UNREACHABLE', 'VMSEAL_TASK_INTERRUPTED'] as const)
  test(`J7: a move whose answer is lost (${code}) is known when the host is connected again`, async (t) => {
    let lost = true
    const { site, host, vm, sha256 } = await openTwo(t, encryption, (target) =>
      through(target, async (method, act) => {
        const answer = await act()
        if (method === 'moveVirtualMachine' && lost)
          throw new VmsealError(code, 'nobody knows what became of it')
        return answer
      }),
    )
    await t.throwsAsync(vm.relocate({ datastore: 'ds2' }).done, { code })
    lost = false
    await site.vcenter.hosts.connect(host)
    t.like(await vm.info(), { datastore: 'ds2', host: 'esx-2', cryptoState: 'unlocked' })
    t.is((await vm.digest('scsi0:0')).sha256, sha256)
    t.is((await vm.powerOn()).powerState, 'poweredOn')
  })
