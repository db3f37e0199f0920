import { randomUUID } from 'node:crypto'
import { mkdir, readFile, readdir, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { VmxDocument } from '../../src/host/vmx.js'
import type { CreateSpec } from '../../src/rpc/host-api.js'
import {
  filesWith,
  folderOf,
  guestDigests,
  idOf,
  install,
  makeImage,
  makeKek,
  makeLab,
  makeVm,
  marker,
  secretSetting,
  sha256Of,
} from './fixture.js'
import { splitExtent } from './several-extents.js'

function bad(part: object) {
  return { diskId: randomUUID(), ...part }
}

async function vmxOf(directory: string, name = 'db01') {
  return VmxDocument.parse(await readFile(join(directory, name, `${name}.vmx`)), 'x')
}

test('a plain VM: readable files, disks equal to their images, erased flash', async (t) => {
  const lab = await makeLab(t)
  const vm = await makeVm(lab)
  t.like(vm.config, { name: 'db01', vmx: 'db01/db01.vmx', cryptoState: 'unlocked', powerState: 'poweredOff' })
  t.is(vm.config.homeKey, undefined)
  t.deepEqual(vm.config.missingKeys, [])
  t.deepEqual(
    vm.config.disks.map(({ device, file, key, capacityBytes }) => [device, file, key, capacityBytes]),
    [
      ['scsi0:0', 'db01.vmdk', undefined, 256 * 1024],
      ['scsi0:1', 'db01_1.vmdk', undefined, 256 * 1024],
    ],
  )
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  t.deepEqual(Object.keys(await folderOf(lab)), [
    'db01-flat.vmdk',
    'db01.nvram',
    'db01.vmdk',
    'db01.vmsd',
    'db01.vmx',
    'db01_1-flat.vmdk',
    'db01_1.vmdk',
    'vmware.log',
  ])
  t.deepEqual(await readFile(join(lab.datastore, 'db01', 'db01.nvram')), Buffer.alloc(64 * 1024, 0xff))
  const vmx = await vmxOf(lab.datastore)
  t.is(vmx.get('vmseal.id'), vm.config.vmId)
  t.is(vmx.get('vmseal.gen'), '1')
  t.is(vmx.get('scsi0:1.fileName'), 'db01_1.vmdk')
  t.is(vmx.get('memsize'), '1024')
  t.regex(vmx.get('uuid.bios') ?? '', /^([0-9a-f]{2} ){7}[0-9a-f]{2}-([0-9a-f]{2} ){7}[0-9a-f]{2}$/)
  t.deepEqual(await lab.host.findVirtualMachines('ds1'), [vm.reference])
  for (const name of await readdir(join(lab.datastore, 'db01')))
    t.is((await stat(join(lab.datastore, 'db01', name))).mode & 0o077, 0, name)
})

test('B7: a VM encrypted from the first byte shows its keys and none of its contents', async (t) => {
  const lab = await makeLab(t)
  const [homeKey, diskKey] = [makeKek('home-key'), makeKek('disk-key', 'kms-2')]
  await install(lab.host, homeKey, diskKey)
  const vm = await makeVm(lab, { homeKey, diskKey })
  t.deepEqual(vm.config.homeKey, idOf(homeKey))
  t.deepEqual(
    vm.config.disks.map(({ key }) => key),
    [idOf(diskKey), idOf(diskKey)],
  )
  t.deepEqual(await filesWith(lab, marker.trim()), [])
  t.deepEqual(await filesWith(lab, 'hunter2'), [])
  t.deepEqual(await filesWith(lab, secretSetting), [])
  t.deepEqual(await filesWith(lab, 'memsize'), [])
  t.false((await readFile(join(lab.datastore, 'db01', 'db01.nvram'))).includes(Buffer.alloc(16, 0xff)))
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  const names = await readdir(join(lab.datastore, 'db01'))
  t.false(names.some((name) => name.includes('tmp') || name.includes('task') || name.endsWith('.lck')))
  // The same files on a host without the keys.
  const stranger = await lab.start('esx-2')
  const seen = await stranger.readVirtualMachine(vm.reference)
  t.like(seen, { cryptoState: 'locked', name: 'db01', homeKey: idOf(homeKey) })
  t.deepEqual(seen.missingKeys, [idOf(homeKey), idOf(diskKey)])
})

test('empty disks of both sector sizes, plain and encrypted, read as zeros', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const disks = [{ key: idOf(kek) }, { key: idOf(kek), sectorSize: 4096 as const }, {}].map((part) => ({
    diskId: randomUUID(),
    capacityBytes: 64 * 1024,
    ...part,
  }))
  const spec = { vmId: randomUUID(), name: 'empty vm', datastore: 'ds1', disks, homeKey: idOf(kek) }
  const config = await lab.host.createVirtualMachine(spec)
  t.is(config.vmx, 'empty vm/empty vm.vmx')
  for (const { diskId } of disks) {
    const read = Buffer.from(await lab.host.readDisk(config, diskId, 1000, 5000), 'base64')
    t.deepEqual(read, Buffer.alloc(5000))
  }
})

