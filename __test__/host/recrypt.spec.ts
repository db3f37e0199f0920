import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import type { CryptoSpec, ReconfigureSpec } from '../../src/rpc/host-api.js'
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
  secretSetting,
  type Kek,
  type MadeVm,
} from './fixture.js'

type Depth = 'shallowRecrypt' | 'deepRecrypt'

function recryptTo(type: Depth, kek: Kek): CryptoSpec {
  return { type, newKey: idOf(kek) }
}

function wholeVm(vm: MadeVm, crypto: CryptoSpec): ReconfigureSpec {
  return { home: crypto, disks: vm.config.disks.map(({ diskId }) => ({ diskId, crypto })) }
}

async function sealedVm(t: Parameters<typeof makeLab>[0]) {
  const lab = await makeLab(t)
  const [old, next] = [makeKek('old-kek'), makeKek('new-kek', 'kms-2')]
  await install(lab.host, old, next)
  const vm = await makeVm(lab, { homeKey: old, diskKey: old })
  const secretOf = async () => {
    const plain = await lab.host.reconfigureVirtualMachine(vm.reference, wholeVm(vm, decrypt))
    return { plain, text: await readFile(join(lab.datastore, 'db01', 'db01.vmx'), 'utf8') }
  }
  return { lab, old, next, vm, folder: join(lab.datastore, 'db01'), secretOf }
}

const extent = /-flat\.vmdk$|\.nvram$/

test('D1: shallow: another KEK, no byte of data touched, the old KEK is of no use', async (t) => {
  const { lab, old, next, vm, secretOf } = await sealedVm(t)
  const before = await folderOf(lab)
  const config = await lab.host.reconfigureVirtualMachine(
    vm.reference,
    wholeVm(vm, recryptTo('shallowRecrypt', next)),
  )
  const after = await folderOf(lab)
  t.deepEqual(Object.keys(after), Object.keys(before))
  for (const [name, sum] of Object.entries(before)) {
    if (extent.test(name)) t.is(after[name], sum, name)
    if (/\.vmdk$|\.vmx$|\.vmseal$/.test(name) && !extent.test(name)) t.not(after[name], sum, name)
  }
  t.deepEqual([config.homeKey, ...config.disks.map(({ key }) => key)], Array(3).fill(idOf(next)))
  t.true(config.disks.every(({ formerKeys }) => formerKeys === undefined))
  t.is(config.homeGeneration, vm.config.homeGeneration)
  t.deepEqual(await filesWith(lab, 'old-kek'), [])

  await lab.host.removeKey(idOf(next))
  const locked = await lab.host.readVirtualMachine(vm.reference)
  t.is(locked.cryptoState, 'locked')
  t.deepEqual(locked.missingKeys, [idOf(next)])
  await t.throwsAsync(lab.host.powerOn(vm.reference), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  await install(lab.host, next)
  await lab.host.removeKey(idOf(old))
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  t.true((await secretOf()).text.includes(`hunter2 ${marker}`))
})

test('D1: a VM that is on goes on reading; it may be turned off and on with the new KEK alone', async (t) => {
  const { lab, old, next, vm } = await sealedVm(t)
  await lab.host.powerOn(vm.reference)
  const [disk] = vm.config.disks
  const first = await lab.host.readDisk(vm.reference, disk!.diskId, 0, 4096)
  const recrypt = lab.host.reconfigureVirtualMachine(
    vm.reference,
    wholeVm(vm, recryptTo('shallowRecrypt', next)),
  )
  const reads = Array.from({ length: 20 }, () => lab.host.readDisk(vm.reference, disk!.diskId, 0, 4096))
  t.is((await recrypt).powerState, 'poweredOn')
  for (const read of reads) t.is(await read, first)
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  await lab.host.removeKey(idOf(old))
  t.is(await lab.host.readDisk(vm.reference, disk!.diskId, 0, 4096), first)
  await lab.host.powerOff(vm.reference)
  await lab.host.powerOn(vm.reference)
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})

test('D1: power off waits for a recrypt under way, and two recrypts take turns', async (t) => {
  const { lab, old, next, vm } = await sealedVm(t)
  await lab.host.powerOn(vm.reference)
  const outcomes = await Promise.all([
    lab.host.reconfigureVirtualMachine(vm.reference, wholeVm(vm, recryptTo('shallowRecrypt', next))),
    lab.host.reconfigureVirtualMachine(vm.reference, wholeVm(vm, recryptTo('shallowRecrypt', old))),
    lab.host.powerOff(vm.reference),
  ])
  t.is(outcomes.length, 3)
  const config = await lab.host.readVirtualMachine(vm.reference)
  t.is(new Set([config.homeKey?.keyId, ...config.disks.map(({ key }) => key?.keyId)]).size, 1)
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})

test('D2: deep: new KEK and DEKs, every extent written anew, contents the same', async (t) => {
  const { lab, old, next, vm, folder, secretOf } = await sealedVm(t)
  const before = await folderOf(lab)
  const oldDescriptor = await readFile(join(folder, 'db01.vmdk'), 'utf8')
  const oldCopy = await readFile(join(folder, 'db01.vmdk.vmseal'), 'utf8')
  const config = await lab.host.reconfigureVirtualMachine(
    vm.reference,
    wholeVm(vm, recryptTo('deepRecrypt', next)),
  )
  const after = await folderOf(lab)
  const sums = new Set(Object.values(before))
  for (const [name, sum] of Object.entries(after)) if (extent.test(name)) t.false(sums.has(sum), name)
  t.deepEqual([config.homeKey, ...config.disks.map(({ key }) => key)], Array(3).fill(idOf(next)))
  t.deepEqual([config.homeGeneration, ...config.disks.map(({ generation }) => generation)], [2, 2, 2])
  t.deepEqual(await filesWith(lab, 'old-kek'), [])
  t.deepEqual(await filesWith(lab, marker.trim()), [])
  t.deepEqual(await filesWith(lab, secretSetting), [])
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])

  // The old descriptor, and with it the old DEK, on the new extent: refused, by the .vmx and by the generation in it.
  const [disk] = config.disks
  const path = join(folder, disk!.file)
  const newDescriptor = await readFile(path, 'utf8')
  const newCopy = await readFile(`${path}.vmseal`, 'utf8')
  const swap = (text: string) => text.replaceAll('db01-flat.vmdk', disk!.file.replace('.vmdk', '-flat.vmdk'))
  await writeFile(path, swap(oldDescriptor))
  await writeFile(`${path}.vmseal`, swap(oldCopy))
  await t.throwsAsync(lab.host.readVirtualMachine(vm.reference), { code: 'VMSEAL_ENVELOPE_MISMATCH' })
  await writeFile(path, newDescriptor)
  await writeFile(`${path}.vmseal`, newCopy)

  await lab.host.removeKey(idOf(old))
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  t.true((await secretOf()).text.includes(`hunter2 ${marker}`))
})

