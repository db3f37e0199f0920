import { execFileSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { ReconfigureSpec } from '../../src/rpc/host-api.js'
import {
  decrypt,
  encryptWith,
  folderOf,
  idOf,
  install,
  makeKek,
  makeLab,
  makeVm,
  type Lab,
  type MadeVm,
} from './fixture.js'

async function refuses(t: ExecutionContext, lab: Lab, vm: MadeVm, spec: ReconfigureSpec, code: string) {
  const before = await folderOf(lab, vm.config.name)
  await t.throwsAsync(
    lab.host.reconfigureVirtualMachine(vm.reference, spec),
    { code },
    `${code} ${JSON.stringify(spec)}`,
  )
  t.deepEqual(await folderOf(lab, vm.config.name), before)
}

test('order and state rules on a real VM', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const encrypt = encryptWith(kek)
  const plain = await makeVm(lab, { name: 'plain' })
  const [a, b] = plain.config.disks.map(({ diskId }) => diskId) as [string, string]
  await refuses(t, lab, plain, { home: decrypt }, 'VMSEAL_INVALID_STATE')
  await refuses(t, lab, plain, { disks: [{ diskId: a, crypto: decrypt }] }, 'VMSEAL_DISK_STATE')
  await refuses(t, lab, plain, { disks: [{ diskId: a, crypto: encrypt }] }, 'VMSEAL_ENCRYPTION_MISMATCH')
  await refuses(t, lab, plain, { disks: [{ diskId: randomUUID(), crypto: encrypt }] }, 'VMSEAL_NOT_FOUND')
  const added = { diskId: randomUUID(), capacityBytes: 65536 }
  await refuses(t, lab, plain, { addDisks: [{ ...added, key: idOf(kek) }] }, 'VMSEAL_ENCRYPTION_MISMATCH')
  await refuses(t, lab, plain, { addDisks: [{ ...added, diskId: b }] }, 'VMSEAL_ALREADY_EXISTS')

  const sealed = await makeVm(lab, { name: 'sealed', homeKey: kek, diskKey: kek })
  const [c, d] = sealed.config.disks.map(({ diskId }) => diskId) as [string, string]
  await refuses(t, lab, sealed, { home: encrypt }, 'VMSEAL_INVALID_STATE')
  await refuses(t, lab, sealed, { home: decrypt }, 'VMSEAL_ENCRYPTION_MISMATCH')
  await refuses(
    t,
    lab,
    sealed,
    { home: decrypt, disks: [{ diskId: c, crypto: decrypt }] },
    'VMSEAL_ENCRYPTION_MISMATCH',
  )
  await refuses(t, lab, sealed, { disks: [{ diskId: d, crypto: encrypt }] }, 'VMSEAL_DISK_STATE')
  // One wrong part refuses the whole.
  await refuses(
    t,
    lab,
    sealed,
    { disks: [{ diskId: c, crypto: decrypt }], addDisks: [{ ...added, key: idOf(makeKek()) }] },
    'VMSEAL_ENCRYPTION_KEY_REQUIRED',
  )
})

test('keys that are not on the host are all named at once', async (t) => {
  const lab = await makeLab(t)
  const [home, disk, extra] = [makeKek('home'), makeKek('disk'), makeKek('extra')]
  await install(lab.host, home)
  const vm = await makeVm(lab, { homeKey: home })
  await lab.host.removeKey(idOf(home))
  const [first, second] = vm.config.disks.map(({ diskId }) => diskId) as [string, string]
  const spec = {
    disks: [
      { diskId: first, crypto: encryptWith(disk) },
      { diskId: second, crypto: encryptWith(disk) },
    ],
    addDisks: [{ diskId: randomUUID(), capacityBytes: 512, key: idOf(extra) }],
  }
  const before = await folderOf(lab)
  const error = await t.throwsAsync(lab.host.reconfigureVirtualMachine(vm.reference, spec), {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
  })
  t.like(error, { details: { requiredKeys: [home, disk, extra].map(idOf) } })
  t.deepEqual(await folderOf(lab), before)
})

test('a VM that is on, no room, a VM that is not there', async (t) => {
  let free = Number.MAX_SAFE_INTEGER
  const lab = await makeLab(t, { freeBytes: () => Promise.resolve(free) })
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab)
  const disks = vm.config.disks.map(({ diskId }) => ({ diskId, crypto: encryptWith(kek) }))
  const spec: ReconfigureSpec = { home: encryptWith(kek), disks }
  await lab.host.powerOn(vm.reference)
  await refuses(t, lab, vm, spec, 'VMSEAL_INVALID_POWER_STATE')
  await lab.host.powerOff(vm.reference)
  // One disk is half a hole: the room needed is that of the data.
  free = 1024 * 1024 + 256 * 1024
  await refuses(t, lab, vm, spec, 'VMSEAL_NO_SPACE')
  free = 2 * 1024 * 1024
  await lab.host.reconfigureVirtualMachine(vm.reference, spec)
  const missing = { datastore: 'ds1', vmx: 'db09/db09.vmx' }
  await t.throwsAsync(lab.host.reconfigureVirtualMachine(missing, spec), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(lab.host.reconfigureVirtualMachine({ ...missing, datastore: 'x' }, spec), {
    code: 'VMSEAL_NOT_FOUND',
  })
})

