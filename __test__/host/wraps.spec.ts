import { createHash } from 'node:crypto'
import { copyFile, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { isVmsealError } from '../../src/errors.js'
import type { ReconfigureSpec } from '../../src/rpc/host-api.js'
import {
  decrypt,
  encryptWith,
  folderOf,
  idOf,
  install,
  makeKek,
  makeLab,
  makeVm,
  type Lab,
  type MadeVm,
} from './fixture.js'

/** What a refused wrap may be called. A flip in the clear key id makes it a key that the host lacks. */
const refusals = new Set<string>([
  'VMSEAL_ENVELOPE_INVALID',
  'VMSEAL_ENVELOPE_AUTHENTICATION',
  'VMSEAL_ENVELOPE_MISMATCH',
  'VMSEAL_DESCRIPTOR_INVALID',
  'VMSEAL_DESCRIPTOR_UNSUPPORTED',
  'VMSEAL_ENCRYPTION_KEY_REQUIRED',
  'VMSEAL_VMX_INVALID',
])

async function sealedVm(t: ExecutionContext, name?: string, lab?: Lab) {
  const place = lab ?? (await makeLab(t))
  const kek = makeKek(`kek-${name ?? 'db01'}`)
  await install(place.host, kek)
  const vm = await makeVm(place, {
    images: 1,
    bytes: 64 * 1024,
    homeKey: kek,
    diskKey: kek,
    ...(name && { name }),
  })
  return { lab: place, kek, vm, folder: join(place.datastore, name ?? 'db01') }
}

function decryptAll(vm: MadeVm): ReconfigureSpec {
  return { home: decrypt, disks: vm.config.disks.map(({ diskId }) => ({ diskId, crypto: decrypt })) }
}

/** Every operation that needs the wrap refuses, and no file of the folder changes. */
async function refusesUntouched(t: ExecutionContext, lab: Lab, vm: MadeVm, why: string, powerOn = true) {
  const name = vm.config.name
  const before = await folderOf(lab, name)
  const attempts = [() => lab.host.reconfigureVirtualMachine(vm.reference, decryptAll(vm))]
  if (powerOn) attempts.push(() => lab.host.powerOn(vm.reference))
  for (const attempt of attempts) {
    const error = await t.throwsAsync(attempt(), undefined, why)
    t.true(isVmsealError(error) && refusals.has(error.code), `${why}: ${String(error)}`)
  }
  t.deepEqual(await folderOf(lab, name), before, why)
}

/** Rewrites vmseal lines of a descriptor with a fitting sum and without the second copy, as a forger would. */
async function forge(path: string, change: (text: string) => string) {
  const text = change(await readFile(path, 'utf8'))
  const lines = text
    .split('\n')
    .filter((line) => line.startsWith('vmseal.') && !line.startsWith('vmseal.sum='))
  const sum = createHash('sha256')
  for (const line of lines) sum.update(`${line.replaceAll('"', '')}\n`)
  await writeFile(path, text.replace(/sha256:[0-9a-f]{64}/, `sha256:${sum.digest('hex')}`))
  await rm(`${path}.vmseal`, { force: true })
}

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

/** The character with one bit of its base64url value, or of its code, the other way round. */
function flip(jwe: string, index: number): string {
  const value = alphabet.indexOf(jwe[index] as string)
  const other = value < 0 ? 'A' : (alphabet[value ^ (1 << (index % 6))] as string)
  return jwe.slice(0, index) + other + jwe.slice(index + 1)
}

function wrapIn(text: string, line: RegExp): string {
  const wrap = line.exec(text)?.[1]
  if (wrap === undefined) throw new Error(`no ${String(line)}`)
  return wrap
}

function sealLines(text: string): string {
  const lines = text.split('\n').filter((line) => line.startsWith('vmseal.'))
  return lines.join('\n')
}

const diskWrap = /vmseal\.dek\.0="([^"]+)"/
const homeWrap = /vmseal\.dek\.0 = "([^"]+)"/
const homeConfig = /vmseal\.config = "([^"]+)"/

test('the forger’s sum is the one that the descriptor has', async (t) => {
  const { folder } = await sealedVm(t)
  const path = join(folder, 'db01.vmdk')
  const before = await readFile(path, 'utf8')
  await forge(path, (text) => text)
  t.is(await readFile(path, 'utf8'), before)
})

