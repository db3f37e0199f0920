import { randomUUID } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import type { ConversionPace, Work, WorkProgress } from '../../src/rpc/host-api.js'
import {
  encryptWith,
  folderOf,
  guestDigests,
  idOf,
  install,
  makeImage,
  makeKek,
  makeLab,
  makeVm,
  sha256Of,
} from './fixture.js'

const mebibyte = 1024 * 1024
const bytes = 64 * mebibyte
/** A conversion at this pace is not over before it is cancelled. */
const slow: ConversionPace = { maxBytesPerSecond: mebibyte }

function fallOver(): never {
  throw new Error('the observer fell over')
}

test('a cancelled conversion leaves every file as it was, whenever the cancel comes', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { bytes })
  const before = await folderOf(lab)
  const disks = vm.config.disks.map(({ diskId }) => ({ diskId, crypto: encryptWith(kek) }))
  const convert = (work: Work, pace?: ConversionPace) =>
    lab.host.reconfigureVirtualMachine(vm.reference, { home: encryptWith(kek), disks, ...pace }, work)
  await t.throwsAsync(convert({ signal: AbortSignal.abort() }), { code: 'VMSEAL_CANCELLED' })
  t.deepEqual(await folderOf(lab), before)
  for (const milliseconds of [1, 8, 30]) {
    const controller = new AbortController()
    const conversion = t.throwsAsync(convert({ signal: controller.signal }, slow), {
      code: 'VMSEAL_CANCELLED',
    })
    await delay(milliseconds)
    controller.abort()
    await conversion
    t.deepEqual(await folderOf(lab), before)
  }
  await convert({})
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})

test('a host that stops or restarts cancels what runs', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { bytes })
  const before = await folderOf(lab)
  const disks = vm.config.disks.map(({ diskId }) => ({ diskId, crypto: encryptWith(kek) }))
  const conversion = t.throwsAsync(
    lab.host.reconfigureVirtualMachine(vm.reference, { home: encryptWith(kek), disks, ...slow }),
    { code: 'VMSEAL_CANCELLED' },
  )
  await delay(5)
  await lab.host.restart()
  await conversion
  t.deepEqual(await folderOf(lab), before)
  await lab.host.stop()
  await lab.host.stop()
  await t.throwsAsync(lab.host.readVirtualMachine(vm.reference), { code: 'VMSEAL_HOST_UNREACHABLE' })
  await lab.host.restart()
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})

test('a cancelled creation leaves no folder', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const source = await makeImage(lab, 'a.raw', bytes)
  const second = await makeImage(lab, 'b.raw', mebibyte)
  const before = await sha256Of(source)
  // The first step is reported at its end at the latest, when the second one has not begun.
  for (const when of ['at once', 'at the first report']) {
    const controller = new AbortController()
    const spec = {
      vmId: randomUUID(),
      name: 'db01',
      datastore: 'ds1',
      homeKey: idOf(kek),
      disks: [source, second].map((image) => ({ diskId: randomUUID(), source: image, key: idOf(kek) })),
    }
    const creation = lab.host.createVirtualMachine(spec, {
      signal: controller.signal,
      onProgress: () => controller.abort(),
    })
    if (when === 'at once') controller.abort()
    await t.throwsAsync(creation, { code: 'VMSEAL_CANCELLED' })
    t.deepEqual(await readdir(lab.datastore), [])
  }
  t.is(await sha256Of(source), before)
})

test('an observer that throws ends the request with its own error and without a trace', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { bytes })
  const before = await folderOf(lab)
  const disks = vm.config.disks.map(({ diskId }) => ({ diskId, crypto: encryptWith(kek) }))
  await t.throwsAsync(
    lab.host.reconfigureVirtualMachine(
      vm.reference,
      { home: encryptWith(kek), disks },
      { onProgress: fallOver },
    ),
    { code: 'VMSEAL_INVALID_ARGUMENT', message: /the observer fell over/ },
  )
  t.deepEqual(await folderOf(lab), before)
})

test('an observer that throws at the last report cannot turn done into failed', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab)
  let last = 0
  const onProgress = ({ doneBytes, totalBytes }: WorkProgress) => {
    last = doneBytes
    if (doneBytes === totalBytes) fallOver()
  }
  const config = await lab.host.reconfigureVirtualMachine(
    vm.reference,
    { home: encryptWith(kek) },
    { onProgress },
  )
  t.deepEqual(config.homeKey, idOf(kek))
  t.is(last, 64 * 1024)
})
