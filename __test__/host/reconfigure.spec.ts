import { randomUUID } from 'node:crypto'
import { readFile, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { VmxDocument } from '../../src/host/vmx.js'
import type { WorkProgress } from '../../src/rpc/host-api.js'
import {
  decrypt,
  encryptWith,
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
  type Lab,
  type MadeVm,
} from './fixture.js'

async function vmxOf(lab: Lab) {
  return VmxDocument.parse(await readFile(join(lab.datastore, 'db01', 'db01.vmx')), 'x')
}

function allDisks(vm: MadeVm, crypto: ReturnType<typeof encryptWith>) {
  return vm.config.disks.map(({ diskId }) => ({ diskId, crypto }))
}

async function leftovers(lab: Lab) {
  const names = await readdir(join(lab.datastore, 'db01'))
  return names.filter((name) => name.startsWith('.') || name.endsWith('.lck') || name.endsWith('-task'))
}

test('B3: a whole VM is encrypted and decrypted again, byte for byte', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek('the-kek')
  await install(lab.host, kek)
  const vm = await makeVm(lab)
  const before = await folderOf(lab)
  const settings = await vmxOf(lab)
  t.true((await filesWith(lab, marker.trim())).length > 0)

  const sealed = await lab.host.reconfigureVirtualMachine(vm.reference, {
    home: encryptWith(kek),
    disks: allDisks(vm, encryptWith(kek)),
  })
  t.deepEqual(sealed.homeKey, idOf(kek))
  for (const disk of sealed.disks) t.deepEqual(disk.key, idOf(kek))
  t.deepEqual(
    sealed.disks.map(({ file }) => file),
    ['db01_2.vmdk', 'db01_3.vmdk'],
  )
  t.deepEqual(await filesWith(lab, marker.trim()), [])
  t.deepEqual(await filesWith(lab, secretSetting), [])
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  t.is((await vmxOf(lab)).get('memsize'), undefined)
  t.is((await vmxOf(lab)).get('displayName'), 'db01')
  t.deepEqual(await leftovers(lab), [])

  const plain = await lab.host.reconfigureVirtualMachine(vm.reference, {
    home: decrypt,
    disks: allDisks(vm, decrypt),
  })
  t.is(plain.homeKey, undefined)
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  const after = await folderOf(lab)
  t.deepEqual(Object.keys(after), Object.keys(before))
  for (const name of ['db01-flat.vmdk', 'db01_1-flat.vmdk', 'db01.nvram'])
    t.is(after[name], before[name], name)
  const vmx = await vmxOf(lab)
  for (const key of settings.keys()) if (key !== 'vmseal.gen') t.is(vmx.get(key), settings.get(key), key)
  t.is(vmx.get('vmseal.gen'), '3')
  t.is(vmx.get('migrate.encryptionMode'), 'required', 'as in vSphere, until it is changed by hand')
  t.is(vmx.keys().length, settings.keys().length + 1)
  t.deepEqual(await filesWith(lab, 'the-kek'), [])
  t.deepEqual(await filesWith(lab, 'vmseal.dek'), [])
})

test('home and one disk only; the other disk is not touched', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab)
  const before = await folderOf(lab)
  const first = vm.config.disks[0]!.diskId
  const config = await lab.host.reconfigureVirtualMachine(vm.reference, {
    home: encryptWith(kek),
    disks: [{ diskId: first, crypto: encryptWith(kek) }],
  })
  t.deepEqual(
    config.disks.map(({ key, file }) => [key, file]),
    [
      [idOf(kek), 'db01_2.vmdk'],
      [undefined, 'db01_1.vmdk'],
    ],
  )
  const after = await folderOf(lab)
  t.is(after['db01_1-flat.vmdk'], before['db01_1-flat.vmdk'])
  t.is(after['db01_1.vmdk'], before['db01_1.vmdk'])
  t.false('db01-flat.vmdk' in after)
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})

test('home first, then each disk with a key of its own, then the disks back and home last', async (t) => {
  const lab = await makeLab(t)
  const keks = [makeKek('home'), makeKek('disk-0'), makeKek('disk-1', 'kms-2')] as const
  await install(lab.host, ...keks)
  const vm = await makeVm(lab)
  const change = (spec: Parameters<typeof lab.host.reconfigureVirtualMachine>[1]) =>
    lab.host.reconfigureVirtualMachine(vm.reference, spec)
  const ids = vm.config.disks.map(({ diskId }) => diskId)
  await change({ home: encryptWith(keks[0]) })
  for (const [index, diskId] of ids.entries())
    await change({
      disks: [{ diskId, crypto: encryptWith(keks[index + 1]!), sectorSize: index === 0 ? 4096 : 512 }],
    })
  const sealed = await lab.host.readVirtualMachine(vm.reference)
  t.deepEqual([sealed.homeKey, ...sealed.disks.map(({ key }) => key)], keks.map(idOf))
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  for (const diskId of ids) await change({ disks: [{ diskId, crypto: decrypt }] })
  const plain = await change({ home: decrypt })
  t.deepEqual(plain.missingKeys, [])
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  t.is((await vmxOf(lab)).get('vmseal.gen'), '7')
})