test('A5: a disk’s wrap with any character changed is refused, though the sum fits', async (t) => {
  const { lab, vm, folder } = await sealedVm(t)
  const path = join(folder, 'db01.vmdk')
  const original = await readFile(path, 'utf8')
  const jwe = wrapIn(original, diskWrap)
  for (let index = 0; index < jwe.length; index += 1) {
    await forge(path, () => original.replace(jwe, flip(jwe, index)))
    await refusesUntouched(t, lab, vm, `character ${index}`, index % 16 === 0)
  }
  await forge(path, () => original)
  await t.notThrowsAsync(lab.host.reconfigureVirtualMachine(vm.reference, decryptAll(vm)))
})

test('a descriptor with a byte changed and the sum left is refused', async (t) => {
  const { lab, vm, folder } = await sealedVm(t)
  const path = join(folder, 'db01.vmdk')
  const original = await readFile(path, 'utf8')
  const start = original.indexOf('vmseal.version')
  const end = original.indexOf('\n', original.indexOf('vmseal.sum'))
  for (let index = start; index < end; index += 7) {
    const flipped = String.fromCharCode(original.charCodeAt(index) ^ (1 << (index % 5)))
    await writeFile(path, original.slice(0, index) + flipped + original.slice(index + 1))
    await refusesUntouched(t, lab, vm, `byte ${index}`)
  }
})

test('VM home’s wrap and settings with any character changed are refused', async (t) => {
  const { lab, vm, folder } = await sealedVm(t)
  const path = join(folder, 'db01.vmx')
  const original = await readFile(path, 'utf8')
  for (const [line, stride] of [
    [homeWrap, 1],
    [homeConfig, 3],
  ] as const) {
    const jwe = wrapIn(original, line)
    for (let index = 0; index < jwe.length; index += stride) {
      await writeFile(path, original.replace(jwe, flip(jwe, index)))
      await refusesUntouched(t, lab, vm, `${line.source} character ${index}`, index % 16 === 0)
    }
  }
  await writeFile(path, original)
  await t.notThrowsAsync(lab.host.reconfigureVirtualMachine(vm.reference, decryptAll(vm)))
})

test('identity lines that do not fit the wraps are refused', async (t) => {
  const { lab, vm, folder } = await sealedVm(t)
  const path = join(folder, 'db01.vmx')
  const original = await readFile(path, 'utf8')
  const other = '6000c291-35bd-4d2d-a77e-709fb2c53635'
  for (const [line, value] of [
    ['vmseal.id', other],
    ['vmseal.gen', '2'],
    ['vmseal.dekGen', '2'],
    ['scsi0:0.vmsealId', other],
    ['scsi0:0.vmsealGen', '2'],
    ['vmseal.dek.0', ''],
    ['vmseal.config', ''],
  ] as const) {
    await writeFile(path, original.replace(new RegExp(`${line} = "[^"]*"`), `${line} = "${value}"`))
    await refusesUntouched(t, lab, vm, line)
  }
  for (const line of [
    'vmseal.dek.0',
    'vmseal.dekGen',
    'vmseal.config',
    'scsi0:0.vmsealGen',
    'scsi0:0.vmsealId',
  ]) {
    await writeFile(path, original.replace(new RegExp(`${line} = "[^"]*"\n`), ''))
    await refusesUntouched(t, lab, vm, `without ${line}`)
  }
})

