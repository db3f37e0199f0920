/** A VM that is off moves to another datastore as it lies, without a key; what would not be whole there stays. */
import { randomUUID } from 'node:crypto'
import { mkdir, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { native } from '../../src/native/load.js'
import type { Work, WorkProgress } from '../../src/rpc/host-api.js'
import { requirePeer, runs } from '../peers.js'
import { guestDigests, idOf, install, makeKek, makeVm } from './fixture.js'
import { GuestDisks } from './guest-disks.js'
import { splitExtent } from './several-extents.js'
import { makeTwo, treeOf, type TwoDatastores } from './two-datastores.js'

const mebibyte = 1024 * 1024
const moved = { datastore: 'ds2', vmx: 'db01/db01.vmx' }

async function memoryFile(lab: TwoDatastores): Promise<string> {
  const file = join(lab.images, randomUUID())
  await writeFile(file, 'the memory of a guest')
  return file
}

test('J7: every file moves byte for byte, snapshots, memory and state included, on a host that has no key', async (t) => {
  const lab = await makeTwo(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek })
  const guest = await GuestDisks.of(lab.host, vm)
  const first = randomUUID()
  await lab.host.powerOn(vm.reference)
  await lab.host.createSnapshot(vm.reference, {
    snapshotId: first,
    name: 'one',
    memory: await memoryFile(lab),
  })
  const kept = guest.copy()
  await guest.write(0, 1000, 70_000)
  await lab.host.powerOff(vm.reference)
  await lab.host.createSnapshot(vm.reference, { snapshotId: randomUUID(), name: 'two' })
  await guest.write(1, 512, 3000)
  await lab.host.saveGuestState(vm.reference, { kind: 'vmss' }, await memoryFile(lab))
  const before = await treeOf(lab.datastore)
  t.true(Object.keys(before).some((name) => name.endsWith('.vmem')))

  await lab.host.restart()
  t.deepEqual(await lab.host.listKeys(), [])
  const reports: WorkProgress[] = []
  const config = await lab.host.moveVirtualMachine(vm.reference, 'ds2', {
    onProgress: (report) => reports.push(report),
  })
  t.like(config, { ...moved, vmId: vm.config.vmId, homeKey: idOf(kek), cryptoState: 'locked' })
  t.deepEqual(await treeOf(lab.ds2), before)
  t.deepEqual(await readdir(lab.datastore), [])
  t.like(reports.at(-1), { doneBytes: reports.at(-1)?.totalBytes })
  t.true((reports.at(-1)?.totalBytes ?? 0) > 2 * 256 * 1024)
  const log = await readFile(join(lab.ds2, 'db01', 'vmware.log'), 'utf8')
  t.regex(log, /VM db01 created[^]*powered off[^]*moved from \[ds1\] db01\//)

  await install(lab.host, kek)
  await guest.check(t, 'the present state', { reference: moved })
  await lab.host.powerOn(moved)
  await lab.host.powerOff(moved)
  await lab.host.revertToSnapshot(moved, first)
  guest.restore(kept)
  await guest.check(t, 'the first snapshot', { reference: moved })
  await t.throwsAsync(lab.host.readVirtualMachine(vm.reference), { code: 'VMSEAL_NOT_FOUND' })
})

test('J7: a plain VM moves there and back again, with its lines', async (t) => {
  const lab = await makeTwo(t)
  const vm = await makeVm(lab)
  const before = await treeOf(lab.datastore)
  await lab.host.moveVirtualMachine(vm.reference, 'ds2')
  t.deepEqual(await treeOf(lab.ds2), before)
  await lab.host.moveVirtualMachine(moved, 'ds1')
  t.deepEqual(await treeOf(lab.datastore), before)
  t.deepEqual(await readdir(lab.ds2), [])
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})

test('J7: a disk of several extents moves whole, below a snapshot too', async (t) => {
  const lab = await makeTwo(t)
  const vm = await makeVm(lab)
  await splitExtent(join(lab.datastore, 'db01'), 'db01')
  const first = { name: 'ds1', path: lab.datastore }
  const second = { name: 'ds2', path: lab.ds2 }
  for (const way of ['there', 'back']) {
    const [from, to] = way === 'there' ? [first, second] : [second, first]
    const reference = { ...vm.reference, datastore: from.name }
    await lab.host.createSnapshot(reference, { snapshotId: randomUUID(), name: `on ${from.name}` })
    const tree = await treeOf(from.path)
    t.true('db01/db01-f002.vmdk' in tree)
    await lab.host.moveVirtualMachine(reference, to.name)
    t.deepEqual(await treeOf(to.path), tree)
    t.deepEqual(await readdir(from.path), [])
  }
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})

test('J7: disks that were detached, and files of others, stay where they are', async (t) => {
  const lab = await makeTwo(t)
  const vm = await makeVm(lab)
  const [, second] = vm.config.disks
  await lab.host.reconfigureVirtualMachine(vm.reference, { removeDisks: [second?.diskId ?? ''] })
  await writeFile(join(lab.datastore, 'db01', 'notes.txt'), 'of an administrator')
  await lab.host.moveVirtualMachine(vm.reference, 'ds2')
  t.deepEqual(Object.keys(await treeOf(lab.datastore)), ['db01/db01_1-flat.vmdk', 'db01/db01_1.vmdk', 'db01/notes.txt']) // prettier-ignore
  t.deepEqual(Object.keys(await treeOf(lab.ds2)), ['db01/db01-flat.vmdk', 'db01/db01.nvram', 'db01/db01.vmdk', 'db01/db01.vmsd', 'db01/db01.vmx']) // prettier-ignore
})

test('J7: what is on, in conversion, shared, linked or of another program is refused, and nothing changes', async (t) => {
  const lab = await makeTwo(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek })
  const move = (reference = vm.reference, to = 'ds2') => lab.host.moveVirtualMachine(reference, to)
  await t.throwsAsync(move(vm.reference, 'ds1'), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(move(vm.reference, 'ds3'), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(move(vm.reference, null as never), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(move({ datastore: 'ds1', vmx: 'none/none.vmx' }), { code: 'VMSEAL_NOT_FOUND' })
  await lab.host.powerOn(vm.reference)
  await t.throwsAsync(move(), { code: 'VMSEAL_INVALID_POWER_STATE' })
  await lab.host.powerOff(vm.reference)

  const snapshotId = randomUUID()
  await lab.host.createSnapshot(vm.reference, { snapshotId, name: 's' })
  const clone = await lab.host.cloneVirtualMachine(vm.reference, {
    vmId: randomUUID(),
    name: 'copy',
    datastore: 'ds1',
    snapshotId,
    linked: true,
    homeKey: idOf(kek),
    disks: vm.config.disks.map(({ diskId }) => ({ diskId, newDiskId: randomUUID(), key: idOf(kek) })),
  })
  await t.throwsAsync(move(), { code: 'VMSEAL_DISK_CHAIN', message: /linked clones read the disks/ })
  await t.throwsAsync(move(clone), { code: 'VMSEAL_DISK_CHAIN', message: /is a linked clone/ })
  await lab.host.destroyVirtualMachine(clone)

  const vmx = join(lab.datastore, 'db01', 'db01.vmx')
  const text = await readFile(vmx, 'utf8')
  await writeFile(vmx, `${text}scsi0:0.sharing = "multi-writer"\n`)
  await t.throwsAsync(move(), { code: 'VMSEAL_DISK_SHARED' })
  await writeFile(vmx, text)
  const vmsd = join(lab.datastore, 'db01', 'db01.vmsd')
  const table = await readFile(vmsd, 'utf8')
  await writeFile(vmsd, 'snapshot.numSnapshots = "1"\n')
  await t.throwsAsync(move(), { code: 'VMSEAL_INVALID_STATE', message: /another program/ })
  await writeFile(vmsd, table)

  const before = await treeOf(lab.datastore)
  for (const block of ['folder', 'link'] as const) {
    const place = join(lab.ds2, 'db01')
    if (block === 'link') await symlink(lab.images, place)
    else {
      await mkdir(place)
      await writeFile(join(place, 'db01.vmdk'), 'of somebody')
    }
    await t.throwsAsync(move(), { code: block === 'link' ? 'VMSEAL_IO' : 'VMSEAL_ALREADY_EXISTS' }, block)
    await rm(place, { recursive: true })
  }
  t.deepEqual(await treeOf(lab.datastore), before)
  t.deepEqual(await readdir(lab.ds2), [])
  await move()
  t.deepEqual(await treeOf(lab.ds2), before)
})

test('J7: a disk in conversion stays until the conversion is ended', async (t) => {
  const lab = await makeTwo(t)
  const vm = await makeVm(lab)
  const vmx = join(lab.datastore, 'db01', 'db01.vmx')
  const text = await readFile(vmx, 'utf8')
  const before = await treeOf(lab.datastore)
  // The addon tells of the disk what it tells of one in the middle of its encryption.
  const { readDescriptor, conversionInfo } = native
  const job = {
    phase: 'converting',
    mode: 'encrypt',
    doneBytes: 512,
    totalBytes: 1024,
    diskId: vm.config.disks[0]?.diskId,
    old: null,
    new: { generation: 2, keys: [] },
  }
  const ours = (path: string): boolean => path === join(lab.datastore, 'db01', 'db01.vmdk')
  const plant = (planted: boolean): void =>
    void Object.defineProperties(native, {
      readDescriptor: {
        configurable: true,
        writable: true,
        value: (path: string) => {
          const found = readDescriptor(path)
          if (!planted || !ours(path)) return found
          return JSON.stringify({ ...(JSON.parse(found) as object), createType: 'vmsealTransition' })
        },
      },
      conversionInfo: {
        configurable: true,
        writable: true,
        value: (path: string) => (planted && ours(path) ? JSON.stringify(job) : conversionInfo(path)),
      },
    })
  plant(true)
  t.teardown(() => plant(false))
  await writeFile(vmx, `${text}scsi0:0.vmsealConversion = "encrypt 2"\n`)
  t.like((await lab.host.readVirtualMachine(vm.reference)).disks[0]?.conversion, { doneBytes: 512 })
  await t.throwsAsync(lab.host.moveVirtualMachine(vm.reference, 'ds2'), { code: 'VMSEAL_DISK_IN_CONVERSION' })
  t.deepEqual(await readdir(lab.ds2), [])
  plant(false)
  await writeFile(vmx, text)
  t.deepEqual(await treeOf(lab.datastore), before)
  await lab.host.moveVirtualMachine(vm.reference, 'ds2')
  t.deepEqual(await treeOf(lab.ds2), before)
})

test('J7: cancelled at any report, the VM stays where it was and nothing is left of the copy', async (t) => {
  const lab = await makeTwo(t)
  const vm = await makeVm(lab, { bytes: 2 * mebibyte })
  const before = await treeOf(lab.datastore)
  const move = (work: Work) => lab.host.moveVirtualMachine(vm.reference, 'ds2', work)
  await t.throwsAsync(move({ signal: AbortSignal.abort() }), { code: 'VMSEAL_CANCELLED' })
  const steps = new Set<string>()
  for (let at = 1; ; at += 1) {
    const abort = new AbortController()
    let reports = 0
    const onProgress = ({ step, doneBytes, totalBytes }: WorkProgress): void => {
      // The last report is after the commit.
      if (doneBytes === totalBytes || (reports += 1) !== at) return
      steps.add(step)
      abort.abort()
    }
    const outcome = await move({ signal: abort.signal, onProgress }).catch((error: unknown) => error)
    if (!abort.signal.aborted) break
    t.like(outcome, { code: 'VMSEAL_CANCELLED' }, `report ${at}`)
    t.deepEqual(await treeOf(lab.datastore), before, `report ${at}`)
    t.deepEqual(await readdir(lab.ds2), [], `report ${at}`)
  }
  t.true(steps.size >= 4, [...steps].join(', '))
  t.deepEqual(await treeOf(lab.ds2), before)
  await t.throwsAsync(
    lab.host.moveVirtualMachine(moved, 'ds1', {
      onProgress: () => {
        throw new Error('the observer fell over')
      },
    }),
    { code: 'VMSEAL_INVALID_ARGUMENT' },
  )
  t.deepEqual(await treeOf(lab.ds2), before)
  t.deepEqual(await readdir(lab.datastore), [])
})

test('J7: a datastore without room is refused at the start, and one that fills up is left as it was', async (t) => {
  for (const believed of [undefined, async () => 1e12]) {
    const lab = await makeTwo(t, believed ? { freeBytes: believed } : {})
    const mounted = runs('mount', '-t', 'tmpfs', '-o', 'size=12m', 'vmseal-test', lab.ds2)
    if (!requirePeer(t, 'the right to mount a tmpfs', mounted)) return
    t.teardown(() => void runs('umount', lab.ds2))
    const vm = await makeVm(lab, { images: 2, bytes: 8 * mebibyte })
    const before = await treeOf(lab.datastore)
    await t.throwsAsync(lab.host.moveVirtualMachine(vm.reference, 'ds2'), { code: 'VMSEAL_NO_SPACE' })
    t.deepEqual(await treeOf(lab.datastore), before)
    t.deepEqual(await readdir(lab.ds2), [])
    t.true(runs('mount', '-o', 'remount,size=64m', lab.ds2))
    await lab.host.moveVirtualMachine(vm.reference, 'ds2')
    t.deepEqual(await treeOf(lab.ds2), before)
  }
})
