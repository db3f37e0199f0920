/** Clones: full under the same and other keys, encrypting and decrypting; linked to a snapshot. */
import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { native } from '../../src/native/load.js'
import type { CloneSpec, HostApi } from '../../src/rpc/host-api.js'
import {
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
  type Lab,
  type MadeVm,
} from './fixture.js'
import { GuestDisks } from './guest-disks.js'

async function specFor(
  host: HostApi,
  vm: MadeVm,
  change: { key?: Kek; snapshotId?: string; linked?: boolean; name?: string },
): Promise<CloneSpec> {
  const { key, name = 'copy', ...rest } = change
  const { disks } = await host.readVirtualMachine(vm.reference)
  return {
    vmId: randomUUID(),
    name,
    datastore: 'ds1',
    ...rest,
    ...(key && { homeKey: idOf(key) }),
    disks: disks.map(({ diskId }) => ({
      diskId,
      newDiskId: randomUUID(),
      ...(key && { key: idOf(key) }),
    })),
  }
}

const copyOf = { reference: { datastore: 'ds1', vmx: 'copy/copy.vmx' } }

async function labWith(t: ExecutionContext, ...keks: Kek[]): Promise<Lab> {
  const lab = await makeLab(t)
  await install(lab.host, ...keks)
  return lab
}

for (const [title, from, to] of [
  ['J1: under the same KEK', 'one', 'one'],
  ['J2: under another KEK', 'one', 'two'],
  ['J2: decrypted', 'one', 'none'],
  ['J2: encrypted', 'none', 'two'],
  ['J1: of a plain VM, plain', 'none', 'none'],
] as const)
  test(`${title}: the clone reads byte for byte what the source does, and the source is untouched`, async (t) => {
    const keks = { one: makeKek('one'), two: makeKek('two') }
    const lab = await labWith(t, keks.one, keks.two)
    const { host } = lab
    const sourceKey = from === 'none' ? undefined : keks[from]
    const targetKey = to === 'none' ? undefined : keks[to]
    const vm = await makeVm(lab, {
      bytes: 256 * 1024,
      ...(sourceKey && { homeKey: sourceKey, diskKey: sourceKey }),
    })
    const before = await folderOf(lab)
    const spec = await specFor(host, vm, targetKey ? { key: targetKey } : {})
    const clone = await host.cloneVirtualMachine(vm.reference, spec)
    const { 'vmware.log': _, ...after } = await folderOf(lab)
    const { 'vmware.log': __, ...source } = before
    t.deepEqual(after, source, 'the source is only read')
    t.deepEqual(clone.homeKey, targetKey && idOf(targetKey))
    t.is(clone.vmId, spec.vmId)
    t.is(clone.powerState, 'poweredOff')
    const made = { ...vm, reference: copyOf.reference }
    t.deepEqual(await guestDigests(host, made), [...vm.digests])
    const clear = to === 'none'
    t.is((await filesWith(lab, secretSetting, 'copy')).length > 0, clear)
    t.is((await filesWith(lab, marker.trim(), 'copy')).length > 0, clear)
    if (sourceKey && targetKey) {
      const extent = (name: string) => readFile(join(lab.datastore, name, `${name}-flat.vmdk`))
      t.false((await extent('db01')).equals(await extent('copy')), 'the clone has DEKs of its own')
    }
    // Each stands alone: the source goes, the clone stays.
    await host.destroyVirtualMachine(vm.reference)
    if (sourceKey && sourceKey !== targetKey) await host.removeKey(idOf(sourceKey))
    await host.powerOn(made.reference)
    t.deepEqual(await guestDigests(host, made), [...vm.digests])
  })

test('J1: a clone of a snapshot is what the snapshot was, also while the source is on', async (t) => {
  const kek = makeKek()
  const lab = await labWith(t, kek)
  const { host } = lab
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek, bytes: 128 * 1024 })
  const guest = await GuestDisks.of(host, vm)
  await host.powerOn(vm.reference)
  const snapshotId = randomUUID()
  await host.createSnapshot(vm.reference, { snapshotId, name: 's' })
  await t.throwsAsync(host.cloneVirtualMachine(vm.reference, await specFor(host, vm, { key: kek })), {
    code: 'VMSEAL_INVALID_POWER_STATE',
  })
  const frozen = guest.copy()
  await guest.write(0, 3000, 20_000)
  await host.cloneVirtualMachine(vm.reference, await specFor(host, vm, { key: kek, snapshotId }))
  await guest.check(t, 'the source goes on')
  guest.restore(frozen)
  await guest.check(t, 'the clone is the snapshot', copyOf)
})