test('A5: a wrap moved to another disk of the VM, or to another VM, is refused', async (t) => {
  const first = await sealedVm(t)
  const { lab, kek } = first
  const second = await makeVm(lab, { name: 'db02', images: 2, bytes: 64 * 1024, homeKey: kek, diskKey: kek })
  const folder = join(lab.datastore, 'db02')
  const one = join(folder, 'db02.vmdk')
  const two = join(folder, 'db02_1.vmdk')
  const foreign = join(first.folder, 'db01.vmdk')
  const originals = new Map<string, string>()
  for (const path of [one, two]) originals.set(path, await readFile(path, 'utf8'))
  const restore = async () => {
    for (const [path, text] of originals) await writeFile(path, text)
  }
  for (const [target, source] of [
    [one, two],
    [two, one],
    [one, foreign],
  ] as const) {
    const wrap = wrapIn(await readFile(source, 'utf8'), diskWrap)
    await forge(target, (text) => text.replace(diskWrap, `vmseal.dek.0="${wrap}"`))
    await refusesUntouched(t, lab, second, `wrap of ${source} in ${target}`)
    await restore()
    // All vmseal lines of the other disk: the id line comes along.
    const stranger = sealLines(await readFile(source, 'utf8'))
    await forge(target, (text) => text.replace(sealLines(text), stranger))
    await refusesUntouched(t, lab, second, `all lines of ${source} in ${target}`)
    await restore()
  }
  const vmx = join(folder, 'db02.vmx')
  const own = await readFile(vmx, 'utf8')
  const donor = await readFile(join(first.folder, 'db01.vmx'), 'utf8')
  for (const lines of [[homeWrap], [homeConfig], [homeWrap, homeConfig]]) {
    let text = own
    for (const line of lines) text = text.replace(wrapIn(own, line), wrapIn(donor, line))
    await writeFile(vmx, text)
    await refusesUntouched(t, lab, second, 'VM home of another VM')
  }
  await writeFile(vmx, own)
  await t.notThrowsAsync(lab.host.reconfigureVirtualMachine(second.reference, decryptAll(second)))
})

test('A8: a missing wrap is refused: the disk is not taken for a plain one', async (t) => {
  const { lab, vm, kek, folder } = await sealedVm(t)
  const path = join(folder, 'db01.vmdk')
  const original = await readFile(path, 'utf8')
  await rm(`${path}.vmseal`)
  const withoutLines = original
    .split('\n')
    .filter((line) => !line.startsWith('vmseal.') && !line.startsWith('ddb.iofilters'))
    .join('\n')
  for (const text of [original.replace(/vmseal\.dek\.0=.*\n/, ''), withoutLines, '', 'junk']) {
    await writeFile(path, text)
    await refusesUntouched(t, lab, vm, 'without the wrap')
    const before = await folderOf(lab)
    const spec = { disks: [{ diskId: vm.config.disks[0]!.diskId, crypto: encryptWith(kek) }] }
    await t.throwsAsync(lab.host.reconfigureVirtualMachine(vm.reference, spec))
    t.deepEqual(await folderOf(lab), before)
  }
})

test('A8: without the KEK nothing opens and nothing is written; the ids are named', async (t) => {
  const { lab, vm, kek } = await sealedVm(t)
  await lab.host.removeKey(idOf(kek))
  const before = await folderOf(lab)
  const attempts = [
    () => lab.host.reconfigureVirtualMachine(vm.reference, decryptAll(vm)),
    () => lab.host.powerOn(vm.reference),
    () => lab.host.digestDisk(vm.reference, vm.config.disks[0]!.diskId),
    () => lab.host.readDisk(vm.reference, vm.config.disks[0]!.diskId, 0, 512),
  ]
  for (const attempt of attempts) {
    const error = await t.throwsAsync(attempt(), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
    t.like(error, { details: { requiredKeys: [idOf(kek)] } })
  }
  // The right id with another key behind it opens nothing either.
  await install(lab.host, makeKek(kek.keyId))
  await refusesUntouched(t, lab, vm, 'another KEK')
  t.deepEqual(await folderOf(lab), before)
})

test('a home file altered, cut, or of another role stops the decryption and leaves everything', async (t) => {
  const { lab, vm, folder } = await sealedVm(t)
  const nvram = join(folder, 'db01.nvram')
  const original = await readFile(nvram)
  const altered = Buffer.from(original)
  altered[1000] = (altered[1000] as number) ^ 1
  for (const content of [altered, original.subarray(0, -1), original.subarray(0, 40), Buffer.alloc(0)]) {
    await writeFile(nvram, content)
    const before = await folderOf(lab)
    await t.throwsAsync(lab.host.reconfigureVirtualMachine(vm.reference, decryptAll(vm)), {
      code: 'VMSEAL_STREAM_INVALID',
    })
    t.deepEqual(await folderOf(lab), before)
  }
  await writeFile(nvram, original)
  await copyFile(nvram, join(folder, 'db01.vmss'))
  const vmx = join(folder, 'db01.vmx')
  const text = await readFile(vmx, 'utf8')
  await writeFile(vmx, `${text}vmseal.file0.role = "vmss"\nvmseal.file0.name = "db01.vmss"\n`)
  await t.throwsAsync(lab.host.reconfigureVirtualMachine(vm.reference, decryptAll(vm)), {
    code: 'VMSEAL_STREAM_INVALID',
  })
})
