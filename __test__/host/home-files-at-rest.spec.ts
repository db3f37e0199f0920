/**
 * Row B6: whatever a hypervisor hands over of a guest, no file of the VM holds it in clear text, at no moment: also while it is
 * being written. vmseal itself has no swap file: the only one is what a hypervisor left in the folder.
 */
import { spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { open, readFile, readdir, writeFile, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import type { GuestState } from '../../src/host/guest-state.js'
import {
  encryptWith,
  filesWith,
  idOf,
  install,
  makeKek,
  makeLab,
  makeVm,
  marker,
  type Lab,
} from './fixture.js'

const kinds: readonly GuestState[] = [
  { kind: 'vmss' },
  { kind: 'vmem' },
  { kind: 'vmsn', label: '-Snapshot1' },
  { kind: 'core' },
]
const memory = Buffer.alloc(3 * 2 ** 20, marker)

/** A pipe that a hypervisor writes to; what it has written so far is not the end. */
async function makePipe(lab: Lab): Promise<string> {
  const pipe = join(lab.images, randomUUID())
  if (spawnSync('mkfifo', [pipe]).status !== 0) throw new Error('no mkfifo')
  return pipe
}

/** Writes all of the memory but the last byte, and waits until the files of the VM have grown by most of it. */
async function writeMost(lab: Lab, pipe: string): Promise<FileHandle> {
  const before = await bytesOf(lab)
  const writer = await open(pipe, 'w')
  await writer.writeFile(memory.subarray(0, -1))
  while ((await bytesOf(lab)) < before + memory.length / 2) await delay(5)
  return writer
}

async function bytesOf(lab: Lab): Promise<number> {
  const folder = join(lab.datastore, 'db01')
  let bytes = 0
  for (const name of await readdir(folder)) bytes += (await readFile(join(folder, name))).length
  return bytes
}

async function makeRunning(t: ExecutionContext) {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek, diskKey: kek, images: 1 })
  await lab.host.powerOn(vm.reference)
  t.deepEqual(await filesWith(lab, marker), [])
  return { lab, kek, vm }
}

for (const state of kinds)
  test(`B6: ${state.kind} of a VM that is on is ciphertext while it is being written, and when the writer dies`, async (t) => {
    const { lab, vm } = await makeRunning(t)
    const names = await readdir(join(lab.datastore, 'db01'))
    const pipe = await makePipe(lab)
    const saved = lab.host.saveGuestState(vm.reference, state, pipe)
    const writer = await writeMost(lab, pipe)
    const made = (await readdir(join(lab.datastore, 'db01'))).filter((name) => !names.includes(name))
    t.true(made.some((name) => name.endsWith(`.${state.kind}`)), made.join()) // prettier-ignore
    t.deepEqual(await filesWith(lab, marker), [], 'half written')
    await writer.writeFile(memory.subarray(-1))
    await writer.close()
    await saved
    t.deepEqual(await filesWith(lab, marker), [])

    // Another one is given up in the middle: the first one stays, and nothing else does.
    const cancel = new AbortController()
    const again = await makePipe(lab)
    const second = lab.host.saveGuestState(vm.reference, state, again, { signal: cancel.signal })
    const other = await writeMost(lab, again)
    t.deepEqual(await filesWith(lab, marker), [])
    cancel.abort()
    const refused = t.throwsAsync(second, { code: 'VMSEAL_CANCELLED' })
    await other.close().catch(() => {})
    await refused
    t.deepEqual(await filesWith(lab, marker), [])
    const target = join(lab.images, 'back')
    await lab.host.readGuestState(vm.reference, state, target)
    t.true((await readFile(target)).equals(memory))
    await lab.host.powerOff(vm.reference)
  })

test('B6: through the life of an encrypted VM that is on no file of it is ever plaintext', async (t) => {
  const { lab, kek, vm } = await makeRunning(t)
  const source = join(lab.images, 'memory')
  await writeFile(source, memory)
  const next = makeKek()
  await install(lab.host, next)
  const recrypt = { type: 'shallowRecrypt', newKey: idOf(next) } as const
  const disks = vm.config.disks.map(({ diskId }) => ({ diskId, crypto: recrypt }))
  const snapshotId = randomUUID()
  const { host } = lab
  const { reference } = vm
  const life: [string, () => Promise<unknown>][] = [
    ...kinds.map((state): [string, () => Promise<unknown>] => [
      state.kind,
      () => host.saveGuestState(reference, state, source),
    ]),
    ['snapshot with memory', () => host.createSnapshot(reference, { snapshotId, name: 's', memory: source })],
    ['going back', () => host.revertToSnapshot(reference, snapshotId)],
    ['the end of the snapshot', () => host.removeSnapshot(reference, snapshotId, false)],
    ['recrypt', () => host.reconfigureVirtualMachine(reference, { home: recrypt, disks })],
    ['power off', async () => (await host.readVirtualMachine(reference)).powerState === 'poweredOn' && host.powerOff(reference)],
    ['deep recrypt', () => host.reconfigureVirtualMachine(reference, { home: { type: 'deepRecrypt', newKey: idOf(kek) } })],
    ['power on', () => host.powerOn(reference)],
    ['power off again', () => host.powerOff(reference)],
  ] // prettier-ignore
  for (const [what, act] of life) {
    await act()
    t.deepEqual(await filesWith(lab, marker), [], what)
  }
})

test('B6: a swap file that a hypervisor left is encrypted with VM home, and vmseal makes none', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { images: 0 })
  await lab.host.powerOn(vm.reference)
  const isSwap = (name: string): boolean => name.endsWith('.vswp')
  t.false((await readdir(join(lab.datastore, 'db01'))).some(isSwap))
  await lab.host.powerOff(vm.reference)
  await writeFile(join(lab.datastore, 'db01/db01.vswp'), memory)
  t.true((await filesWith(lab, marker)).includes('db01.vswp'), 'the control')
  await lab.host.reconfigureVirtualMachine(vm.reference, { home: encryptWith(kek) })
  t.deepEqual(await filesWith(lab, marker), [])
  t.is((await readdir(join(lab.datastore, 'db01'))).filter(isSwap).length, 1, 'it is kept, as ciphertext')
})
