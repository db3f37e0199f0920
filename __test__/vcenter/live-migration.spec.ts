/** Another host for a VM that runs: privileges, modes and keys first; then one host runs it, whatever fails on the way. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { isVmsealError, type VirtualMachine } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { encryption, openSite, plain, type Site } from './site.js'

const started = 'com.vmware.vc.vm.VmHotMigratingWithEncryptionEvent'
const done = 'vim.event.VmMigratedEvent'
const failed = 'vim.event.VmFailedMigrateEvent'
const operation = 'com.vmware.vc.crypto.Operation'

interface Moving {
  readonly vm: VirtualMachine
  readonly sha256: string
  readonly memory: Buffer
  readonly options: { host: string; memory: string; memoryTarget: string }
}

/** A VM that is on at esx-1, and its memory. */
async function make(site: Site, policy = encryption): Promise<Moving> {
  const { file, sha256 } = await site.image('db01')
  const place = { cluster: 'prod', datastore: 'ds1', host: 'esx-1' }
  const vm = await site.vcenter.virtualMachines.import({ ...place, name: 'db01', policy, disks: [file] })
  await vm.powerOn()
  const memory = randomBytes(2 ** 21 + 77)
  const [from, to] = [path.join(site.directory, 'memory.out'), path.join(site.directory, 'memory.in')]
  await writeFile(from, memory)
  site.seen('Create')
  site.events.length = 0
  return { vm, sha256, memory, options: { host: 'esx-2', memory: from, memoryTarget: to } }
}

/** It is on there and nowhere else, as it was. */
async function runsOn(t: ExecutionContext, site: Site, { vm, sha256 }: Moving, host: string): Promise<void> {
  const info = await vm.info()
  t.like(info, { host, powerState: 'poweredOn', cryptoState: 'unlocked' })
  t.is((await vm.digest('scsi0:0')).sha256, sha256)
  const { datastore, vmx } = info
  for (const other of site.hosts)
    t.is(
      (await other.readVirtualMachine({ datastore, vmx })).powerState === 'poweredOn',
      other.name === host,
      other.name,
    )
}

test('J4, J6: NoPermission: a host that is not safe and lacks the key gets both, and nothing moves without each privilege', async (t) => {
  const site = await openSite(t)
  const { vcenter, hosts } = site
  const moving = await make(site)
  const { vm, options, memory } = moving
  await vcenter.hosts.disableEncryption('esx-2')
  await hosts[1]?.restart()
  site.seen('Create')
  const needed = ['Resource.HotMigrate', 'Cryptographer.Migrate', 'Cryptographer.RegisterHost'] as const
  for (const missing of needed) {
    const session = await userWith(vcenter, allPrivileges.filter((privilege) => privilege !== missing)) // prettier-ignore
    const error = await t.throwsAsync((await session.virtualMachines.get('db01')).liveMigrate(options).done, {
      code: 'VMSEAL_NO_PERMISSION',
    })
    t.is(isVmsealError(error) && error.details.privilege, missing)
    t.deepEqual(await hosts[1]?.listKeys(), [])
    t.false(existsSync(options.memoryTarget))
  }
  t.is(site.seen('Create'), 0)
  await runsOn(t, site, moving, 'esx-1')
  t.false(site.events.some(({ id }) => id === started || id === done))

  site.events.length = 0
  const session = await userWith(vcenter, ['System.Read', ...needed])
  const info = await (await session.virtualMachines.get('db01')).liveMigrate(options).done
  t.like(info, { host: 'esx-2', powerState: 'poweredOn', migrateEncryption: 'required', missing: [] })
  t.is(site.seen('Create'), 1, 'the host key, and no other')
  t.true((await readFile(options.memoryTarget)).equals(memory))
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
  t.like(told[1]?.details, { vm: 'db01', host: 'esx-2', sourceHost: 'esx-1' })
  await runsOn(t, site, moving, 'esx-2')
  await vm.powerOff()
  t.is((await vm.powerOn({ host: 'esx-1' })).host, 'esx-1')
})

