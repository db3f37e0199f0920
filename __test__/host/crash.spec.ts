/** kill -9 in the middle of conversions: at many moments of time, and after each change in the VM's folder. */
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { native } from '../../src/native/load.js'
import {
  decrypt,
  encryptWith,
  filesWith,
  folderOf,
  guestDigests,
  install,
  makeImage,
  makeLab,
  makeVm,
  marker,
  sha256Of,
  type Kek,
  type Lab,
  type MadeVm,
} from './fixture.js'
import { convertAndKill, type Moment } from './killed-conversion.js'

const bytes = 4 * 1024 * 1024

function keyFor(): { kek: Kek; secret: Buffer } {
  const secret = randomBytes(32)
  return {
    kek: { keyId: 'kek', providerId: 'kms-1', handle: native.KeyHandle.importUnsafe(Buffer.from(secret)) },
    secret,
  }
}

/** After the crash: whole in the old or the new state, and a rerun ends in the new state without leftovers. */
async function survives(
  t: ExecutionContext,
  lab: Lab,
  vm: MadeVm,
  kek: Kek,
  action: 'encrypt' | 'decrypt',
  why: string,
) {
  const { host } = lab
  t.deepEqual(await guestDigests(host, vm), [...vm.digests], `${why}: contents`)
  const config = await host.readVirtualMachine(vm.reference)
  const sealed = config.disks.map(({ key }) => key !== undefined)
  t.is(new Set([config.homeKey !== undefined, ...sealed]).size, 1, `${why}: all or nothing`)
  if (sealed[0] === (action === 'decrypt')) {
    const crypto = action === 'encrypt' ? encryptWith(kek) : decrypt
    const disks = config.disks.map(({ diskId }) => ({ diskId, crypto }))
    await host.reconfigureVirtualMachine(vm.reference, { home: crypto, disks })
  } else {
    // Committed: taking the lock finishes the deletions.
    await host.powerOn(vm.reference)
    await host.powerOff(vm.reference)
  }
  t.deepEqual(await guestDigests(host, vm), [...vm.digests], `${why}: contents after the rerun`)
  const names = Object.keys(await folderOf(lab))
  const disks = (await host.readVirtualMachine(vm.reference)).disks.flatMap(({ file }) => {
    const plain = [file, file.replace('.vmdk', '-flat.vmdk')]
    return action === 'encrypt' ? [...plain, `${file}.vmseal`] : plain
  })
  const nvram = names.filter((name) => name.endsWith('.nvram'))
  t.is(nvram.length, 1, why)
  t.deepEqual(names, [...disks, ...nvram, 'db01.vmsd', 'db01.vmx', 'vmware.log'].toSorted(), why)
  if (action === 'encrypt') t.deepEqual(await filesWith(lab, marker.trim()), [], why)
}

async function crashes(t: ExecutionContext, action: 'encrypt' | 'decrypt', moments: readonly Moment[]) {
  let interrupted = 0
  for (const moment of moments) {
    const lab = await makeLab(t)
    const { kek, secret } = keyFor()
    await install(lab.host, kek)
    const vm = await makeVm(lab, { bytes, ...(action === 'decrypt' && { homeKey: kek, diskKey: kek }) })
    const done = await convertAndKill(lab, action, secret, moment)
    if (!done) interrupted += 1
    await survives(t, lab, vm, kek, action, `${action} ${JSON.stringify(moment)}`)
    await rm(lab.datastore, { recursive: true })
  }
  t.true(interrupted > 0, 'at least one kill came in the middle')
  t.log(`${interrupted} of ${moments.length} were killed before the end`)
}

const changes = [1, 2, 3, 4, 6, 8, 10, 12, 14, 17, 20, 24, 28, 33, 40, 50].map((count) => ({
  changes: count,
}))

test('killed after the n-th change in the folder while encrypting', (t) => crashes(t, 'encrypt', changes))

test('killed after the n-th change in the folder while decrypting', (t) =>
  crashes(
    t,
    'decrypt',
    changes.filter((_, index) => index % 2 === 0),
  ))

test('killed at random times while encrypting', (t) =>
  crashes(
    t,
    'encrypt',
    Array.from({ length: 8 }, () => ({ milliseconds: Math.floor(Math.random() * 120) })),
  ))

test('killed while creating: no VM, or all of it; the name can be used again', async (t) => {
  let interrupted = 0
  for (const moment of [2, 4, 6, 8, 10, 13, 16, 20].map((count) => ({ changes: count }))) {
    const lab = await makeLab(t)
    const { kek, secret } = keyFor()
    await install(lab.host, kek)
    const source = await makeImage(lab, 'a.raw', bytes)
    await mkdir(join(lab.datastore, 'db01'))
    await convertAndKill(lab, 'create', secret, moment, source)
    if ((await lab.host.findVirtualMachines('ds1')).length === 0) {
      interrupted += 1
      const vm = await makeVm(lab, { images: 1, homeKey: kek, diskKey: kek })
      t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
    }
    t.deepEqual(await filesWith(lab, marker.trim()), [])
    const config = await lab.host.powerOn({ datastore: 'ds1', vmx: 'db01/db01.vmx' })
    await lab.host.powerOff(config)
    const digest = await lab.host.digestDisk(config, config.disks[0]!.diskId)
    t.true(interrupted > 0 || digest.sha256 === (await sha256Of(source)))
    t.deepEqual((await readdir(join(lab.datastore, 'db01'))).toSorted(), [
      'db01-flat.vmdk',
      'db01.nvram',
      'db01.vmdk',
      'db01.vmdk.vmseal',
      'db01.vmsd',
      'db01.vmx',
      'vmware.log',
    ])
    await lab.host.destroyVirtualMachine(config)
    t.deepEqual(await readdir(lab.datastore), [])
  }
  t.true(interrupted > 0)
})

test('two processes at once: one converts, the other is told FILE_LOCKED', async (t) => {
  const lab = await makeLab(t)
  const { kek, secret } = keyFor()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { bytes: 48 * 1024 * 1024 })
  const conversion = convertAndKill(lab, 'encrypt', secret, { changes: Number.MAX_SAFE_INTEGER })
  while (!(await readdir(join(lab.datastore, 'db01'))).includes('db01.vmseal-task')) await delay(2)
  const change = { home: encryptWith(kek) }
  await t.throwsAsync(lab.host.reconfigureVirtualMachine(vm.reference, change), {
    code: 'VMSEAL_FILE_LOCKED',
  })
  await t.throwsAsync(lab.host.powerOn(vm.reference), { code: 'VMSEAL_FILE_LOCKED' })
  await t.throwsAsync(lab.host.destroyVirtualMachine(vm.reference), { code: 'VMSEAL_FILE_LOCKED' })
  // Reading goes on, before and after the commit.
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  t.true(await conversion)
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  t.truthy((await lab.host.readVirtualMachine(vm.reference)).homeKey)
})
