/** Conversion of disks where they lie: the same as by a copy, and whatever stops it, it goes on. */
import { copyFile, readFile, readdir, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { CryptoSpec, ReconfigureSpec, VmConfig } from '../../src/rpc/host-api.js'
import {
  decrypt,
  encryptWith,
  filesWith,
  folderOf,
  guestDigests,
  idOf,
  install,
  makeKek,
  makeLab,
  makeVm,
  marker,
  type Kek,
  type Lab,
  type MadeVm,
} from './fixture.js'

const mebibyte = 1024 * 1024

function wholeVm({ disks }: VmConfig, crypto: CryptoSpec): ReconfigureSpec {
  return { conversion: 'inPlace', home: crypto, disks: disks.map(({ diskId }) => ({ diskId, crypto })) }
}

function recryptTo(kek: Kek): CryptoSpec {
  return { type: 'deepRecrypt', newKey: idOf(kek) }
}

async function inodes(lab: Lab, { config }: MadeVm): Promise<number[]> {
  const flat = config.disks.map(({ file }) =>
    join(lab.datastore, 'db01', file.replace('.vmdk', '-flat.vmdk')),
  )
  return Promise.all(flat.map(async (file) => (await stat(file)).ino))
}

/** Nothing is left of the work, and everything is whole. */
async function isTidy(t: ExecutionContext, lab: Lab, vm: MadeVm): Promise<void> {
  const names = await readdir(join(lab.datastore, 'db01'))
  t.deepEqual(names.filter((name) => /-(job|copy|task)$|\.lck$|\.tmp-/.test(name)), []) // prettier-ignore
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  t.false((await readFile(join(lab.datastore, 'db01', 'db01.vmx'), 'utf8')).includes('vmsealConversion'))
}

test('B8, D2: a VM is encrypted, recrypted and decrypted where it lies, byte for byte as by copies', async (t) => {
  const lab = await makeLab(t)
  const [kek, next] = [makeKek(), makeKek()]
  await install(lab.host, kek, next)
  const vm = await makeVm(lab, { bytes: 2 * mebibyte })
  const { host } = lab
  const before = await inodes(lab, vm)
  const generations: number[] = []

  for (const [crypto, key] of [
    [encryptWith(kek), kek],
    [recryptTo(next), next],
    [decrypt, undefined],
    [encryptWith(kek), kek],
  ] as const) {
    const config = await host.reconfigureVirtualMachine(vm.reference, wholeVm(vm.config, crypto))
    t.deepEqual(config.homeKey, key && idOf(key))
    for (const disk of config.disks) t.deepEqual(disk.key, key && idOf(key))
    t.deepEqual(await inodes(lab, vm), before, 'the files stay where they are')
    await isTidy(t, lab, vm)
    t.deepEqual((await filesWith(lab, marker.trim())).length > 0, key === undefined)
    t.is((await host.powerOn(vm.reference)).powerState, 'poweredOn')
    await host.powerOff(vm.reference)
    generations.push(config.disks[0]?.generation ?? 0)
  }
  const dekGenerations = generations.filter((generation) => generation > 0)
  t.deepEqual(
    dekGenerations,
    [...new Set(dekGenerations)].toSorted((a, b) => a - b),
    'they only rise',
  )
  // What a copy makes of it is the same.
  const copied = await host.reconfigureVirtualMachine(vm.reference, {
    ...wholeVm(vm.config, decrypt),
    conversion: 'copy',
  })
  t.deepEqual(copied.disks.map(({ key }) => key), [undefined, undefined]) // prettier-ignore
  t.deepEqual(await guestDigests(host, vm), [...vm.digests])
})

test('some of the disks: the others and VM home stay as they are', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek })
  const [first] = vm.config.disks
  if (!first) throw new Error('the set-up is not what the test needs')
  const change = (crypto: CryptoSpec) =>
    lab.host.reconfigureVirtualMachine(vm.reference, {
      conversion: 'inPlace',
      disks: [{ diskId: first.diskId, crypto, ...(crypto.type === 'encrypt' && { sectorSize: 4096 }) }],
    })
  const encrypted = await change(encryptWith(kek))
  t.deepEqual(encrypted.disks.map(({ key }) => key !== undefined), [true, false]) // prettier-ignore
  t.is(encrypted.homeGeneration, vm.config.homeGeneration)
  const decrypted = await change(decrypt)
  t.deepEqual(decrypted.disks.map(({ key }) => key !== undefined), [false, false]) // prettier-ignore
  t.deepEqual(decrypted.homeKey, idOf(kek))
  await isTidy(t, lab, vm)
})

