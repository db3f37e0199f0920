/** Rows B1, B2, B4 and B5 of the feature table: what can be encrypted, together with what, and what is refused. */
import test from 'ava'
import { access, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { TaskProgress } from '../../src/index.js'
import { filesWith, fingerprints } from './datastore-files.js'
import { encryption, marker, openSite, plain } from './site.js'

test('B1: a VM is created encrypted with two disks; every one of its files is ciphertext from the first byte', async (t) => {
  const site = await openSite(t)
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption,
    disks: [{ capacityBytes: 2 ** 20 }, { capacityBytes: 2 ** 21, sectorSize: 4096 }],
    settings: { 'guestinfo.password': marker },
  }) // prettier-ignore
  const info = await vm.info()
  t.is(site.seen('Create'), 1)
  t.like(info, { policy: encryption, cryptoState: 'unlocked', powerState: 'poweredOff', cluster: 'prod' })
  t.deepEqual(info.disks.map(({ capacityBytes, policy, device }) => ({ capacityBytes, policy, device })), [
    { capacityBytes: 2 ** 20, policy: encryption, device: 'scsi0:0' },
    { capacityBytes: 2 ** 21, policy: encryption, device: 'scsi0:1' },
  ]) // prettier-ignore
  t.deepEqual(await filesWith(site.datastore, marker), [])
  t.deepEqual([...new Set(await site.read(vm, 'scsi0:1', 0, 8192))], [0], 'a guest reads zeros')
})

test('B1: import with an encryption policy: no plaintext reaches the datastore, the image is untouched', async (t) => {
  const site = await openSite(t)
  const image = await site.image('source')
  const before = await stat(image.file)
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [image.file],
  }) // prettier-ignore
  t.deepEqual(await filesWith(site.datastore, marker), [])
  t.is((await vm.digest('scsi0:0', { host: 'esx-2' })).sha256, image.sha256)
  t.is((await site.read(vm, 'scsi0:0', 512, 48)).toString(), marker)
  t.deepEqual((await stat(image.file)).mtimeMs, before.mtimeMs)
})

test('B2: VM home and one disk are encrypted, the other disk stays as it is, byte for byte', async (t) => {
  const site = await openSite(t)
  const images = [await site.image('a'), await site.image('b')]
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: images.map(({ file }) => file),
  }) // prettier-ignore
  const before = await fingerprints(site.datastore)
  const info = await vm.applyPolicy({ home: encryption, disks: { 'scsi0:0': encryption } }).done
  t.is(site.seen('Create'), 1)
  t.truthy(info.homeKey)
  t.deepEqual(info.disks[0]?.key, info.homeKey)
  t.is(info.disks[1]?.key, undefined)
  t.deepEqual([info.policy, ...info.disks.map(({ policy }) => policy)], [encryption, encryption, plain])
  const after = await fingerprints(site.datastore)
  const untouched = Object.keys(before).filter((name) => before[name] === after[name])
  t.true(
    untouched.some((name) => name.endsWith('_1-flat.vmdk')),
    untouched.join(),
  )
  t.is((await filesWith(site.datastore, marker)).length, 1)
  for (const [index, { sha256 }] of images.entries()) t.is((await vm.digest(`scsi0:${index}`)).sha256, sha256)
})

test('B2: VM home alone; a policy by disk id; own policies do as the bundled ones', async (t) => {
  const site = await openSite(t)
  await site.vcenter.storagePolicies.create({ name: 'gold', encryption: true })
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: 'gold',
    disks: [{ capacityBytes: 2 ** 20, policy: plain }],
  }) // prettier-ignore
  const info = await vm.info()
  t.truthy(info.homeKey)
  t.is(info.disks[0]?.key, undefined)
  t.is(info.policy, 'gold')
  const after = await vm.applyPolicy({ disks: { [info.disks[0]?.diskId ?? '']: 'gold' } }).done
  t.truthy(after.disks[0]?.key)
  t.not(after.disks[0]?.key?.keyId, after.homeKey?.keyId, 'another task, another key')
})