test('a creation that fails leaves no folder and the image as it was', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const image = await makeImage(lab, 'a.raw')
  const before = await sha256Of(image)
  const odd = await makeImage(lab, 'odd.raw')
  await truncate(odd, 1000)
  const empty = join(lab.images, 'empty.raw')
  await writeFile(empty, '')
  const base: CreateSpec = { vmId: randomUUID(), name: 'db01', datastore: 'ds1', disks: [] }
  const sound = { diskId: randomUUID(), source: image }
  const cases: [CreateSpec, string][] = [
    [{ ...base, disks: [sound, bad({ source: odd })] }, 'VMSEAL_IMAGE_INVALID'],
    [{ ...base, disks: [sound, bad({ source: empty })] }, 'VMSEAL_IMAGE_INVALID'],
    [{ ...base, disks: [sound, bad({ source: join(lab.images, 'missing') })] }, 'VMSEAL_NOT_FOUND'],
    [{ ...base, disks: [sound, bad({ source: lab.images })] }, 'VMSEAL_IMAGE_INVALID'],
    [{ ...base, disks: [bad({ source: image, key: idOf(kek) })] }, 'VMSEAL_ENCRYPTION_MISMATCH'],
    [{ ...base, homeKey: idOf(makeKek()) }, 'VMSEAL_ENCRYPTION_KEY_REQUIRED'],
    [
      {
        ...base,
        homeKey: idOf(kek),
        disks: [bad({ capacityBytes: 4608, key: idOf(kek), sectorSize: 4096 })],
      },
      'VMSEAL_SECTOR_ALIGNMENT',
    ],
    [{ ...base, datastore: 'ds9' }, 'VMSEAL_NOT_FOUND'],
    [{ ...base, settings: { memsize: '\ud800' } }, 'VMSEAL_INVALID_ARGUMENT'],
  ]
  for (const [spec, code] of cases) {
    await t.throwsAsync(lab.host.createVirtualMachine(spec), { code }, code)
    t.deepEqual(await readdir(lab.datastore), [])
  }
  t.is(await sha256Of(image), before)
})

test('an image that needs qemu-img, or is encrypted, is not encrypted on the way in', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const qcow2 = join(lab.images, 'a.qcow2')
  const header = Buffer.alloc(64 * 1024)
  header.write('QFI\xfb', 'latin1')
  header.writeUInt32BE(3, 4)
  header.writeUInt32BE(16, 20)
  header.writeBigUInt64BE(1048576n, 24)
  await writeFile(qcow2, header)
  const spec = (source: string) => ({
    vmId: randomUUID(),
    name: 'db02',
    datastore: 'ds1',
    homeKey: idOf(kek),
    disks: [{ diskId: randomUUID(), source, key: idOf(kek) }],
  })
  await t.throwsAsync(lab.host.createVirtualMachine(spec(qcow2)), {
    code: 'VMSEAL_IMAGE_INVALID',
    message: /import it plain, then encrypt/,
  })
  await makeVm(lab, { images: 1, homeKey: kek, diskKey: kek })
  const sealed = join(lab.datastore, 'db01', 'db01.vmdk')
  await t.throwsAsync(lab.host.createVirtualMachine(spec(sealed)), {
    code: 'VMSEAL_DISK_STATE',
    message: /not supported/,
  })
  t.deepEqual(await readdir(lab.datastore), ['db01'])
})