test('D2: files from before a deep recrypt are refused when vCenter says what it has seen', async (t) => {
  const { lab, next, vm } = await sealedVm(t)
  const [first, second] = vm.config.disks
  const known = { home: 2, [first!.diskId]: 2 }
  const reference = { ...vm.reference, knownGenerations: known }
  const attempts = [
    () => lab.host.readVirtualMachine(reference),
    () => lab.host.powerOn(reference),
    () => lab.host.digestDisk(reference, first!.diskId),
    () => lab.host.readDisk(reference, second!.diskId, 0, 512),
    () => lab.host.reconfigureVirtualMachine(reference, { home: recryptTo('shallowRecrypt', next) }),
    () => lab.host.reconfigureVirtualMachine(reference, { home: recryptTo('deepRecrypt', next) }),
    () => lab.host.readVirtualMachine({ ...vm.reference, knownGenerations: { [second!.diskId]: 2 } }),
  ]
  const before = await folderOf(lab)
  for (const attempt of attempts) await t.throwsAsync(attempt(), { code: 'VMSEAL_ROLLBACK_DETECTED' })
  t.deepEqual(await folderOf(lab), before)
  await lab.host.reconfigureVirtualMachine(vm.reference, wholeVm(vm, recryptTo('deepRecrypt', next)))
  t.is((await lab.host.readVirtualMachine(reference)).homeGeneration, 2)
  for (const generations of [[2], { home: 0 }, { home: 1.5 }, { home: '2' }, 'x'])
    await t.throwsAsync(
      lab.host.readVirtualMachine({ ...vm.reference, knownGenerations: generations as never }),
      { code: 'VMSEAL_INVALID_ARGUMENT' },
    )
})