test('B4: an encrypted disk in a plain VM is refused everywhere, before a key is made', async (t) => {
  const site = await openSite(t)
  const { file } = await site.image('a')
  const mismatch = { code: 'VMSEAL_ENCRYPTION_MISMATCH' }
  const base = { cluster: site.cluster, datastore: 'ds1' }
  const machines = site.vcenter.virtualMachines
  await t.throwsAsync(
    machines.create({ ...base, name: 'x', disks: [{ capacityBytes: 512, policy: encryption }] }),
    mismatch,
  )
  await t.throwsAsync(
    machines.import({ ...base, name: 'x', disks: [{ source: file, policy: encryption }] }),
    mismatch,
  )
  const vm = await machines.import({ ...base, name: 'db01', disks: [file] })
  const before = await fingerprints(site.datastore)
  await t.throwsAsync(vm.applyPolicy({ disks: encryption }).done, mismatch)
  await t.throwsAsync(vm.applyPolicy({ home: plain, disks: { 'scsi0:0': encryption } }).done, mismatch)
  await t.throwsAsync(vm.addDisk({ capacityBytes: 2 ** 20, policy: encryption }).done, mismatch)
  t.deepEqual(await fingerprints(site.datastore), before)
  t.deepEqual(site.operations, [])
  t.is((await vm.info()).disks.length, 1)
})

test('B5: further disks of an encrypted VM: a plain one is encrypted, new ones are added encrypted or plain', async (t) => {
  const site = await openSite(t)
  const image = await site.image('a')
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [{ source: image.file, policy: plain }],
  }) // prettier-ignore
  site.seen('Create')
  const one = await vm.applyPolicy({ disks: encryption }).done
  t.is(site.seen('Create'), 1)
  const two = await vm.addDisk({ source: image.file }).done
  t.is(site.seen('Create'), 1)
  const three = await vm.addDisk({ capacityBytes: 2 ** 20, policy: plain }).done
  t.is(site.seen('Create'), 0)
  const keys = three.disks.map(({ key }) => key?.keyId)
  t.is(keys[0], one.disks[0]?.key?.keyId)
  t.is(keys[1], two.disks[1]?.key?.keyId)
  t.is(keys[2], undefined)
  t.is(new Set([three.homeKey?.keyId, keys[0], keys[1]]).size, 3)
  t.deepEqual(three.disks.map(({ policy, device }) => [device, policy]), [['scsi0:0', encryption], ['scsi0:1', encryption], ['scsi0:2', plain]]) // prettier-ignore
  for (const disk of ['scsi0:0', 'scsi0:1'])
    t.is((await vm.digest(disk, { host: 'esx-2' })).sha256, image.sha256)
  t.is((await vm.powerOn()).powerState, 'poweredOn')
})

test('a powered on VM refuses encryption changes, whatever host is asked, and no key is made', async (t) => {
  const site = await openSite(t)
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [{ capacityBytes: 2 ** 20 }],
  }) // prettier-ignore
  t.like(await vm.powerOn({ host: 'esx-2' }), { powerState: 'poweredOn', host: 'esx-2' })
  const on = { code: 'VMSEAL_INVALID_POWER_STATE' }
  await t.throwsAsync(vm.applyPolicy({ home: encryption }).done, on)
  await t.throwsAsync(vm.applyPolicy({ home: encryption }, { host: 'esx-1' }).done, on)
  await t.throwsAsync(vm.addDisk({ capacityBytes: 512 }).done, on)
  await t.throwsAsync(vm.powerOn(), on)
  await t.throwsAsync(vm.powerOn({ host: 'esx-1' }), on)
  await t.throwsAsync(vm.destroy(), on)
  await t.throwsAsync(vm.unregister(), on)
  t.is((await vm.info()).powerState, 'poweredOn')
  t.like(await vm.applyPolicy({ home: plain }).done, { policy: plain }, 'what changes nothing is no change')
  t.deepEqual(site.operations, [])
  t.is((await vm.powerOff()).powerState, 'poweredOff')
  await t.throwsAsync(vm.powerOff(), on)
  await vm.destroy()
  await t.throwsAsync(access(path.join(site.datastore, 'db01')))
  await t.throwsAsync(vm.info(), { code: 'VMSEAL_NOT_FOUND' })
})