/** Stops the change of a VM once the conversion of its first disk is under way. */
async function stopInTheMiddle(
  t: ExecutionContext,
  lab: Lab,
  vm: MadeVm,
  crypto: CryptoSpec,
): Promise<VmConfig> {
  const controller = new AbortController()
  const error = await t.throwsAsync(
    lab.host.reconfigureVirtualMachine(vm.reference, slowly(wholeVm(vm.config, crypto)), {
      signal: controller.signal,
      onProgress: ({ step, doneBytes }) => {
        if (step.includes('scsi0:0') && doneBytes > mebibyte) controller.abort()
      },
    }),
    { code: 'VMSEAL_CANCELLED' },
  )
  t.regex(error?.message ?? '', /Resume the conversion/)
  return lab.host.readVirtualMachine(vm.reference)
}

const bytes = 96 * mebibyte

/** So slow that the first look finds the first steps done and the others not. */
function slowly(spec: ReconfigureSpec): ReconfigureSpec {
  return { ...spec, maxBytesPerSecond: 16 * mebibyte }
}

test('B8: a cancelled conversion stays resumable: the VM says what it is, and nothing else is done with it', async (t) => {
  for (const mode of ['encrypt', 'recrypt', 'decrypt'] as const) {
    const lab = await makeLab(t)
    const [kek, next] = [makeKek(), makeKek()]
    const { host } = lab
    await install(host, kek, next)
    const vm = await makeVm(lab, {
      bytes,
      images: 1,
      ...(mode !== 'encrypt' && { homeKey: kek, diskKey: kek }),
    })
    const { encrypt, recrypt } = { encrypt: encryptWith(kek), recrypt: recryptTo(next) }
    const crypto = { encrypt, recrypt, decrypt }[mode]
    const half = await stopInTheMiddle(t, lab, vm, crypto)
    const [disk] = half.disks
    t.like(disk?.conversion, { mode, totalBytes: bytes })
    t.true(disk!.conversion!.doneBytes > 0 && disk!.conversion!.doneBytes < bytes)
    t.truthy(half.homeKey, 'home is encrypted before its disks and decrypted after them')

    const refused = { code: 'VMSEAL_DISK_IN_CONVERSION' } as const
    const { reference } = vm
    await t.throwsAsync(host.powerOn(reference), { ...refused, message: /being (en|de|re)crypted in place/ })
    await t.throwsAsync(host.digestDisk(reference, disk!.diskId), refused)
    await t.throwsAsync(host.reconfigureVirtualMachine(reference, wholeVm(half, crypto)), refused)
    await t.throwsAsync(
      host.reconfigureVirtualMachine(reference, {
        disks: [{ diskId: disk!.diskId, crypto: encryptWith(next) }],
      }),
      refused,
    )
    // VM home is another part: the disk stays as it is.
    const other = makeKek()
    await install(host, other)
    const shallow: CryptoSpec = { type: 'shallowRecrypt', newKey: idOf(other) }
    const rewrapped = await host.reconfigureVirtualMachine(reference, { home: shallow })
    t.deepEqual(rewrapped.disks, half.disks)

    await host.restart()
    const needed = { encrypt: [kek], decrypt: [kek], recrypt: [next, kek] }[mode].map(idOf)
    const locked = await host.readVirtualMachine(reference)
    for (const key of needed) t.true(locked.missingKeys.some(({ keyId }) => keyId === key.keyId))
    await t.throwsAsync(host.resumeConversion(reference), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
    t.deepEqual((await host.readVirtualMachine(reference)).disks[0]?.conversion, disk?.conversion)

    await install(host, kek, next, other)
    const steps: number[] = []
    const resumed = await host.resumeConversion(
      reference,
      {},
      {
        onProgress: ({ doneBytes }) => void steps.push(doneBytes),
      },
    )
    t.is(resumed.disks[0]?.conversion, undefined)
    t.is(steps.at(-1), bytes)
    t.deepEqual(resumed.disks[0]?.key, { encrypt: idOf(kek), recrypt: idOf(next), decrypt: undefined }[mode])
    await isTidy(t, lab, vm)
    await t.throwsAsync(host.resumeConversion(reference), { code: 'VMSEAL_INVALID_STATE' })
    // What the request had left to do is done by the same request for the rest.
    if (mode === 'decrypt') {
      await host.reconfigureVirtualMachine(reference, { home: decrypt })
      t.is((await host.readVirtualMachine(reference)).homeKey, undefined)
    }
    t.is((await host.powerOn(reference)).powerState, 'poweredOn')
  }
})

test('a disk in conversion may leave its VM, which is powered on without it; its files stay', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { bytes })
  const half = await stopInTheMiddle(t, lab, vm, encryptWith(kek))
  const [gone, stays] = half.disks
  const left = await lab.host.reconfigureVirtualMachine(vm.reference, { removeDisks: [gone!.diskId] })
  t.deepEqual(left.disks, [stays!])
  t.is((await lab.host.powerOn(vm.reference)).powerState, 'poweredOn')
  const names = await readdir(join(lab.datastore, 'db01'))
  for (const name of ['db01.vmdk', 'db01-flat.vmdk', 'db01.vmdk.vmseal-job'])
    t.true(names.includes(name), name)
})

