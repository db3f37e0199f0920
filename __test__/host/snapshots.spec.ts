/** Snapshots: what the guest reads after each, that nothing but ciphertext is kept, and what is refused. */
import { randomBytes, randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { GuestDisks } from './guest-disks.js'
import {
  decrypt,
  filesWith,
  folderOf,
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

async function sealedVm(t: ExecutionContext): Promise<{ lab: Lab; kek: Kek; vm: MadeVm; guest: GuestDisks }> {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek, bytes: 128 * 1024 })
  return { lab, kek, vm, guest: await GuestDisks.of(lab.host, vm) }
}

async function snapshot(lab: Lab, vm: MadeVm, name = 'before'): Promise<string> {
  const snapshotId = randomUUID()
  await lab.host.createSnapshot(vm.reference, { snapshotId, name })
  return snapshotId
}

test('J3: a snapshot keeps what was, and reverting brings it back, off and on', async (t) => {
  const { lab, vm, guest } = await sealedVm(t)
  const { host } = lab
  for (const on of [false, true]) {
    if (on) await host.powerOn(vm.reference)
    await guest.write(0, 1000, 3000)
    const kept = guest.copy()
    const id = await snapshot(lab, vm, `on ${String(on)}`)
    await guest.write(0, 500, 8000)
    await guest.write(1, 0, 512)
    await guest.check(t, 'after the writes')
    const { powerState } = await host.readVirtualMachine(vm.reference)
    t.is(powerState, on ? 'poweredOn' : 'poweredOff')
    const reverted = await host.revertToSnapshot(vm.reference, id)
    t.is(reverted.powerState, 'poweredOff')
    t.is(reverted.currentSnapshot, id)
    guest.restore(kept)
    await guest.check(t, 'after going back')
    await host.removeSnapshot(vm.reference, id, false)
    await guest.check(t, 'after the removal')
  }
  const files = Object.keys(await folderOf(lab))
  t.deepEqual(
    files.filter((name) => /-\d{6}/.test(name)),
    [],
    'no child is left',
  )
  t.is((await host.readVirtualMachine(vm.reference)).chain, undefined)
})

test('J3: children are ciphertext under keys of their own, and nothing of a snapshot is clear', async (t) => {
  const { lab, vm, guest } = await sealedVm(t)
  await lab.host.powerOn(vm.reference)
  const memory = join(lab.images, 'memory')
  await writeFile(memory, Buffer.concat([Buffer.from(marker.repeat(1000)), randomBytes(300_000)]))
  const snapshotId = randomUUID()
  const config = await lab.host.createSnapshot(vm.reference, {
    snapshotId,
    name: 'with memory',
    description: 'before the upgrade',
    memory,
  })
  t.like(config.snapshotTree?.[0], { name: 'with memory', description: 'before the upgrade', memory: true })
  await guest.writeText(0, 4096, marker)
  t.deepEqual(await filesWith(lab, marker.trim()), [])
  t.deepEqual(await filesWith(lab, secretSetting), [])
  // The memory is there again after going back, for the hypervisor that resumes.
  await lab.host.revertToSnapshot(vm.reference, snapshotId)
  const target = join(lab.images, 'memory-back')
  await lab.host.readGuestState(vm.reference, { kind: 'vmem', label: `-${snapshotId}` }, target)
  const { readFile } = await import('node:fs/promises')
  t.true((await readFile(memory)).equals(await readFile(target)))
})

test('J3: a removed snapshot in the middle, at the end and at the root leaves every other state as it was', async (t) => {
  const { lab, vm, guest } = await sealedVm(t)
  const { host } = lab
  const states: { id: string; disks: Buffer[] }[] = []
  for (let index = 0; index < 4; index += 1) {
    await guest.write(0, index * 9000, 7000)
    const disks = guest.copy()
    states.push({ id: await snapshot(lab, vm, `s${index}`), disks })
  }
  await guest.write(0, 100, 60_000)
  for (const gone of [1, 3, 0]) {
    await host.removeSnapshot(vm.reference, states[gone]?.id ?? '', false)
    await guest.check(t, `present state without ${gone}`)
  }
  t.like(await host.readVirtualMachine(vm.reference), { snapshots: 1, chain: 'single' })
  const [, , left] = states
  await host.revertToSnapshot(vm.reference, left?.id ?? '')
  guest.restore(left?.disks ?? [])
  await guest.check(t, 'the snapshot that was left')
})

