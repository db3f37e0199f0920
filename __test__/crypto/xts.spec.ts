import { randomBytes } from 'node:crypto'
import test from 'ava'
import { SecretKey, XtsCipher } from '../../src/crypto.js'
import { compareWithOpenssl, kernels } from './xts-cases.js'

for (const kernel of kernels)
  test.serial(`${kernel}: 25,000 random cases equal Node's OpenSSL, both ways`, (t) => {
    if (compareWithOpenssl(kernel, 25_000) === 0) t.log(`skipped: this CPU has no ${kernel}`)
    t.pass()
  })

test('a number and a bigint name the same sector', (t) => {
  using key = SecretKey.generate(64)
  using cipher = new XtsCipher(key)
  const one = Buffer.alloc(512, 1)
  const two = Buffer.alloc(512, 1)
  cipher.encrypt(one, 12345)
  cipher.encrypt(two, 12345n)
  t.deepEqual(one, two)
})

test('encryptAsync equals encrypt, takes the buffer and gives it back', async (t) => {
  using key = SecretKey.generate(64)
  using cipher = new XtsCipher(key, { sectorSize: 4096, tweakStep: 8 })
  const plain = randomBytes(9 * 2 ** 20)
  const expected = Buffer.from(plain)
  cipher.encrypt(expected, 77)
  const data = new Uint8Array(plain)
  const running = cipher.encryptAsync(data, 77)
  t.is(data.byteLength, 0, 'nobody else can reach the bytes while they change')
  const encrypted = await running
  t.true(expected.equals(encrypted))
  t.true(plain.equals(await cipher.decryptAsync(encrypted, 77)))
})

test('disposing of the key or cipher in the middle of encryptAsync lets it finish', async (t) => {
  const key = SecretKey.generate(64)
  const cipher = new XtsCipher(key)
  const expected = Buffer.alloc(4 * 2 ** 20)
  cipher.encrypt(expected, 0)
  const running = cipher.encryptAsync(new Uint8Array(4 * 2 ** 20), 0)
  key.dispose()
  cipher.dispose()
  t.true(expected.equals(await running))
  t.throws(() => cipher.encrypt(Buffer.alloc(512), 0), { code: 'VMSEAL_KEY_DISPOSED' })
  await t.throwsAsync(cipher.encryptAsync(new Uint8Array(512), 0), { code: 'VMSEAL_KEY_DISPOSED' })
})

test('equal key halves are refused', (t) => {
  const half = randomBytes(32)
  using key = SecretKey.importUnsafe(Buffer.concat([half, half]))
  t.throws(() => new XtsCipher(key), { code: 'VMSEAL_KEY_WEAK' })
})

test('keys of other lengths are refused', (t) => {
  for (const length of [16, 32, 63, 65, 128]) {
    using key = SecretKey.generate(length)
    t.throws(() => new XtsCipher(key), { code: 'VMSEAL_KEY_LENGTH' })
  }
})

test('sector sizes and tweak steps that no disk has are refused', (t) => {
  using key = SecretKey.generate(64)
  for (const sectorSize of [0, 1, 16, 511, 513, 8192, 1.5, -512, NaN, '512'])
    t.throws(() => new XtsCipher(key, { sectorSize: sectorSize as 512 }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  for (const tweakStep of [0, -1, 0.5, Infinity, '1'])
    t.throws(() => new XtsCipher(key, { tweakStep: tweakStep as 1 }), { code: 'VMSEAL_INVALID_ARGUMENT' })
})

test('data that is no whole number of sectors is refused and left alone', async (t) => {
  using key = SecretKey.generate(64)
  using cipher = new XtsCipher(key, { sectorSize: 4096 })
  for (const length of [1, 512, 4095, 4097, 8191]) {
    const data = Buffer.alloc(length, 0x5a)
    t.throws(() => cipher.encrypt(data, 0), { code: 'VMSEAL_SECTOR_ALIGNMENT' })
    t.throws(() => cipher.decrypt(data, 0), { code: 'VMSEAL_SECTOR_ALIGNMENT' })
    t.true(data.equals(Buffer.alloc(length, 0x5a)))
    const own = new Uint8Array(data)
    await t.throwsAsync(cipher.encryptAsync(own, 0), { code: 'VMSEAL_SECTOR_ALIGNMENT' })
    t.true(data.equals(own), 'a refused call does not take the buffer')
  }
  const whole = new Uint8Array(4096).fill(0x5a)
  await t.throwsAsync(cipher.encryptAsync(whole, -1), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(cipher.decryptAsync(whole, 2n ** 64n), { code: 'VMSEAL_INVALID_ARGUMENT' })
  cipher.dispose()
  await t.throwsAsync(cipher.decryptAsync(whole, 0), { code: 'VMSEAL_KEY_DISPOSED' })
  t.deepEqual(whole, new Uint8Array(4096).fill(0x5a))
})

test('sector numbers outside 0..2^64-1 are refused', (t) => {
  using key = SecretKey.generate(64)
  using cipher = new XtsCipher(key)
  const data = Buffer.alloc(512)
  for (const sector of [-1, 0.5, NaN, Infinity, 2 ** 53, -1n, 2n ** 64n, '0', null, undefined, {}])
    t.throws(() => cipher.encrypt(data, sector as number), { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.true(data.equals(Buffer.alloc(512)))
  cipher.encrypt(data, 2n ** 64n - 1n)
})

test('buffers that others may change are refused', async (t) => {
  using key = SecretKey.generate(64)
  using cipher = new XtsCipher(key)
  const shared = new Uint8Array(new SharedArrayBuffer(512))
  t.throws(() => cipher.encrypt(shared, 0), { code: 'VMSEAL_BUFFER_DETACHED' })
  const detached = new Uint8Array(512)
  structuredClone(detached.buffer, { transfer: [detached.buffer] })
  t.throws(() => cipher.encrypt(detached, 0), { code: 'VMSEAL_BUFFER_DETACHED' })
  for (const data of ['x', null, undefined, 512, {}, new ArrayBuffer(512), new Uint16Array(256)])
    t.throws(() => cipher.encrypt(data as Uint8Array, 0), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(cipher.encryptAsync(new Uint8Array(1024).subarray(512), 0), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
})