test('A4: every encryption makes another DEK: equal disks have different ciphertexts', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { images: 1 })
  const seen = new Set<string>()
  for (let round = 0; round < 3; round += 1) {
    const spec = { home: encryptWith(kek), disks: allDisks(vm, encryptWith(kek)) }
    const { disks } = await lab.host.reconfigureVirtualMachine(vm.reference, spec)
    const extent = disks[0]!.file.replace('.vmdk', '-flat.vmdk')
    seen.add((await folderOf(lab))[extent]!)
    await lab.host.reconfigureVirtualMachine(vm.reference, { home: decrypt, disks: allDisks(vm, decrypt) })
  }
  t.is(seen.size, 3)
})

test('disks are added: encrypted from an image, empty, and plain, to an encrypted VM', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { images: 1, homeKey: kek, diskKey: kek })
  const source = await makeImage(lab, 'new.raw')
  const before = await sha256Of(source)
  const ids = [randomUUID(), randomUUID(), randomUUID()] as const
  const config = await lab.host.reconfigureVirtualMachine(vm.reference, {
    addDisks: [
      { diskId: ids[0], source, key: idOf(kek) },
      { diskId: ids[1], capacityBytes: 65536, key: idOf(kek), sectorSize: 4096 },
      { diskId: ids[2], source },
    ],
  })
  t.deepEqual(
    config.disks.map(({ device, key }) => [device, key !== undefined]),
    [
      ['scsi0:0', true],
      ['scsi0:1', true],
      ['scsi0:2', true],
      ['scsi0:3', false],
    ],
  )
  const extent = config.disks[3]!.file.replace('.vmdk', '-flat.vmdk')
  t.deepEqual(await filesWith(lab, marker.trim()), [extent])
  t.is((await lab.host.digestDisk(vm.reference, ids[0])).sha256, before)
  t.is((await lab.host.digestDisk(vm.reference, ids[2])).sha256, before)
  t.is(await sha256Of(source), before)
})

test('nvram and every other home file is encrypted under its own role, and comes back', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { images: 1 })
  const folder = join(lab.datastore, 'db01')
  const homeFiles = [
    'db01.nvram',
    'db01.vswp',
    'db01.vmss',
    'db01.vmem',
    'db01-Snapshot1.vmsn',
    'db01-Snapshot2.vmsn',
  ]
  for (const name of homeFiles) await writeFile(join(folder, name), `${name} ${marker.repeat(3000)}`)
  await writeFile(
    join(folder, 'db01.vmsd'),
    `.encoding = "UTF-8"\nsnapshot.numSnapshots = "0"\nnote = "${marker.trim()}"\n`,
  )
  const before = await folderOf(lab)
  await lab.host.reconfigureVirtualMachine(vm.reference, { home: encryptWith(kek) })
  t.deepEqual(await filesWith(lab, marker.trim()), ['db01-flat.vmdk', 'db01.vmsd'])
  const sealed = await folderOf(lab)
  t.is(Object.values(sealed).filter((digest) => Object.values(before).includes(digest)).length, 3)
  await lab.host.reconfigureVirtualMachine(vm.reference, { home: decrypt })
  const after = await folderOf(lab)
  for (const name of homeFiles) t.is(after[name], before[name], name)
  t.deepEqual(Object.keys(after), Object.keys(before))
})

test('the log tells what was done and holds no secret', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek('key-id')
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek })
  await lab.host.powerOn(vm.reference)
  await lab.host.powerOff(vm.reference)
  await lab.host.reconfigureVirtualMachine(vm.reference, { home: decrypt, disks: allDisks(vm, decrypt) })
  const log = await readFile(join(lab.datastore, 'db01', 'vmware.log'), 'utf8')
  const lines = log.trimEnd().split('\n')
  t.is(lines.length, 4)
  for (const line of lines) t.regex(line, /^\d{4}-\d\d-\d\dT[\d:.]+Z esx-1: \S/)
  t.regex(log, /decrypt scsi0:0, decrypt scsi0:1, decrypt nvram; generation 2/)
  for (const secret of [marker.trim(), 'hunter2', secretSetting]) t.false(log.includes(secret))
})

test('progress runs from the first byte to the last over all disks and never back', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { bytes: 24 * 1024 * 1024 })
  const events: WorkProgress[] = []
  const spec = { home: encryptWith(kek), disks: allDisks(vm, encryptWith(kek)) }
  await lab.host.reconfigureVirtualMachine(vm.reference, spec, { onProgress: (event) => events.push(event) })
  // Each disk is written and read back.
  const total = 2 * 2 * 24 * 1024 * 1024 + 64 * 1024
  t.true(events.length >= 3)
  t.true(events.every(({ totalBytes }) => totalBytes === total))
  t.is(events.at(-1)?.doneBytes, total)
  for (const [index, event] of events.entries()) {
    const previous = events[index - 1]
    if (previous && index < events.length - 1) t.true(event.doneBytes > previous.doneBytes)
  }
  t.true(events.some(({ step }) => step === 'encrypt scsi0:0'))
  const digest: WorkProgress[] = []
  await lab.host.digestDisk(vm.reference, vm.config.disks[0]!.diskId, {
    onProgress: (event) => digest.push(event),
  })
  t.is(digest.at(-1)?.doneBytes, 24 * 1024 * 1024)
})

test('a change that asks for nothing changes nothing', async (t) => {
  const lab = await makeLab(t)
  const vm = await makeVm(lab)
  const before = await folderOf(lab)
  t.deepEqual(await lab.host.reconfigureVirtualMachine(vm.reference, {}), vm.config)
  t.deepEqual(await lab.host.reconfigureVirtualMachine(vm.reference, { disks: [], addDisks: [] }), vm.config)
  t.deepEqual(await folderOf(lab), before)
})