test('D7, J1: a linked clone reads its source, keeps it, and neither gets other keys', async (t) => {
  const [kek, other] = [makeKek(), makeKek()]
  const lab = await labWith(t, kek, other)
  const { host } = lab
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek, bytes: 128 * 1024 })
  const guest = await GuestDisks.of(host, vm)
  const snapshotId = randomUUID()
  await guest.write(0, 100, 5000)
  await host.createSnapshot(vm.reference, { snapshotId, name: 's' })
  const linked = { snapshotId, linked: true }
  const before = await folderOf(lab)
  for (const wrong of [
    { key: other, ...linked },
    { key: kek, linked: true },
  ])
    await t.throwsAsync(host.cloneVirtualMachine(vm.reference, await specFor(host, vm, wrong)), {
      code: 'VMSEAL_DISK_CHAIN',
    })
  t.deepEqual(await folderOf(lab), before)
  const config = await host.cloneVirtualMachine(
    vm.reference,
    await specFor(host, vm, { key: kek, ...linked }),
  )
  t.is(config.chain, 'linkedClone')
  t.is((await host.readVirtualMachine(vm.reference)).chain, 'linkedCloneParent')
  await guest.check(t, 'at first', copyOf)

  // Each writes for itself, and the clone keeps the files that it reads.
  const theirs = await GuestDisks.of(host, copyOf)
  await host.powerOn(copyOf.reference)
  await theirs.write(0, 0, 9000)
  await guest.write(0, 50_000, 9000)
  await host.removeSnapshot(vm.reference, snapshotId, false)
  await theirs.check(t, 'the clone')
  await guest.check(t, 'the source')
  await host.powerOff(copyOf.reference)
  const inner = randomUUID()
  await host.createSnapshot(copyOf.reference, { snapshotId: inner, name: 'of the clone' })
  await theirs.write(1, 0, 700)
  await host.removeSnapshot(copyOf.reference, inner, false)
  await theirs.check(t, 'the clone after a snapshot of its own')

  for (const { reference } of [vm, copyOf]) {
    const { disks } = await host.readVirtualMachine(reference)
    for (const type of ['shallowRecrypt', 'deepRecrypt'] as const) {
      const crypto = { type, newKey: idOf(other) }
      const spec = { home: crypto, disks: disks.map(({ diskId }) => ({ diskId, crypto })) }
      await t.throwsAsync(host.reconfigureVirtualMachine(reference, spec), { code: 'VMSEAL_DISK_CHAIN' })
    }
  }
  await t.throwsAsync(host.destroyVirtualMachine(vm.reference), { code: 'VMSEAL_DISK_CHAIN' })
  await host.destroyVirtualMachine(copyOf.reference)
  await host.consolidateDisks(vm.reference)
  t.is((await host.readVirtualMachine(vm.reference)).chain, undefined)
  await guest.check(t, 'the source alone again')
})

test.serial(
  'a clone that is refused, cancelled or fails leaves no folder, and a folder in its way stays',
  async (t) => {
    const [kek, absent] = [makeKek(), makeKek()]
    const lab = await labWith(t, kek)
    const { host } = lab
    const vm = await makeVm(lab, { homeKey: kek, diskKey: kek, bytes: 4 * 1024 * 1024 })
    const spec = await specFor(host, vm, { key: kek })
    const cases: [CloneSpec, string][] = [
      [await specFor(host, vm, { key: absent }), 'VMSEAL_ENCRYPTION_KEY_REQUIRED'],
      [{ ...spec, disks: spec.disks.slice(1) }, 'VMSEAL_INVALID_ARGUMENT'],
      [{ ...spec, snapshotId: randomUUID() }, 'VMSEAL_NOT_FOUND'],
      [{ ...spec, name: 'db01' }, 'VMSEAL_ALREADY_EXISTS'],
      [{ ...spec, name: '../db02' }, 'VMSEAL_INVALID_ARGUMENT'],
      [{ ...spec, datastore: 'ds9' }, 'VMSEAL_NOT_FOUND'],
    ]
    const { homeKey: _, ...plainHome } = spec
    cases.push([plainHome, 'VMSEAL_ENCRYPTION_MISMATCH'])
    const before = await folderOf(lab)
    const { allocations } = native.keyMemoryStatus()
    for (const [wrong, code] of cases)
      await t.throwsAsync(host.cloneVirtualMachine(vm.reference, wrong), { code }, JSON.stringify(wrong))
    const cancel = new AbortController()
    const running = host.cloneVirtualMachine(vm.reference, spec, {
      signal: cancel.signal,
      onProgress: () => cancel.abort(),
    })
    await t.throwsAsync(running, { code: 'VMSEAL_CANCELLED' })
    t.deepEqual(await folderOf(lab), before)
    await t.throwsAsync(folderOf(lab, 'copy'))
    t.is(native.keyMemoryStatus().allocations, allocations, 'every key was wiped')
  },
)