test('disks whose files are links, missing or cut are refused', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const encrypt = encryptWith(kek)
  for (const [name, spoil] of Object.entries({
    'extent-link': async (folder: string, vm: string) => {
      await rm(join(folder, `${vm}-flat.vmdk`))
      await symlink('/etc/passwd', join(folder, `${vm}-flat.vmdk`))
    },
    'descriptor-link': async (folder: string, vm: string) => {
      await rm(join(folder, `${vm}.vmdk`))
      await symlink(join(folder, `${vm}_1.vmdk`), join(folder, `${vm}.vmdk`))
    },
    'extent-gone': (folder: string, vm: string) => rm(join(folder, `${vm}-flat.vmdk`)),
    'extent-cut': (folder: string, vm: string) => truncate(join(folder, `${vm}-flat.vmdk`), 512),
    'descriptor-elsewhere': (folder: string, vm: string) =>
      writeFile(
        join(folder, `${vm}.vmdk`),
        '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 1 FLAT "../../etc/passwd" 0\n',
      ),
  })) {
    const vm = await makeVm(lab, { name })
    await spoil(join(lab.datastore, name), name)
    const disks = [{ diskId: vm.config.disks[0]!.diskId, crypto: encrypt }]
    const before = await folderOf(lab, name).catch(() => undefined)
    const error = await t.throwsAsync(
      lab.host.reconfigureVirtualMachine(vm.reference, { home: encrypt, disks }),
    )
    t.regex(
      (error as { code?: string }).code ?? '',
      /^VMSEAL_(IO|NOT_FOUND|EXTENT_INVALID|DESCRIPTOR_\w+)$/,
      name,
    )
    t.deepEqual(await folderOf(lab, name).catch(() => undefined), before)
  }
})

test('a .vmx that leads out of the folder, or repeats a disk, is refused', async (t) => {
  const lab = await makeLab(t)
  const vm = await makeVm(lab)
  const path = join(lab.datastore, 'db01', 'db01.vmx')
  const original = await readFile(path, 'utf8')
  for (const [from, to] of [
    ['"db01.vmdk"', '"../db02/db02.vmdk"'],
    ['"db01.vmdk"', '"/etc/passwd"'],
    ['"db01.vmdk"', '"db01-flat.vmdk"'],
    ['"db01.vmdk"', '"db01_1.vmdk"'],
    ['"db01.nvram"', '"db01.vmx"'],
    ['"db01.nvram"', '"../db01/db01.nvram"'],
    ['vmseal.gen = "1"', 'vmseal.gen = "0"'],
    ['vmseal.gen = "1"', 'vmseal.gen = "4294967295"'],
    ['vmseal.gen = "1"', 'vmseal.gen = "1e3"'],
    ['vmseal.gen = "1"', 'vmseal.gen = "-1"'],
    ['scsi0:0.present = "TRUE"', 'scsi0:0.present = "FALSE"'],
    [vm.config.vmId, 'not-a-uuid'],
    [vm.config.disks[1]!.diskId, vm.config.disks[0]!.diskId],
  ] as const) {
    await writeFile(path, original.replaceAll(from, to))
    await t.throwsAsync(
      lab.host.readVirtualMachine(vm.reference),
      { code: 'VMSEAL_VMX_INVALID' },
      `${from} -> ${to}`,
    )
    await t.throwsAsync(lab.host.destroyVirtualMachine(vm.reference), { code: 'VMSEAL_VMX_INVALID' })
  }
})

test('what stands in place of a .vmx, a lock or a task file is not followed, awaited or swallowed', async (t) => {
  const lab = await makeLab(t)
  const vm = await makeVm(lab)
  const folder = join(lab.datastore, 'db01')
  const path = join(folder, 'db01.vmx')
  const original = await readFile(path)
  await writeFile(path, 'x'.repeat(2 * 1024 * 1024))
  await t.throwsAsync(lab.host.powerOn(vm.reference), { code: 'VMSEAL_VMX_INVALID' })
  await rm(path)
  execFileSync('mkfifo', [path])
  await t.throwsAsync(lab.host.powerOn(vm.reference), { code: 'VMSEAL_IO' })
  await rm(path)
  await mkdir(path)
  await t.throwsAsync(lab.host.powerOn(vm.reference), { code: 'VMSEAL_IO' })
  await rm(path, { recursive: true })
  await writeFile(path, original)
  await writeFile(join(folder, 'db01.vmx.lck'), 'x'.repeat(10_000))
  await t.throwsAsync(lab.host.powerOn(vm.reference), { code: 'VMSEAL_FILE_LOCKED' })
  await rm(join(folder, 'db01.vmx.lck'))
  await symlink('/etc/passwd', join(folder, 'db01.vmseal-task'))
  await t.throwsAsync(lab.host.powerOn(vm.reference), { code: 'VMSEAL_IO' })
  await rm(join(folder, 'db01.vmseal-task'))
  await lab.host.powerOn(vm.reference)
})

test('a descriptor that claims the extent of another disk is refused, so that nobody deletes it', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab)
  const path = join(lab.datastore, 'db01', 'db01.vmdk')
  const text = await readFile(path, 'utf8')
  await writeFile(path, text.replace('"db01-flat.vmdk"', '"db01_1-flat.vmdk"'))
  const disks = [{ diskId: vm.config.disks[0]!.diskId, crypto: encryptWith(kek) }]
  await refuses(t, lab, vm, { home: encryptWith(kek), disks }, 'VMSEAL_DESCRIPTOR_UNSUPPORTED')
})