test('a VM in conversion can be destroyed whole, and its journal goes with it', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { bytes, images: 1 })
  await stopInTheMiddle(t, lab, vm, encryptWith(kek))
  t.true((await readdir(join(lab.datastore, 'db01'))).includes('db01.vmdk.vmseal-job'))
  await lab.host.destroyVirtualMachine(vm.reference)
  t.deepEqual(await readdir(lab.datastore), [])
})

test('B8: a descriptor or journal of another moment is refused by name, and whole again when it is put back', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  const { host } = lab
  await install(host, kek)
  const vm = await makeVm(lab, { bytes, images: 1 })
  const at = (name: string) => join(lab.datastore, 'db01', name)
  await copyFile(at('db01.vmdk'), join(lab.images, 'before.vmdk'))
  await stopInTheMiddle(t, lab, vm, encryptWith(kek))
  // Alone it would be healed by the second copy of its lines.
  await rename(at('db01.vmdk.vmseal'), join(lab.images, 'during.vmseal'))
  await rename(at('db01.vmdk'), join(lab.images, 'during.vmdk'))
  await copyFile(join(lab.images, 'before.vmdk'), at('db01.vmdk'))
  const invalid = { code: 'VMSEAL_JOB_INVALID' } as const
  await t.throwsAsync(host.readVirtualMachine(vm.reference), invalid)
  await t.throwsAsync(host.powerOn(vm.reference), invalid)
  await rename(join(lab.images, 'during.vmdk'), at('db01.vmdk'))
  await rename(join(lab.images, 'during.vmseal'), at('db01.vmdk.vmseal'))
  await rename(at('db01.vmdk.vmseal-job'), join(lab.images, 'job'))
  await t.throwsAsync(host.resumeConversion(vm.reference), invalid)
  await rename(join(lab.images, 'job'), at('db01.vmdk.vmseal-job'))
  // A .vmx that knows nothing of the conversion.
  const vmx = await readFile(at('db01.vmx'), 'utf8')
  await writeFile(at('db01.vmx'), vmx.replace(/^.*vmsealConversion.*\n/m, ''))
  await t.throwsAsync(host.resumeConversion(vm.reference), { code: 'VMSEAL_DISK_IN_CONVERSION' })
  await writeFile(at('db01.vmx'), vmx.replace('"encrypt 2"', '"encrypt x"'))
  await t.throwsAsync(host.readVirtualMachine(vm.reference), { code: 'VMSEAL_VMX_INVALID' })
  await writeFile(at('db01.vmx'), vmx)
  await host.resumeConversion(vm.reference)
  await isTidy(t, lab, vm)
})

