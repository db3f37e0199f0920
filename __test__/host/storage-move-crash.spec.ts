/** A host that is killed at every call of a move that changes a file: the VM is whole in one of the two places, and used in no other. */
import { endKill, killedAt } from './killed-calls.js'
import { createHash, randomUUID } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import test, { type ExecutionContext } from 'ava'
import type { Host } from '../../src/host/host.js'
import { guestDigests, install, makeKek, makeVm } from './fixture.js'
import { GuestDisks } from './guest-disks.js'
import { makeTwo, treeOf, type TwoDatastores } from './two-datastores.js'

const old = { datastore: 'ds1', vmx: 'db01/db01.vmx' }
const moved = { datastore: 'ds2', vmx: 'db01/db01.vmx' }

async function exists(host: Host, place: typeof old): Promise<boolean> {
  return (await host.findVirtualMachines(place.datastore)).length > 0
}

/** Where the VM is counts its newer place; power-on there must work and end the other one. */
async function whereItIs(t: ExecutionContext, host: Host, when: string): Promise<typeof old> {
  const place = (await exists(host, moved)) ? moved : old
  await host.powerOn(place)
  await host.powerOff(place)
  const other = place === moved ? old : moved
  t.false(await exists(host, other), `${when}: it is in one place`)
  await t.throwsAsync(host.powerOn(other), { code: 'VMSEAL_NOT_FOUND' }, when)
  return place
}

async function sweep(
  t: ExecutionContext,
  whoLooks: (lab: TwoDatastores) => Promise<Host>,
  first: 'the newer place' | 'the old place',
): Promise<void> {
  const places = new Set<string>()
  const kek = makeKek()
  for (let at = 0; ; at += 1) {
    const lab = await makeTwo(t)
    await install(lab.host, kek)
    const vm = await makeVm(lab, { images: 1, bytes: 65536, homeKey: kek, diskKey: kek })
    const guest = await GuestDisks.of(lab.host, vm)
    await lab.host.createSnapshot(old, { snapshotId: randomUUID(), name: 's' })
    await guest.write(0, 512, 1024)
    const before = await treeOf(lab.datastore)
    const ended = await killedAt(at, () => lab.host.moveVirtualMachine(old, 'ds2'))
    await lab.host.stop().catch(() => {})
    endKill()
    const when = `killed at call ${at}`
    const host = await whoLooks(lab)
    await install(host, kek)
    // Without a look at the other place nobody touches it.
    if (first === 'the old place' && (await exists(host, old)) && (await exists(host, moved)))
      await t.throwsAsync(host.powerOn(old), { code: 'VMSEAL_NOT_FOUND' }, when)
    const place = await whereItIs(t, host, when)
    places.add(place.datastore)
    const expected = guest.copy().map((disk) => createHash('sha256').update(disk).digest('hex'))
    t.deepEqual(await guestDigests(host, { ...vm, reference: place }), expected, when)
    const [mine, other] = place === old ? [lab.datastore, lab.ds2] : [lab.ds2, lab.datastore]
    t.deepEqual(await treeOf(mine), before, when)
    t.deepEqual(Object.keys(await treeOf(other)), [], when)
    if (place === old) await host.moveVirtualMachine(old, 'ds2')
    t.deepEqual(await treeOf(lab.ds2), before, when)
    t.deepEqual(await readdir(lab.datastore), [], when)
    t.deepEqual(await guestDigests(host, { ...vm, reference: moved }), expected, when)
    if (ended) {
      t.deepEqual([...places].toSorted(), ['ds1', 'ds2'])
      t.log(`${at} calls`)
      return
    }
  }
}

test.serial('J7: killed at every call of a move: the same host starts again', (t) =>
  sweep(t, (lab) => lab.restart(), 'the newer place'),
)

test.serial('J7: killed at every call of a move: somebody wants the VM in its old place first', (t) =>
  sweep(t, (lab) => lab.restart(), 'the old place'),
)

test.serial(
  'J7: an interrupted move is ended by a host that has both datastores, and by no other',
  async (t) => {
    const kek = makeKek()
    const seen = new Set<string>()
    for (let at = 0; ; at += 1) {
      const lab = await makeTwo(t)
      await install(lab.host, kek)
      await makeVm(lab, { images: 1, bytes: 65536, homeKey: kek, diskKey: kek })
      const ended = await killedAt(at, () => lab.host.moveVirtualMachine(old, 'ds2'))
      await lab.host.stop().catch(() => {})
      endKill()
      // The same host after a restart that lost it a datastore: its own locks of before are void.
      const found = await lab.restart()
      const [inOld, inNew] = [await exists(found, old), await exists(found, moved)]
      await found.stop()
      for (const [place, datastores, there] of [
        [old, { ds1: lab.datastore }, inOld],
        [moved, { ds2: lab.ds2 }, inNew],
      ] as const) {
        if (!there) continue
        const host = await lab.restart('esx-2', { datastores })
        await install(host, kek)
        const outcome = await host.powerOn(place).then(
          () => 'on',
          (error: { code: string }) => error.code,
        )
        seen.add(`${place.datastore} ${outcome}`)
        t.true(
          outcome === 'VMSEAL_INVALID_STATE' || (outcome === 'on' && inOld !== inNew),
          `${at}: ${outcome}`,
        )
        await host.stop()
      }
      if (ended) break
    }
    t.deepEqual([...seen].toSorted(), [
      'ds1 VMSEAL_INVALID_STATE',
      'ds1 on',
      'ds2 VMSEAL_INVALID_STATE',
      'ds2 on',
    ])
  },
)
