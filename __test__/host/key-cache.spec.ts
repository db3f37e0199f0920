import test from 'ava'
import { native } from '../../src/native/load.js'
import { KeyCache } from '../../src/host/key-cache.js'
import type { SealedKey } from '../../src/rpc/host-api.js'
import { encryptWith, idOf, install, makeKek, makeLab, makeSafe, makeVm, sealFor } from './fixture.js'

function used(): number {
  return native.keyMemoryStatus().allocations
}

test('a sealed key is installed once and listed by its id', async (t) => {
  const { host } = await makeLab(t)
  const kek = makeKek('key 1/ä')
  await install(host, kek)
  t.deepEqual(await host.listKeys(), [idOf(kek)])
  await install(host, kek)
  t.deepEqual(await host.listKeys(), [idOf(kek)])
  await host.removeKey(idOf(kek))
  await host.removeKey(idOf(kek))
  t.deepEqual(await host.listKeys(), [])
})

test('the same key id of two providers is two keys', async (t) => {
  const { host } = await makeLab(t)
  await install(host, makeKek('k', 'a'), makeKek('k', 'b'))
  t.is((await host.listKeys()).length, 2)
})

test('another key under an id that is taken is refused', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek('k')
  await install(lab.host, kek)
  await t.throwsAsync(install(lab.host, makeKek('k')), { code: 'VMSEAL_ALREADY_EXISTS' })
  // The first one still serves.
  const vm = await makeVm(lab)
  await lab.host.reconfigureVirtualMachine(vm.reference, { home: encryptWith(kek) })
  await lab.host.removeKey(idOf(kek))
  await install(lab.host, makeKek('k'))
  await t.throwsAsync(lab.host.powerOn(vm.reference), { code: 'VMSEAL_ENVELOPE_AUTHENTICATION' })
})

test('a seal that was altered in any part is refused', async (t) => {
  const { host } = await makeLab(t)
  const sealed = await sealFor(host, makeKek('k'))
  const changes: Partial<SealedKey>[] = [
    { keyId: 'l' },
    { providerId: 'other' },
    { nonce: Buffer.alloc(16).toString('base64') },
    { expiresAt: new Date(Date.parse(sealed.expiresAt) + 1).toISOString() },
  ]
  const bytes = Buffer.from(sealed.sealed, 'base64')
  for (let index = 0; index < bytes.length; index += 1) {
    const altered = Buffer.from(bytes)
    altered[index] = (altered[index] as number) ^ (1 << (index % 8))
    changes.push({ sealed: altered.toString('base64') })
  }
  for (const length of [0, 1, 31, 32, 48, bytes.length - 1])
    if (length > 0) changes.push({ sealed: bytes.subarray(0, length).toString('base64') })
  for (const change of changes)
    await t.throwsAsync(
      host.installKey({ ...sealed, ...change }),
      { code: 'VMSEAL_SEAL_INVALID' },
      JSON.stringify(change),
    )
  t.deepEqual(await host.listKeys(), [])
  // None of it used the seal up.
  await host.installKey(sealed)
  t.is((await host.listKeys()).length, 1)
})

test('M7: a seal is good for one host and one start of it', async (t) => {
  const lab = await makeLab(t)
  const second = await lab.start('esx-2')
  const sealed = await sealFor(lab.host, makeKek('k'))
  await t.throwsAsync(second.installKey(sealed), { code: 'VMSEAL_SEAL_INVALID' })
  await t.throwsAsync(second.installKey({ ...sealed, hostId: second.id }), { code: 'VMSEAL_SEAL_INVALID' })
  const before = await lab.host.identify()
  await lab.host.restart()
  const after = await lab.host.identify()
  t.is(after.hostId, before.hostId)
  t.not(after.bootId, before.bootId)
  t.not(after.publicKey, before.publicKey)
  await makeSafe(lab.host)
  await t.throwsAsync(lab.host.installKey(sealed), { code: 'VMSEAL_SEAL_INVALID' })
})

test('an expired seal is refused, by the host’s clock to the millisecond', async (t) => {
  let now = Date.parse('2026-01-01T00:00:00Z')
  const { host } = await makeLab(t, { now: () => now })
  const kek = makeKek('k')
  const expiresAt = '2026-01-01T00:00:05.000Z'
  const early = await sealFor(host, kek, { expiresAt })
  const late = await sealFor(host, kek, { expiresAt })
  now = Date.parse(expiresAt) - 1
  await host.installKey(early)
  now += 1
  await t.throwsAsync(host.installKey(late), { code: 'VMSEAL_SEAL_EXPIRED' })
  await t.throwsAsync(host.installKey(early), { code: 'VMSEAL_SEAL_EXPIRED' })
})

test('a seal is used once', async (t) => {
  const { host } = await makeLab(t)
  const kek = makeKek('k')
  const sealed = await sealFor(host, kek)
  await host.installKey(sealed)
  await t.throwsAsync(host.installKey(sealed), { code: 'VMSEAL_SEAL_REPLAYED' })
  await host.removeKey(idOf(kek))
  await t.throwsAsync(host.installKey(sealed), { code: 'VMSEAL_SEAL_REPLAYED' })
  const twin = await sealFor(host, makeKek('other'), { nonce: sealed.nonce })
  await t.throwsAsync(host.installKey(twin), { code: 'VMSEAL_SEAL_REPLAYED' })
  t.deepEqual(await host.listKeys(), [])
})

test('a key that is no KEK is refused', async (t) => {
  const { host } = await makeLab(t)
  for (const length of [16, 64]) {
    const sealed = await sealFor(host, {
      keyId: 'k',
      providerId: 'p',
      handle: native.KeyHandle.generate(length),
    })
    await t.throwsAsync(host.installKey(sealed), { code: 'VMSEAL_SEAL_INVALID' })
  }
  t.deepEqual(await host.listKeys(), [])
})

test.serial('keys are wiped when they are removed and when the host restarts or stops', async (t) => {
  const { host } = await makeLab(t)
  const kek = makeKek('k')
  const other = makeKek('l')
  const empty = used()
  await install(host, kek)
  t.is(used(), empty + 1)
  await install(host, kek)
  t.is(used(), empty + 1)
  await host.removeKey(idOf(kek))
  t.is(used(), empty)
  await install(host, kek, other)
  t.is(used(), empty + 2)
  await host.restart()
  t.is(used(), empty - 1, 'the host key too')
  t.deepEqual(await host.listKeys(), [])
  await install(host, kek)
  await host.stop()
  t.is(used(), empty - 2, 'and the key pair that seals are opened with')
  await t.throwsAsync(host.listKeys(), { code: 'VMSEAL_HOST_UNREACHABLE' })
})

test('a cache of another host does not open the seal', async (t) => {
  const { host } = await makeLab(t)
  const sealed = await sealFor(host, makeKek('k'))
  const impostor = new KeyCache(host.id)
  t.teardown(() => impostor.dispose())
  t.throws(() => impostor.install(sealed), { code: 'VMSEAL_SEAL_INVALID' })
  t.deepEqual(impostor.list(), [])
})