test('J4: InvalidPowerState: a VM that is off, locked or without a host to go to stays', async (t) => {
  const site = await openSite(t)
  const moving = await make(site)
  const { vm, options } = moving
  await t.throwsAsync(vm.liveMigrate({ ...options, host: 'esx-9' }).done, { code: 'VMSEAL_HOST_UNREACHABLE' })
  for (const name of ['host', 'memory', 'memoryTarget'] as const)
    await t.throwsAsync(vm.liveMigrate({ ...options, [name]: '' }).done, { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(vm.liveMigrate({ ...options, memory: path.join(site.directory, 'none') }).done, {
    code: 'VMSEAL_NOT_FOUND',
  })
  t.false(existsSync(options.memoryTarget), 'what the target had made is gone')
  await t.throwsAsync(vm.liveMigrate({ ...options, memoryTarget: options.memory }).done, {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  t.true(existsSync(options.memory), 'a file of somebody else stays')
  t.is((await vm.liveMigrate({ ...options, host: 'esx-1' }).done).host, 'esx-1')
  t.false(site.events.some(({ id }) => id === done))
  await runsOn(t, site, moving, 'esx-1')
  await vm.powerOff()
  await t.throwsAsync(vm.liveMigrate(options).done, { code: 'VMSEAL_INVALID_POWER_STATE' })
  const { homeKey } = await vm.info()
  for (const host of site.hosts) await host.removeKey(homeKey!)
  await site.kms.stop()
  t.is((await vm.reload()).cryptoState, 'locked')
  await t.throwsAsync(vm.liveMigrate(options).done, { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
})

test('J4, J6: EncryptionKeyRequired: a host that cannot be given the key does not get the VM, which runs on', async (t) => {
  const site = await openSite(t)
  const moving = await make(site)
  const { vm, options } = moving
  const { homeKey } = await vm.info()
  await site.hosts[1]?.removeKey(homeKey!)
  await site.kms.stop()
  await t.throwsAsync(vm.liveMigrate(options).done, { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  t.false(existsSync(options.memoryTarget))
  await runsOn(t, site, moving, 'esx-1')
})

test('J4: cancelled while its memory is on the way, the VM runs where it was, and can be moved then', async (t) => {
  const site = await openSite(t)
  const moving = await make(site)
  const { vm, options } = moving
  // The hypervisor holds its end open and writes nothing: the migration waits until it is cancelled.
  const pipe = path.join(site.directory, 'pipe')
  execFileSync('mkfifo', [pipe])
  const task = vm.liveMigrate({ ...options, memory: pipe })
  await new Promise<void>((resolve) =>
    task.on('step', ({ action }) => action === 'work started' && resolve()),
  )
  task.cancel()
  await t.throwsAsync(task.done, { code: 'VMSEAL_CANCELLED' })
  t.false(existsSync(options.memoryTarget))
  t.like(site.events.find(({ id }) => id === failed)?.details, {
    vm: 'db01',
    host: 'esx-2',
    powerState: 'poweredOn',
  })
  await runsOn(t, site, moving, 'esx-1')
  await vm.liveMigrate(options).done
  await runsOn(t, site, moving, 'esx-2')
})

test('J4: a snapshot with memory goes along, and comes back on the other host', async (t) => {
  const site = await openSite(t)
  const moving = await make(site)
  const { vm, options } = moving
  await vm.createSnapshot({ name: 'before', memory: options.memory }).done
  await vm.liveMigrate(options).done
  await runsOn(t, site, moving, 'esx-2')
  t.like(await vm.snapshots(), [{ name: 'before', memory: true }])
  await vm.revertToSnapshot('before').done
  await vm.powerOn()
  await runsOn(t, site, moving, 'esx-2')
})

test('C6: migrateEncryption stays required after decryption, of a clone too, until it is changed by hand', async (t) => {
  const site = await openSite(t)
  const { vm } = await make(site)
  t.is((await vm.info()).migrateEncryption, 'required')
  await t.throwsAsync(vm.setMigrateEncryption('disabled'), {
    code: 'VMSEAL_INVALID_STATE',
    message: /is required/,
  })
  await vm.powerOff()
  const clone = await vm.clone({ name: 'db02', policy: { home: plain, disks: plain } }).done
  t.like(await clone.info(), { homeKey: undefined, migrateEncryption: 'required' })
  await vm.applyPolicy({ home: plain, disks: plain }).done
  t.like(await vm.info(), { homeKey: undefined, migrateEncryption: 'required' })
  await vm.unregister()
  const again = await site.vcenter.virtualMachines.register({
    cluster: 'prod',
    datastore: 'ds1',
    vmx: 'db01/db01.vmx',
  })
  t.is((await again.info()).migrateEncryption, 'required', 'it is in the files')
  const session = await userWith(site.vcenter, allPrivileges.filter((name) => name !== 'VirtualMachine.Config.Settings')) // prettier-ignore
  await t.throwsAsync((await session.virtualMachines.get('db01')).setMigrateEncryption('disabled'), {
    code: 'VMSEAL_NO_PERMISSION',
  })
  t.is((await again.setMigrateEncryption('opportunistic')).migrateEncryption, 'opportunistic')
  t.is((await again.setMigrateEncryption('disabled')).migrateEncryption, 'disabled')
  await again.applyPolicy({ home: encryption, disks: encryption }).done
  t.is((await again.info()).migrateEncryption, 'required')
  await again.applyPolicy({ home: plain, disks: plain }).done
  t.is((await again.info()).migrateEncryption, 'required', 'what it was before the encryption is forgotten')
})