test('bad wishes are refused by name, before a key is made', async (t) => {
  const site = await openSite(t)
  const { vcenter, cluster } = site
  const base = { cluster, datastore: 'ds1', policy: encryption, disks: [] }
  const create = vcenter.virtualMachines.create.bind(vcenter.virtualMachines)
  const vm = await create({ ...base, name: 'db01', policy: plain, disks: [{ capacityBytes: 512 }] })
  await t.throwsAsync(vm.applyPolicy({ home: 'no such' }).done, { code: 'VMSEAL_POLICY_UNKNOWN' })
  await t.throwsAsync(vm.applyPolicy({ home: encryption, disks: { 'scsi9:9': encryption } }).done, {
    code: 'VMSEAL_NOT_FOUND',
  })
  const all = { home: encryption, disks: encryption }
  await t.throwsAsync(vm.applyPolicy(all, { sectorSize: 4096 }).done, { code: 'VMSEAL_SECTOR_ALIGNMENT' })
  await t.throwsAsync(vm.applyPolicy(all, { sectorSize: 1024 as 512 }).done, {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
  await t.throwsAsync(vm.addDisk({}).done, { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(vm.digest('ide0:0'), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(site.read(vm, 'scsi0:0', 0, 513), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(create({ ...base, name: 'db01' }), { code: 'VMSEAL_ALREADY_EXISTS' })
  for (const name of ['', '../x', 'a/b', '.hidden', 'x'.repeat(81), 'new\nline'])
    await t.throwsAsync(create({ ...base, name }), { code: 'VMSEAL_INVALID_ARGUMENT' }, name)
  await t.throwsAsync(create({ ...base, name: 'x', disks: [{ capacityBytes: 513 }] }), {
    code: 'VMSEAL_SECTOR_ALIGNMENT',
  })
  for (const capacityBytes of [0, -512, 1.5, Number.NaN])
    await t.throwsAsync(create({ ...base, name: 'x', disks: [{ capacityBytes }] }), {
      code: 'VMSEAL_INVALID_ARGUMENT',
    })
  await t.throwsAsync(create({ ...base, name: 'x', cluster: 'none' }), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(create({ ...base, name: 'x', host: 'esx-77' }), { code: 'VMSEAL_HOST_UNREACHABLE' })
  await vm.unregister()
  await t.throwsAsync(
    create({ ...base, name: 'db01' }),
    { code: 'VMSEAL_ALREADY_EXISTS' },
    'its files are there',
  )
  t.deepEqual(site.operations, [])
})

test('an image that is none leaves nothing on the datastore and nothing in the inventory', async (t) => {
  const site = await openSite(t)
  const file = path.join(site.directory, 'odd.raw')
  await writeFile(file, 'x'.repeat(1000))
  const spec = { name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption }
  const machines = site.vcenter.virtualMachines
  await t.throwsAsync(machines.import({ ...spec, disks: [file] }), { code: 'VMSEAL_SECTOR_ALIGNMENT' })
  await t.throwsAsync(machines.import({ ...spec, disks: [`${file}.missing`] }), { code: 'VMSEAL_NOT_FOUND' })
  t.deepEqual(await machines.list(), [])
  t.deepEqual(await fingerprints(site.datastore), {})
})

test('progress is told in bytes to the end, and a cancelled task leaves the VM as it was', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const image = await site.image('a', 48)
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [image.file],
  }) // prettier-ignore
  const before = await fingerprints(site.datastore)
  const controller = new AbortController()
  const cancelled = vm.applyPolicy(
    { home: encryption, disks: encryption },
    { signal: controller.signal, maxBytesPerSecond: 1 },
  )
  cancelled.on('step', ({ action }) => {
    if (action === 'work started') setImmediate(() => controller.abort())
  })
  await t.throwsAsync(cancelled.done, { code: 'VMSEAL_CANCELLED' })
  t.is(cancelled.state, 'cancelled')
  t.deepEqual(await fingerprints(site.datastore), before)
  t.is((await vm.info()).homeKey, undefined)

  const progress: TaskProgress[] = []
  const task = vm.applyPolicy({ home: encryption, disks: encryption })
  task.on('progress', (entry) => progress.push(entry))
  await task.done
  const last = progress.at(-1)
  t.true((last?.totalBytes ?? 0) >= 48 * 2 ** 20)
  t.is(last?.doneBytes, last?.totalBytes)
  t.true(progress.every(({ doneBytes }, index) => doneBytes >= (progress[index - 1]?.doneBytes ?? 0)))
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
})