test('B10: without room nothing is changed', async (t) => {
  const lab = await makeLab(t, { freeBytes: async () => 2 * mebibyte })
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { bytes: 4 * mebibyte, images: 1, host: await lab.start('esx-2', { freeBytes: async () => 1e12 }) }) // prettier-ignore
  const before = await folderOf(lab)
  await t.throwsAsync(
    lab.host.reconfigureVirtualMachine(vm.reference, wholeVm(vm.config, encryptWith(kek))),
    { code: 'VMSEAL_NO_SPACE' },
  )
  t.deepEqual(await folderOf(lab), before)
})

test('what cannot be done in place is refused before anything happens', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  const { host } = lab
  await install(host, kek)
  const vm = await makeVm(lab, { images: 1, homeKey: kek, diskKey: kek, bytes: 512 * 1024 })
  const before = await folderOf(lab)
  const diskId = vm.config.disks[0]?.diskId ?? ''
  const inPlace = (spec: object) =>
    host.reconfigureVirtualMachine(vm.reference, { conversion: 'inPlace', ...spec })
  const deep = { diskId, crypto: recryptTo(kek) }
  const refusals: [string, object][] = [
    ['VMSEAL_INVALID_ARGUMENT', { conversion: 'sideways' }],
    ['VMSEAL_INVALID_ARGUMENT', { disks: [deep], maxBytesPerSecond: 0 }],
    ['VMSEAL_INVALID_ARGUMENT', { disks: [deep], discardSource: 'unlink' }],
    ['VMSEAL_INVALID_ARGUMENT', { disks: [deep], discardSource: 'burn' }],
    ['VMSEAL_INVALID_ARGUMENT', { disks: [{ ...deep, sectorSize: 4096 }] }],
    [
      'VMSEAL_INVALID_ARGUMENT',
      { disks: [deep], addDisks: [{ diskId: vm.config.vmId, capacityBytes: 512 }] },
    ],
    ['VMSEAL_INVALID_ARGUMENT', { removeDisks: [diskId], disks: [] }],
    ['VMSEAL_ENCRYPTION_MISMATCH', { home: decrypt, disks: [deep] }],
    ['VMSEAL_DISK_STATE', { disks: [{ diskId, crypto: encryptWith(kek) }] }],
    ['VMSEAL_NOT_FOUND', { disks: [{ ...deep, diskId: vm.config.vmId }] }],
    ['VMSEAL_ENCRYPTION_KEY_REQUIRED', { disks: [{ diskId, crypto: recryptTo(makeKek()) }] }],
  ]
  for (const [code, spec] of refusals) await t.throwsAsync(inPlace(spec), { code }, JSON.stringify(spec))
  t.deepEqual(await folderOf(lab), before)
  await host.powerOn(vm.reference)
  await t.throwsAsync(inPlace({ disks: [deep] }), { code: 'VMSEAL_INVALID_POWER_STATE' })
  await t.throwsAsync(host.resumeConversion(vm.reference), { code: 'VMSEAL_INVALID_POWER_STATE' })
})