for (const depth of ['shallowRecrypt', 'deepRecrypt'] as const) {
  test(`D5: ${depth} of home only, of disks only, of one disk`, async (t) => {
    const { lab, old, next, vm } = await sealedVm(t)
    const crypto = recryptTo(depth, next)
    const [first, second] = vm.config.disks.map(({ diskId }) => ({ diskId, crypto }))
    const ids = async (spec: ReconfigureSpec) => {
      const config = await lab.host.reconfigureVirtualMachine(vm.reference, spec)
      t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
      return [config.homeKey, ...config.disks.map(({ key }) => key)].map((key) => key?.keyId)
    }
    t.deepEqual(await ids({ disks: [second!] }), ['old-kek', 'old-kek', 'new-kek'])
    t.deepEqual(await ids({ home: crypto }), ['new-kek', 'old-kek', 'new-kek'])
    t.deepEqual(await ids({ disks: [first!, second!] }), ['new-kek', 'new-kek', 'new-kek'])
    await lab.host.removeKey(idOf(old))
    t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  })
}

test('D3: the same request again changes nothing; both wraps open, and it heals them', async (t) => {
  const { lab, old, next, vm, folder } = await sealedVm(t)
  const vmx = join(folder, 'db01.vmx')
  const wrapOf = async () => /vmseal\.dek\.0 = "([^"]*)"/.exec(await readFile(vmx, 'utf8'))![1]!
  const oldWrap = await wrapOf()
  const spec = wholeVm(vm, recryptTo('shallowRecrypt', next))
  await lab.host.reconfigureVirtualMachine(vm.reference, spec)
  const done = await folderOf(lab)
  await lab.host.reconfigureVirtualMachine(vm.reference, spec)
  t.deepEqual(await folderOf(lab), done)

  for (const at of [0, 1]) {
    const wraps = [await wrapOf()].toSpliced(at, 0, oldWrap)
    const lines = wraps.map((jwe, index) => `vmseal.dek.${index} = "${jwe}"`).join('\n')
    await writeFile(vmx, (await readFile(vmx, 'utf8')).replace(/vmseal\.dek\.0 = ".*"/, lines))
    const half = await lab.host.readVirtualMachine(vm.reference)
    t.deepEqual(
      [half.homeKey, half.homeFormerKeys],
      at === 0 ? [idOf(old), [idOf(next)]] : [idOf(next), [idOf(old)]],
    )
    for (const gone of [old, next]) {
      await lab.host.removeKey(idOf(gone))
      t.is((await lab.host.readVirtualMachine(vm.reference)).cryptoState, 'unlocked')
      await install(lab.host, gone)
    }
    await lab.host.removeKey(idOf(old))
    await lab.host.reconfigureVirtualMachine(vm.reference, { home: recryptTo('shallowRecrypt', next) })
    t.is((await lab.host.readVirtualMachine(vm.reference)).homeFormerKeys, undefined)
    t.is((await folderOf(lab))['db01.vmx'], done['db01.vmx'])
    await install(lab.host, old)
  }
})