test('no room on the datastore is found before anything is written', async (t) => {
  const lab = await makeLab(t, { freeBytes: () => Promise.resolve(1024 * 1024 + 100_000) })
  const image = await makeImage(lab, 'a.raw')
  const spec = {
    vmId: randomUUID(),
    name: 'db01',
    datastore: 'ds1',
    disks: [{ diskId: randomUUID(), source: image }],
  }
  await t.throwsAsync(lab.host.createVirtualMachine(spec), { code: 'VMSEAL_NO_SPACE' })
  t.deepEqual(await readdir(lab.datastore), [])
})

test('a folder that exists is not used, except what a crashed creation left', async (t) => {
  const lab = await makeLab(t)
  await makeVm(lab)
  const before = await folderOf(lab)
  await t.throwsAsync(makeVm(lab), { code: 'VMSEAL_ALREADY_EXISTS' })
  t.deepEqual(await folderOf(lab), before)
  await mkdir(join(lab.datastore, 'db02'))
  await writeFile(join(lab.datastore, 'db02', 'thesis.txt'), 'mine')
  await t.throwsAsync(makeVm(lab, { name: 'db02' }), { code: 'VMSEAL_ALREADY_EXISTS' })
  t.deepEqual(await readdir(join(lab.datastore, 'db02')), ['thesis.txt'])
  await mkdir(join(lab.datastore, 'db03'))
  t.deepEqual(await guestDigests(lab.host, await makeVm(lab, { name: 'db03' })).then((all) => all.length), 2)
  await symlink(lab.images, join(lab.datastore, 'db04'))
  await t.throwsAsync(makeVm(lab, { name: 'db04' }), { instanceOf: Error })
  t.deepEqual(await readdir(lab.images).then((all) => all.filter((name) => !name.endsWith('.raw'))), [])
})

test('destroying removes the VM’s files and nothing else', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek })
  await lab.host.removeKey(idOf(kek))
  await lab.host.destroyVirtualMachine(vm.reference)
  t.deepEqual(await readdir(lab.datastore), [])
  await t.throwsAsync(lab.host.destroyVirtualMachine(vm.reference), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(lab.host.readVirtualMachine(vm.reference), { code: 'VMSEAL_NOT_FOUND' })
  const other = await makeVm(lab, { name: 'db02' })
  await writeFile(join(lab.datastore, 'db02', 'notes.txt'), 'keep me')
  await lab.host.powerOn(other.reference)
  await t.throwsAsync(lab.host.destroyVirtualMachine(other.reference), { code: 'VMSEAL_INVALID_POWER_STATE' })
  await lab.host.powerOff(other.reference)
  await lab.host.destroyVirtualMachine(other.reference)
  t.deepEqual(await readdir(join(lab.datastore, 'db02')), ['notes.txt'])
})

test('destroying removes every extent of a disk that has several, below a snapshot too', async (t) => {
  const lab = await makeLab(t)
  for (const snapshots of [0, 1]) {
    const vm = await makeVm(lab)
    await splitExtent(join(lab.datastore, 'db01'), 'db01')
    t.deepEqual((await lab.host.readVirtualMachine(vm.reference)).disks.length, 2)
    for (let taken = 0; taken < snapshots; taken++)
      await lab.host.createSnapshot(vm.reference, { snapshotId: randomUUID(), name: 's' })
    await lab.host.destroyVirtualMachine(vm.reference)
    t.deepEqual(await readdir(lab.datastore), [])
  }
})

test('a destruction that a crash interrupted is finished by the next call', async (t) => {
  const lab = await makeLab(t)
  const vm = await makeVm(lab)
  const folder = join(lab.datastore, 'db01')
  const superseded = ['db01.vmdk', 'db01-flat.vmdk', 'db01_1.vmdk', 'db01_1-flat.vmdk', 'db01.nvram']
  const manifest = { version: 1, generation: 0, created: [], superseded }
  await writeFile(join(folder, 'db01.vmseal-task'), JSON.stringify(manifest))
  await rm(join(folder, 'db01.vmx'))
  await rm(join(folder, 'db01.vmdk'))
  await lab.host.destroyVirtualMachine(vm.reference)
  t.deepEqual(await readdir(lab.datastore), [])
})
