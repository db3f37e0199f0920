/** kill -9 while a snapshot is removed and merged, and while a VM is cloned: nothing of any state is lost, and again ends it. */
import { randomBytes, randomUUID } from 'node:crypto'
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { native } from '../../src/native/load.js'
import { filesWith, folderOf, idOf, install, makeLab, makeVm, marker } from './fixture.js'
import { GuestDisks } from './guest-disks.js'
import { convertAndKill } from './killed-conversion.js'

const child = { script: 'life-child.ts', folder: 'db01' }

function keyFor() {
  const secret = randomBytes(32)
  const handle = native.KeyHandle.importUnsafe(Buffer.from(secret))
  return { kek: { keyId: 'kek', providerId: 'kms-1', handle }, secret }
}

test('J3: killed anywhere while a snapshot is merged: every state reads as before, and consolidation ends it', async (t) => {
  let interrupted = 0
  for (const changes of [1, 3, 6, 10, 17, 28, 40]) {
    const lab = await makeLab(t)
    const { kek, secret } = keyFor()
    await install(lab.host, kek)
    const vm = await makeVm(lab, { images: 1, bytes: 8 * 1024 * 1024, homeKey: kek, diskKey: kek })
    const guest = await GuestDisks.of(lab.host, vm)
    const [first, second] = [randomUUID(), randomUUID()]
    await lab.host.createSnapshot(vm.reference, { snapshotId: first, name: 'first' })
    for (const at of [0, 3_000_000, 7_000_000]) await guest.write(0, at, 600_000)
    await lab.host.createSnapshot(vm.reference, { snapshotId: second, name: 'second' })
    const kept = guest.copy()
    await guest.write(0, 500_000, 900_000)
    if (!(await convertAndKill(lab, 'remove', secret, { changes }, first, child))) interrupted += 1
    await guest.check(t, `after ${changes} changes`)
    const config = await lab.host.consolidateDisks(vm.reference)
    t.true(config.snapshotTree?.some(({ id }) => id === second))
    await guest.check(t, 'after the consolidation')
    if (config.snapshotTree?.length === 2) await lab.host.removeSnapshot(vm.reference, first, false)
    await lab.host.revertToSnapshot(vm.reference, second)
    guest.restore(kept)
    await guest.check(t, 'the snapshot that was left')
    await lab.host.removeSnapshot(vm.reference, second, true)
    await guest.check(t, 'one file again')
    t.deepEqual(
      Object.keys(await folderOf(lab)).filter((name) => /-\d{6}|vmseal-task/.test(name)),
      [],
    )
    t.deepEqual(await filesWith(lab, marker.trim()), [])
    await rm(lab.datastore, { recursive: true })
  }
  t.true(interrupted > 0, 'at least one kill came in the middle')
  t.log(`${interrupted} were killed before the end`)
})

for (const action of ['clone', 'link'])
  test(`J1: killed anywhere while a ${action} is made: no VM or all of it, and the source is as it was`, async (t) => {
    let interrupted = 0
    for (const changes of [1, 4, 9, 15]) {
      const lab = await makeLab(t)
      const { kek, secret } = keyFor()
      await install(lab.host, kek)
      const vm = await makeVm(lab, { images: 1, bytes: 2 * 1024 * 1024, homeKey: kek, diskKey: kek })
      const guest = await GuestDisks.of(lab.host, vm)
      const snapshotId = randomUUID()
      await lab.host.createSnapshot(vm.reference, { snapshotId, name: 's' })
      await mkdir(join(lab.datastore, 'copy'))
      const cloning = { script: 'life-child.ts', folder: 'copy' }
      await convertAndKill(lab, action, secret, { changes }, snapshotId, cloning)
      await guest.check(t, `the source after ${changes} changes`)
      const reference = { datastore: 'ds1', vmx: 'copy/copy.vmx' }
      if ((await lab.host.findVirtualMachines('ds1')).length === 1) {
        interrupted += 1
        // The name can be used again, and what the source noted of the clone that never was holds nothing.
        const { disks } = await lab.host.readVirtualMachine(vm.reference)
        const spec = { vmId: randomUUID(), name: 'copy', datastore: 'ds1', snapshotId, homeKey: idOf(kek) }
        await lab.host.cloneVirtualMachine(vm.reference, {
          ...spec,
          disks: disks.map(({ diskId }) => ({ diskId, newDiskId: randomUUID(), key: idOf(kek) })),
        })
      }
      await guest.check(t, 'the clone', { reference })
      await lab.host.destroyVirtualMachine(reference)
      await lab.host.removeSnapshot(vm.reference, snapshotId, false)
      await guest.check(t, 'the source alone')
      t.is((await lab.host.readVirtualMachine(vm.reference)).chain, undefined)
      await lab.host.destroyVirtualMachine(vm.reference)
      t.deepEqual(await readdir(lab.datastore), [])
      await rm(lab.datastore, { recursive: true })
    }
    t.true(interrupted > 0)
  })