test('D4: a chain gets another KEK as one; a tree is refused by name, and so is everything that writes data anew', async (t) => {
  const { lab, vm, guest, kek } = await sealedVm(t)
  const { host } = lab
  const newKek = makeKek()
  await install(host, newKek)
  const first = await snapshot(lab, vm, 'first')
  await guest.write(0, 0, 2000)
  await snapshot(lab, vm, 'second')
  await guest.write(0, 5000, 2000)
  const { disks } = await host.readVirtualMachine(vm.reference)
  const spec = (type: 'shallowRecrypt' | 'deepRecrypt', key: Kek) => ({
    home: { type, newKey: idOf(key) },
    disks: disks.map(({ diskId }) => ({ diskId, crypto: { type, newKey: idOf(key) } })),
  })
  const before = await folderOf(lab)
  for (const refused of [spec('deepRecrypt', newKek), { home: decrypt }])
    await t.throwsAsync(host.reconfigureVirtualMachine(vm.reference, refused), {
      code: 'VMSEAL_SNAPSHOTS_EXIST',
    })
  await t.throwsAsync(
    host.reconfigureVirtualMachine(vm.reference, { removeDisks: [disks[0]?.diskId ?? ''] }),
    { code: 'VMSEAL_SNAPSHOTS_EXIST' },
  )
  t.deepEqual(await folderOf(lab), before)

  const config = await host.reconfigureVirtualMachine(vm.reference, spec('shallowRecrypt', newKek))
  t.deepEqual(config.homeKey, idOf(newKek))
  for (const disk of config.disks) {
    t.deepEqual(disk.key, idOf(newKek))
    t.is(disk.formerKeys, undefined)
  }
  await host.removeKey(idOf(kek))
  await guest.check(t, 'the new KEK opens every link')

  await host.revertToSnapshot(vm.reference, first)
  t.is((await host.readVirtualMachine(vm.reference)).chain, 'tree')
  await install(host, kek)
  const inTree = await folderOf(lab)
  await t.throwsAsync(host.reconfigureVirtualMachine(vm.reference, spec('shallowRecrypt', kek)), {
    code: 'VMSEAL_DISK_CHAIN',
  })
  t.deepEqual(await folderOf(lab), inTree)
})

test('refused by name, with nothing changed: no KEK, unknown snapshots, memory of a VM that is off', async (t) => {
  const { lab, vm, kek } = await sealedVm(t)
  const { host } = lab
  const id = await snapshot(lab, vm)
  const before = await folderOf(lab)
  const spec = { snapshotId: randomUUID(), name: 'x' }
  await t.throwsAsync(host.createSnapshot(vm.reference, { ...spec, snapshotId: id }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  await t.throwsAsync(host.createSnapshot(vm.reference, { ...spec, name: '' }), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
  await t.throwsAsync(host.createSnapshot(vm.reference, { ...spec, memory: '/dev/null' }), {
    code: 'VMSEAL_INVALID_POWER_STATE',
  })
  await t.throwsAsync(host.revertToSnapshot(vm.reference, randomUUID()), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(host.removeSnapshot(vm.reference, randomUUID(), true), { code: 'VMSEAL_NOT_FOUND' })
  await host.removeKey(idOf(kek))
  await t.throwsAsync(host.createSnapshot(vm.reference, spec), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  await t.throwsAsync(host.revertToSnapshot(vm.reference, id), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  await t.throwsAsync(host.removeSnapshot(vm.reference, id, false), {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
  })
  t.deepEqual(await folderOf(lab), before)
  await install(host, kek)
  await writeFile(join(lab.datastore, 'db01', 'db01.vmsd'), 'snapshot.numSnapshots = "3"\n')
  await t.throwsAsync(host.createSnapshot(vm.reference, spec), { code: 'VMSEAL_INVALID_STATE' })
})

test('a VM with snapshots is removed with all their files; one that is plain has snapshots too', async (t) => {
  const lab = await makeLab(t)
  const vm = await makeVm(lab, { bytes: 64 * 1024 })
  const guest = await GuestDisks.of(lab.host, vm)
  const kept = guest.copy()
  const id = await snapshot(lab, vm)
  await guest.write(0, 3, 30_000)
  await guest.zero(0, 512, 4096)
  await snapshot(lab, vm, 'second')
  await guest.check(t, 'plain children')
  await lab.host.revertToSnapshot(vm.reference, id)
  guest.restore(kept)
  await guest.check(t, 'plain, back')
  await lab.host.destroyVirtualMachine(vm.reference)
  await t.throwsAsync(folderOf(lab))
})