test('refused before anything changes: plain parts, a VM that is on, missing keys, mixtures', async (t) => {
  const { lab, old, next, vm } = await sealedVm(t)
  const stranger = makeKek('stranger')
  const disks = (crypto: CryptoSpec) => [{ diskId: vm.config.disks[0]!.diskId, crypto }]
  const [shallow, deep] = [recryptTo('shallowRecrypt', next), recryptTo('deepRecrypt', next)]
  const refused = async (spec: unknown, code: string) => {
    const before = await folderOf(lab)
    await t.throwsAsync(lab.host.reconfigureVirtualMachine(vm.reference, spec as ReconfigureSpec), { code })
    t.deepEqual(await folderOf(lab), before, JSON.stringify(spec))
  }
  await refused({ home: recryptTo('shallowRecrypt', stranger) }, 'VMSEAL_ENCRYPTION_KEY_REQUIRED')
  await refused({ disks: disks(recryptTo('deepRecrypt', stranger)) }, 'VMSEAL_ENCRYPTION_KEY_REQUIRED')
  await refused({ home: shallow, disks: disks(deep) }, 'VMSEAL_INVALID_ARGUMENT')
  await refused({ home: shallow, disks: disks(decrypt) }, 'VMSEAL_INVALID_ARGUMENT')
  await refused({ home: { type: 'shallowRecrypt' } }, 'VMSEAL_INVALID_ARGUMENT')
  await refused({ home: { type: 'toString', newKey: idOf(next) } }, 'VMSEAL_INVALID_ARGUMENT')
  await refused({ disks: [{ ...disks(shallow)[0], sectorSize: 512 }] }, 'VMSEAL_INVALID_ARGUMENT')
  await refused(
    { disks: [{ diskId: '00000000-0000-4000-8000-000000000000', crypto: deep }] },
    'VMSEAL_NOT_FOUND',
  )
  await lab.host.removeKey(idOf(old))
  await refused({ home: shallow }, 'VMSEAL_ENCRYPTION_KEY_REQUIRED')
  await refused({ disks: disks(deep) }, 'VMSEAL_ENCRYPTION_KEY_REQUIRED')
  await install(lab.host, old)

  await lab.host.powerOn(vm.reference)
  for (const spec of [{ home: deep }, { disks: disks(deep) }, { home: decrypt }]) {
    const attempt = lab.host.reconfigureVirtualMachine(vm.reference, spec)
    await t.throwsAsync(attempt, { code: 'VMSEAL_INVALID_POWER_STATE' })
  }
  await lab.host.powerOff(vm.reference)

  await lab.host.reconfigureVirtualMachine(vm.reference, { disks: disks(decrypt) })
  await refused({ disks: disks(shallow) }, 'VMSEAL_DISK_STATE')
  await refused({ disks: disks(deep) }, 'VMSEAL_DISK_STATE')
  await lab.host.reconfigureVirtualMachine(vm.reference, {
    home: decrypt,
    disks: [{ diskId: vm.config.disks[1]!.diskId, crypto: decrypt }],
  })
  await refused({ home: shallow }, 'VMSEAL_INVALID_STATE')
  await refused({ home: deep }, 'VMSEAL_INVALID_STATE')
  await refused({ home: encryptWith(next), disks: disks(shallow) }, 'VMSEAL_INVALID_ARGUMENT')
})

test('C4: with snapshots: decryption and deep recrypt refused before anything changes, shallow recrypt goes', async (t) => {
  const { lab, next, vm, folder } = await sealedVm(t)
  const vmsd = join(folder, 'db01.vmsd')
  const text = await readFile(vmsd, 'utf8')
  for (const [content, told] of [
    [`${text}snapshot.numSnapshots = "2"\n`, 2],
    ['this is no .vmsd', undefined],
    [`${text}snapshot.numSnapshots = "-1"\n`, undefined],
  ] as const) {
    await writeFile(vmsd, content)
    const before = await folderOf(lab)
    t.is((await lab.host.readVirtualMachine(vm.reference)).snapshots, told)
    for (const crypto of [decrypt, recryptTo('deepRecrypt', next)])
      await t.throwsAsync(lab.host.reconfigureVirtualMachine(vm.reference, wholeVm(vm, crypto)), {
        code: 'VMSEAL_SNAPSHOTS_EXIST',
      })
    t.deepEqual(await folderOf(lab), before)
  }
  await lab.host.reconfigureVirtualMachine(vm.reference, wholeVm(vm, recryptTo('shallowRecrypt', next)))
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  await writeFile(vmsd, text)
  await lab.host.reconfigureVirtualMachine(vm.reference, wholeVm(vm, decrypt))
})

test('a deep recrypt without room is refused, and a cancelled recrypt leaves what is done', async (t) => {
  const lab = await makeLab(t, { freeBytes: async () => 1000 })
  const [old, next] = [makeKek('old-kek'), makeKek('new-kek')]
  const roomy = await lab.start('esx-2')
  await install(roomy, old, next)
  await install(lab.host, old, next)
  const vm = await makeVm(lab, { homeKey: old, diskKey: old, host: roomy })
  const before = await folderOf(lab)
  const deep = lab.host.reconfigureVirtualMachine(vm.reference, wholeVm(vm, recryptTo('deepRecrypt', next)))
  await t.throwsAsync(deep, { code: 'VMSEAL_NO_SPACE' })
  t.deepEqual(await folderOf(lab), before)
  // No room is needed where no data moves.
  await lab.host.reconfigureVirtualMachine(vm.reference, wholeVm(vm, recryptTo('shallowRecrypt', next)))
  const cancelled = lab.host.reconfigureVirtualMachine(
    vm.reference,
    wholeVm(vm, recryptTo('shallowRecrypt', old)),
    { signal: AbortSignal.abort() },
  )
  await t.throwsAsync(cancelled, { code: 'VMSEAL_CANCELLED' })
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})
