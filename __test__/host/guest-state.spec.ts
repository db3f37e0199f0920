/** Rows K2 and B6 of the feature table: what a hypervisor writes of a guest is opaque on the datastore, of every kind. */
import { spawnSync } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import type { GuestState } from '../../src/host/guest-state.js'
import {
  decrypt,
  encryptWith,
  filesWith,
  idOf,
  install,
  makeKek,
  makeLab,
  makeVm,
  marker,
} from './fixture.js'

const kinds: readonly GuestState[] = [
  { kind: 'vmss' },
  { kind: 'vmem' },
  { kind: 'vmsn', label: '-Snapshot1' },
  { kind: 'vmem', label: '-Snapshot1' },
  { kind: 'core' },
]

async function makeState(
  directory: string,
  name: string,
  bytes = 3 * 2 ** 20,
): Promise<{ file: string; content: Buffer }> {
  const content = Buffer.alloc(bytes, `${name}: ${marker}`)
  const file = join(directory, name)
  await writeFile(file, content)
  return { file, content }
}

for (const state of kinds) {
  const name = `${state.kind}${state.label ?? ''}`
  test(`K2, B6: ${name} of an encrypted VM is encrypted with the VM's key, on and off, and reads back`, async (t) => {
    const lab = await makeLab(t)
    const kek = makeKek()
    await install(lab.host, kek)
    const vm = await makeVm(lab, { homeKey: kek, diskKey: kek, images: 1 })
    const { file, content } = await makeState(lab.images, 'state')
    await lab.host.powerOn(vm.reference)
    await lab.host.saveGuestState(vm.reference, state, file)
    t.deepEqual(await filesWith(lab, marker), [])
    const target = join(lab.images, 'back')
    await lab.host.readGuestState(vm.reference, state, target)
    t.true((await readFile(target)).equals(content))

    // Again, with the VM off: the new one replaces the old one.
    await lab.host.powerOff(vm.reference)
    const second = await makeState(lab.images, 'second', 1000)
    await lab.host.saveGuestState(vm.reference, state, second.file)
    t.deepEqual(await filesWith(lab, marker), [])
    await lab.host.readGuestState(vm.reference, state, `${target}-2`)
    t.true((await readFile(`${target}-2`)).equals(second.content))
    await lab.host.powerOn(vm.reference)
    await lab.host.dropGuestState(vm.reference, state)
    await t.throwsAsync(lab.host.readGuestState(vm.reference, state, `${target}-3`), {
      code: 'VMSEAL_NOT_FOUND',
    })
    await t.throwsAsync(lab.host.dropGuestState(vm.reference, state), { code: 'VMSEAL_NOT_FOUND' })
    await lab.host.powerOff(vm.reference)
  })
}

test('K2: without the key the state is neither read nor replaced, and the VM stays as it is', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek, images: 0 })
  const { file } = await makeState(lab.images, 'state', 1000)
  await lab.host.saveGuestState(vm.reference, { kind: 'vmss' }, file)
  await lab.host.removeKey(idOf(kek))
  const lost = { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' } as const
  await t.throwsAsync(lab.host.readGuestState(vm.reference, { kind: 'vmss' }, join(lab.images, 'x')), lost)
  await t.throwsAsync(lab.host.saveGuestState(vm.reference, { kind: 'vmem' }, file), lost)
  await install(lab.host, kek)
  t.is((await lab.host.powerOn(vm.reference)).powerState, 'poweredOn')
})

test('K2: states that two hosts or two VMs mix up are refused', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const one = await makeVm(lab, { name: 'one', homeKey: kek, images: 0 })
  const other = await makeVm(lab, { name: 'other', homeKey: kek, images: 0 })
  const { file } = await makeState(lab.images, 'state', 1000)
  for (const vm of [one, other]) await lab.host.saveGuestState(vm.reference, { kind: 'vmss' }, file)
  await writeFile(
    join(lab.datastore, 'other/other.vmss'),
    await readFile(join(lab.datastore, 'one/one.vmss')),
  )
  await t.throwsAsync(lab.host.readGuestState(other.reference, { kind: 'vmss' }, join(lab.images, 'x')), {
    code: 'VMSEAL_STREAM_INVALID',
  })
  await t.throwsAsync(readFile(join(lab.images, 'x')), { code: 'ENOENT' })
})

test('B6: state of a plain VM is converted with VM home, both ways; logs stay readable', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { images: 0 })
  const { file, content } = await makeState(lab.images, 'state')
  for (const state of kinds) await lab.host.saveGuestState(vm.reference, state, file)
  t.is((await filesWith(lab, marker)).length, kinds.length + 1, 'every kind, and the .vmx with its settings')
  await lab.host.reconfigureVirtualMachine(vm.reference, { home: encryptWith(kek) })
  t.deepEqual(await filesWith(lab, marker), [])
  t.true((await filesWith(lab, 'saved vmss')).includes('vmware.log'))
  await lab.host.reconfigureVirtualMachine(vm.reference, { home: decrypt })
  for (const [index, state] of kinds.entries()) {
    const target = join(lab.images, `back-${index}`)
    await lab.host.readGuestState(vm.reference, state, target)
    t.true((await readFile(target)).equals(content))
  }
})

test('K2: a pipe is as good as a file', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { homeKey: kek, images: 0 })
  const pipe = join(lab.images, 'pipe')
  t.is(spawnSync('mkfifo', [pipe]).status, 0)
  const { content } = await makeState(lab.images, 'state')
  await Promise.all([lab.host.saveGuestState(vm.reference, { kind: 'core' }, pipe), writeFile(pipe, content)])
  const target = join(lab.images, 'back')
  await lab.host.readGuestState(vm.reference, { kind: 'core' }, target)
  t.true((await readFile(target)).equals(content))
})

test('K2: what is no state is refused before anything is written', async (t) => {
  const lab = await makeLab(t)
  const vm = await makeVm(lab, { images: 0 })
  const { file } = await makeState(lab.images, 'state', 1000)
  for (const state of [
    { kind: 'nvram' },
    { kind: 'core', label: '/../x' },
    { kind: 'core', label: 'x'.repeat(41) },
    {},
  ])
    await t.throwsAsync(lab.host.saveGuestState(vm.reference, state as GuestState, file), {
      code: 'VMSEAL_INVALID_ARGUMENT',
    })
  const missing = join(lab.images, 'missing')
  await t.throwsAsync(lab.host.saveGuestState(vm.reference, { kind: 'core' }, missing), {
    code: 'VMSEAL_NOT_FOUND',
  })
  await t.throwsAsync(lab.host.saveGuestState(vm.reference, { kind: 'core' }, lab.images), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
})
