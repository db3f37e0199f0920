import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { native } from '../../src/native/load.js'
import {
  encryptWith,
  folderOf,
  guestDigests,
  idOf,
  install,
  makeKek,
  makeLab,
  makeVm,
  marker,
} from './fixture.js'

function used(): number {
  return native.keyMemoryStatus().allocations
}

test('a VM that is on keeps its disks open, also when its keys leave the host', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek })
  t.is((await lab.host.powerOn(vm.reference)).powerState, 'poweredOn')
  await t.throwsAsync(lab.host.powerOn(vm.reference), { code: 'VMSEAL_INVALID_POWER_STATE' })
  await lab.host.removeKey(idOf(kek))
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  const diskId = vm.config.disks[0]!.diskId
  t.true(Buffer.from(await lab.host.readDisk(vm.reference, diskId, 0, 4096), 'base64').includes(marker))
  t.is((await lab.host.powerOff(vm.reference)).powerState, 'poweredOff')
  await t.throwsAsync(lab.host.powerOff(vm.reference), { code: 'VMSEAL_INVALID_POWER_STATE' })
  await t.throwsAsync(lab.host.powerOn(vm.reference), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
})

test('A7: a host without a disk’s key says which disk; home’s key comes first', async (t) => {
  const lab = await makeLab(t)
  const [home, disk] = [makeKek('home'), makeKek('disk')]
  await install(lab.host, home, disk)
  const vm = await makeVm(lab, { images: 1, homeKey: home, diskKey: disk })
  const second = await lab.start('esx-2')
  await t.throwsAsync(second.powerOn(vm.reference), {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
    message: /home of kms-1, disk of kms-1/,
  })
  await install(second, home)
  t.like(await second.readVirtualMachine(vm.reference), {
    cryptoState: 'unlocked',
    missingKeys: [idOf(disk)],
  })
  const error = await t.throwsAsync(second.powerOn(vm.reference), {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
    message: 'The disk [ds1] db01/db01.vmdk is encrypted and a required key was not found',
  })
  t.like(error, { details: { requiredKeys: [idOf(disk)], subject: '[ds1] db01/db01.vmdk' } })
  await install(second, disk)
  await second.powerOn(vm.reference)
  t.deepEqual(await guestDigests(second, vm), [...vm.digests])
})

test('a VM that is on at one host is locked for every other', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  const second = await lab.start('esx-2')
  await install(lab.host, kek)
  await install(second, kek)
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek })
  await lab.host.powerOn(vm.reference)
  for (const attempt of [
    () => second.powerOn(vm.reference),
    () => second.destroyVirtualMachine(vm.reference),
    () => second.reconfigureVirtualMachine(vm.reference, { addDisks: [] }),
  ])
    await t.throwsAsync(attempt(), { code: 'VMSEAL_FILE_LOCKED' })
  t.deepEqual(await guestDigests(second, vm), [...vm.digests])
  await lab.host.restart()
  await second.powerOn(vm.reference)
})

test('a restart: VMs are off and locked, the same keys open them again', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek })
  await lab.host.powerOn(vm.reference)
  await lab.host.restart()
  t.like(await lab.host.readVirtualMachine(vm.reference), {
    powerState: 'poweredOff',
    cryptoState: 'locked',
    missingKeys: [idOf(kek)],
  })
  t.false(Object.keys(await folderOf(lab)).some((name) => name.endsWith('.lck')))
  await t.throwsAsync(lab.host.powerOn(vm.reference), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  await install(lab.host, kek)
  t.is((await lab.host.readVirtualMachine(vm.reference)).cryptoState, 'unlocked')
  await lab.host.powerOn(vm.reference)
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})

test('a refused power-on leaves no lock and no open key', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek })
  await rm(join(lab.datastore, 'db01', 'db01_1-flat.vmdk'))
  const before = await folderOf(lab)
  await t.throwsAsync(lab.host.powerOn(vm.reference))
  t.deepEqual(await folderOf(lab), before)
})

test.serial('power on and off, create and convert: every DEK is wiped afterwards', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const before = used()
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek })
  t.is(used(), before)
  await lab.host.powerOn(vm.reference)
  t.true(used() >= before + 3)
  await guestDigests(lab.host, vm)
  await lab.host.powerOff(vm.reference)
  t.is(used(), before)
  const disks = vm.config.disks.map(({ diskId }) => ({ diskId, crypto: { type: 'decrypt' } as const }))
  await lab.host.reconfigureVirtualMachine(vm.reference, { home: { type: 'decrypt' }, disks })
  await t.throwsAsync(
    lab.host.reconfigureVirtualMachine(vm.reference, { disks: [{ ...disks[0]!, crypto: encryptWith(kek) }] }),
  )
  t.is(used(), before)
})

test('reading has bounds', async (t) => {
  const lab = await makeLab(t)
  const vm = await makeVm(lab)
  const diskId = vm.config.disks[0]!.diskId
  const size = 256 * 1024
  for (const [offset, length] of [
    [-1, 1],
    [0, 0],
    [0, 1024 * 1024 + 1],
    [0.5, 1],
    [Number.NaN, 1],
    [size, 1],
    [size - 1, 2],
    [2 ** 53, 1],
  ] as const)
    await t.throwsAsync(lab.host.readDisk(vm.reference, diskId, offset, length), {
      code: 'VMSEAL_INVALID_ARGUMENT',
    })
  t.is(Buffer.from(await lab.host.readDisk(vm.reference, diskId, size - 1, 1), 'base64').length, 1)
  await t.throwsAsync(lab.host.readDisk(vm.reference, vm.config.vmId, 0, 1), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(lab.host.digestDisk(vm.reference, 'x'), { code: 'VMSEAL_INVALID_ARGUMENT' })
})
