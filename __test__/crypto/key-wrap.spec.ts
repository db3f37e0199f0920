import { spawnSync } from 'node:child_process'
import { createCipheriv, createDecipheriv, randomBytes, randomInt } from 'node:crypto'
import test from 'ava'
import {
  SecretKey,
  XtsCipher,
  disposeKeys,
  keyMemory,
  unwrapKey,
  unwrapKeyPadded,
  unwrapKeys,
  wrapKey,
  wrapKeyPadded,
  wrapKeys,
} from '../../src/crypto.js'
import { vectors } from '../vectors.js'

const iv3394 = Buffer.from('a6a6a6a6a6a6a6a6', 'hex')
const iv5649 = Buffer.from('a65959a6', 'hex')

test("RFC 3394 equals Node's OpenSSL for random keys", (t) => {
  for (let round = 0; round < 2000; round += 1) {
    const kekBytes = randomBytes(32)
    const keyBytes = randomBytes(8 * (2 + randomInt(15)))
    using kek = SecretKey.importUnsafe(Buffer.from(kekBytes))
    using key = SecretKey.importUnsafe(Buffer.from(keyBytes))
    const cipher = createCipheriv('id-aes256-wrap', kekBytes, iv3394)
    const expected = Buffer.concat([cipher.update(keyBytes), cipher.final()])
    if (!wrapKey(kek, key).equals(expected)) return t.fail('wrap differs')
    using unwrapped = unwrapKey(kek, expected)
    if (!unwrapped.equals(key)) return t.fail('unwrap differs')
  }
  t.pass()
})

test("RFC 5649 equals Node's OpenSSL for random keys", (t) => {
  for (let round = 0; round < 2000; round += 1) {
    const kekBytes = randomBytes(32)
    const keyBytes = randomBytes(16 + randomInt(120))
    using kek = SecretKey.importUnsafe(Buffer.from(kekBytes))
    using key = SecretKey.importUnsafe(Buffer.from(keyBytes))
    const wrapped = wrapKeyPadded(kek, key)
    const decipher = createDecipheriv('id-aes256-wrap-pad', kekBytes, iv5649)
    if (!Buffer.concat([decipher.update(wrapped), decipher.final()]).equals(keyBytes))
      return t.fail('wrap differs')
    using unwrapped = unwrapKeyPadded(kek, wrapped)
    if (!unwrapped.equals(key)) return t.fail('unwrap differs')
  }
  t.pass()
})

interface WycheproofFile {
  readonly testGroups: readonly {
    readonly tests: readonly { tcId: number; key: string; msg: string; ct: string; result: string }[]
  }[]
}

test('all invalid Wycheproof vectors are refused, from JavaScript too', (t) => {
  for (const [path, unwrap, count] of [
    ['wycheproof/aes_wrap_test.json', unwrapKey, 126],
    ['wycheproof/aes_kwp_test.json', unwrapKeyPadded, 177],
  ] as const) {
    const text = vectors(t, path)
    if (text === undefined) return t.pass()
    const invalid = (JSON.parse(text) as WycheproofFile).testGroups
      .flatMap((group) => group.tests)
      .filter((vector) => vector.result === 'invalid')
    t.is(invalid.length, count)
    for (const { tcId, key, ct } of invalid) {
      using kek = SecretKey.importUnsafe(Buffer.from(key, 'hex'))
      t.throws(() => unwrap(kek, Buffer.from(ct, 'hex')), { code: 'VMSEAL_UNWRAP_FAILED' }, `${path} ${tcId}`)
    }
  }
})

test('an unwrapped key works', (t) => {
  using kek = SecretKey.generate(32)
  using dek = SecretKey.generate(64)
  using again = unwrapKey(kek, wrapKey(kek, dek))
  const data = Buffer.alloc(512)
  new XtsCipher(dek).encrypt(data, 9)
  new XtsCipher(again).decrypt(data, 9)
  t.true(data.equals(Buffer.alloc(512)))
})

test('another KEK, a flipped bit and a wrong length are refused', (t) => {
  using kek = SecretKey.generate(32)
  using other = SecretKey.generate(32)
  using dek = SecretKey.generate(64)
  const wrapped = wrapKey(kek, dek)
  t.throws(() => unwrapKey(other, wrapped), { code: 'VMSEAL_UNWRAP_FAILED' })
  for (let bit = 0; bit < wrapped.length * 8; bit += 1) {
    const altered = Buffer.from(wrapped)
    altered.writeUInt8(altered.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
    t.throws(() => unwrapKey(kek, altered), { code: 'VMSEAL_UNWRAP_FAILED' })
  }
  for (const length of [0, 1, 8, 16, 71, 73])
    t.throws(() => unwrapKey(kek, randomBytes(length)), { code: 'VMSEAL_UNWRAP_FAILED' })
})

test('KEKs and keys of lengths that make no sense are refused', (t) => {
  using kek = SecretKey.generate(32)
  using short = SecretKey.generate(8)
  using odd = SecretKey.generate(33)
  using dek = SecretKey.generate(64)
  t.throws(() => wrapKey(kek, short), { code: 'VMSEAL_KEY_LENGTH' })
  t.throws(() => wrapKey(kek, odd), { code: 'VMSEAL_KEY_LENGTH' })
  t.throws(() => wrapKey(odd, dek), { code: 'VMSEAL_KEY_LENGTH' })
  t.throws(() => wrapKeyPadded(kek, short), { code: 'VMSEAL_KEY_LENGTH' })
})

test('anything but a SecretKey is refused', (t) => {
  using kek = SecretKey.generate(32)
  for (const value of [null, undefined, 'key', randomBytes(32), {}, Object.create(SecretKey.prototype)]) {
    t.throws(() => wrapKey(kek, value as SecretKey), { code: 'VMSEAL_INVALID_ARGUMENT' })
    t.throws(() => wrapKey(value as SecretKey, kek), { code: 'VMSEAL_INVALID_ARGUMENT' })
  }
})

test('many wraps at once equal one after the other, in the given order', (t) => {
  using kek = SecretKey.generate(32)
  for (const count of [0, 1, 2, 7, 8, 31, 32, 33, 100]) {
    const keys = Array.from({ length: count }, () => SecretKey.generate(8 * (2 + randomInt(12))))
    const wrapped = wrapKeys(kek, keys)
    t.deepEqual(
      wrapped,
      keys.map((key) => wrapKey(kek, key)),
    )
    t.true(wrapped.every((wrap) => Buffer.isBuffer(wrap)))
    const opened = unwrapKeys(kek, wrapped)
    t.is(opened.length, count)
    for (const [index, key] of opened.entries()) {
      t.true(key.equals(keys[index] as SecretKey))
      t.is(key.length, (keys[index] as SecretKey).length)
    }
    for (const key of [...keys, ...opened]) key.dispose()
  }
})

test("many wraps at once equal Node's OpenSSL", (t) => {
  const kekBytes = randomBytes(32)
  using kek = SecretKey.importUnsafe(Buffer.from(kekBytes))
  const plain = Array.from({ length: 300 }, () =>
    randomBytes([16, 32, 64, 256, 264, 4096][randomInt(6)] ?? 0),
  )
  const keys = plain.map((bytes) => SecretKey.importUnsafe(Buffer.from(bytes)))
  const expected = plain.map((bytes) => {
    const cipher = createCipheriv('id-aes256-wrap', kekBytes, iv3394)
    return Buffer.concat([cipher.update(bytes), cipher.final()])
  })
  t.deepEqual(wrapKeys(kek, keys), expected)
  // As views of another kind, at odd places of their memory.
  const views = expected.map((wrap) => new Uint8Array([0, ...wrap]).subarray(1))
  for (const [index, key] of unwrapKeys(kek, views).entries()) t.true(key.equals(keys[index] as SecretKey))
})

test.serial('keys that were unwrapped together live and are disposed of one by one', (t) => {
  using kek = SecretKey.generate(32)
  const deks = Array.from({ length: 40 }, () => SecretKey.generate(64))
  const before = keyMemory().allocations
  const keys = unwrapKeys(kek, wrapKeys(kek, deks))
  t.is(keyMemory().allocations, before + 40)
  const [first, second] = keys as [SecretKey, SecretKey]
  first.dispose()
  t.true(first.disposed)
  t.is(first.length, 64)
  t.is(keyMemory().allocations, before + 39)
  t.throws(() => new XtsCipher(first), { code: 'VMSEAL_KEY_DISPOSED' })
  t.throws(() => wrapKey(kek, first), { code: 'VMSEAL_KEY_DISPOSED' })
  t.throws(() => wrapKeys(kek, keys), { code: 'VMSEAL_KEY_DISPOSED' })
  t.throws(() => first.equals(second), { code: 'VMSEAL_KEY_DISPOSED' })
  t.true(second.equals(deks[1] as SecretKey))
  t.deepEqual(wrapKey(kek, second), wrapKey(kek, deks[1] as SecretKey))
  t.notThrows(() => new XtsCipher(second).dispose())
  t.notThrows(() => wrapKeyPadded(kek, second))
  for (const key of keys) key.dispose()
  t.is(keyMemory().allocations, before)
  for (const key of deks) key.dispose()
})

test.serial('disposeKeys disposes of keys of every origin, of each once', (t) => {
  using kek = SecretKey.generate(32)
  const deks = Array.from({ length: 40 }, () => SecretKey.generate(64))
  const wraps = wrapKeys(kek, deks)
  const before = keyMemory().allocations
  const single = wraps.slice(0, 20).map((wrap) => unwrapKey(kek, wrap))
  const many = unwrapKeys(kek, wraps)
  t.true(many[3]?.equals(single[3] as SecretKey))
  many[7]?.dispose()
  const [last] = many.slice(-1) as [SecretKey]
  disposeKeys([...single, ...many.slice(0, -1), single[0] as SecretKey])
  t.is(keyMemory().allocations, before + 1)
  t.true([...single, ...many.slice(0, -1)].every((key) => key.disposed))
  t.true(last.equals(deks[39] as SecretKey))
  disposeKeys([last, ...deks])
  disposeKeys([last, ...deks])
  disposeKeys([])
  t.is(keyMemory().allocations, before - 40)
  t.throws(() => wrapKey(kek, last), { code: 'VMSEAL_KEY_DISPOSED' })
})

test.serial('disposeKeys refuses what is no key before it touches any', (t) => {
  using kek = SecretKey.generate(32)
  using dek = SecretKey.generate(64)
  const [key] = unwrapKeys(kek, [wrapKey(kek, dek)]) as [SecretKey]
  for (const value of [null, undefined, 'key', 7, {}, randomBytes(64)])
    t.throws(() => disposeKeys([key, value as SecretKey]), { code: 'VMSEAL_INVALID_ARGUMENT' })
  for (const value of [null, undefined, 'keys', 7, {}, key])
    t.throws(() => disposeKeys(value as SecretKey[]), { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.false(key.disposed)
  t.true(key.equals(dek))
  key.dispose()
})

test.serial('keys unwrapped one by one are each usable and each freed', (t) => {
  using kek = SecretKey.generate(32)
  using dek = SecretKey.generate(64)
  const wrapped = wrapKey(kek, dek)
  const before = keyMemory().allocations
  // More than share one registration.
  const keys = Array.from({ length: 50 }, () => unwrapKey(kek, wrapped))
  for (const key of keys.filter((_, index) => index % 3 === 0)) key.dispose()
  t.is(keyMemory().allocations, before + 33)
  t.is(keys.filter((key) => !key.disposed && key.equals(dek)).length, 33)
  disposeKeys(keys)
  t.is(keyMemory().allocations, before)
})

test.serial('an unwrapped key that was wrapped, used and disposed of leaves nothing', (t) => {
  using kek = SecretKey.generate(32)
  using dek = SecretKey.generate(64)
  const wrapped = wrapKey(kek, dek)
  const before = keyMemory().allocations
  const key = unwrapKey(kek, wrapped)
  t.is(keyMemory().allocations, before + 1)
  t.deepEqual(wrapKey(kek, key), wrapped)
  t.true(key.equals(dek))
  key.dispose()
  key.dispose()
  t.is(keyMemory().allocations, before)
  for (const use of [() => wrapKey(kek, key), () => wrapKey(key, dek), () => unwrapKey(key, wrapped)])
    t.throws(use, { code: 'VMSEAL_KEY_DISPOSED' })
})

test.serial('unwrapped keys that nobody disposed of are freed when they are collected', async (t) => {
  using kek = SecretKey.generate(32)
  using dek = SecretKey.generate(64)
  const wrapped = wrapKey(kek, dek)
  const before = keyMemory().allocations
  const use = () => [unwrapKey(kek, wrapped), ...unwrapKeys(kek, Array<Buffer>(50).fill(wrapped))].length
  t.is(use(), 51)
  t.is(keyMemory().allocations, before + 51)
  for (let round = 0; round < 100 && keyMemory().allocations > before; round += 1) {
    globalThis.gc?.()
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  t.is(keyMemory().allocations, before)
})

test('one key of unwrapKeys keeps none of the others from being used, after a collection too', async (t) => {
  using kek = SecretKey.generate(32)
  using dek = SecretKey.generate(64)
  const key = unwrapKeys(kek, Array<Buffer>(50).fill(wrapKey(kek, dek)))[49] as SecretKey
  for (let round = 0; round < 5; round += 1) {
    globalThis.gc?.()
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  t.true(key.equals(dek))
  key.dispose()
})

test.serial('one bad wrap fails unwrapKeys, is named, and nothing leaks', (t) => {
  using kek = SecretKey.generate(32)
  const keys = Array.from({ length: 50 }, () => SecretKey.generate(64))
  const wrapped = wrapKeys(kek, keys)
  const before = keyMemory().allocations
  for (const index of [0, 7, 31, 32, 49]) {
    for (const bad of [randomBytes(72), randomBytes(8), Buffer.alloc(0), randomBytes(71)]) {
      const altered = wrapped.with(index, bad)
      t.throws(() => unwrapKeys(kek, altered), {
        code: 'VMSEAL_UNWRAP_FAILED',
        message: new RegExp(`^wrap ${index}: `),
      })
    }
  }
  t.is(keyMemory().allocations, before)
  for (const key of keys) key.dispose()
})

test('one key that cannot be wrapped fails wrapKeys', (t) => {
  using kek = SecretKey.generate(32)
  using odd = SecretKey.generate(33)
  using dek = SecretKey.generate(64)
  t.throws(() => wrapKeys(kek, [dek, odd]), { code: 'VMSEAL_KEY_LENGTH' })
  t.throws(() => wrapKeys(odd, [dek]), { code: 'VMSEAL_KEY_LENGTH' })
  t.throws(() => unwrapKeys(odd, [wrapKey(kek, dek)]), { code: 'VMSEAL_KEY_LENGTH' })
})

test('lists of anything else are refused', (t) => {
  using kek = SecretKey.generate(32)
  const detached = new Uint8Array(72)
  structuredClone(detached.buffer, { transfer: [detached.buffer] })
  t.throws(() => unwrapKeys(kek, [detached]), { code: 'VMSEAL_BUFFER_DETACHED' })
  for (const value of [null, undefined, 'keys', randomBytes(72), {}, { length: 2 }, 7])
    for (const call of [
      () => wrapKeys(kek, value as unknown as SecretKey[]),
      () => wrapKeys(kek, [kek, value as unknown as SecretKey]),
      () => unwrapKeys(kek, value as unknown as Buffer[]),
    ])
      t.throws(call, { code: 'VMSEAL_INVALID_ARGUMENT' })
  for (const value of [null, undefined, 'keys', {}, 7, new DataView(new ArrayBuffer(72))])
    t.throws(() => unwrapKeys(kek, [value as Buffer]), { code: 'VMSEAL_INVALID_ARGUMENT' })
})

test('a list that calls again while it is read spoils nothing', (t) => {
  using kek = SecretKey.generate(32)
  using one = SecretKey.generate(64)
  using two = SecretKey.generate(64)
  const keys = [one, two]
  Object.defineProperty(keys, 1, {
    get: () => {
      wrapKeys(kek, [two, two, two])
      return two
    },
  })
  t.deepEqual(wrapKeys(kek, keys), [wrapKey(kek, one), wrapKey(kek, two)])
})

for (const kernel of ['portable', 'aesni', 'vaes512', 'nonsense'])
  test(`${kernel}: the kernel that VMSEAL_KEY_WRAP_KERNEL names does the work`, (t) => {
    const crypto = new URL('../../src/crypto.ts', import.meta.url).href
    const program = `
      import { createCipheriv, randomBytes } from 'node:crypto'
      const { SecretKey, unwrapKeys, wrapKey, wrapKeys } = await import(${JSON.stringify(crypto)})
      const kekBytes = randomBytes(32)
      const kek = SecretKey.importUnsafe(Buffer.from(kekBytes))
      const plain = Array.from({ length: 70 }, (_, index) => randomBytes(16 + 8 * (index % 7)))
      const keys = plain.map((bytes) => SecretKey.importUnsafe(Buffer.from(bytes)))
      const expected = plain.map((bytes) => {
        const cipher = createCipheriv('id-aes256-wrap', kekBytes, Buffer.alloc(8, 0xa6))
        return Buffer.concat([cipher.update(bytes), cipher.final()])
      })
      try {
        const same = (wrapped) => wrapped.every((wrap, index) => wrap.equals(expected[index]))
        const opened = unwrapKeys(kek, expected).every((key, index) => key.equals(keys[index]))
        console.log(same(wrapKeys(kek, keys)) && same(keys.map((key) => wrapKey(kek, key))) && opened)
      } catch (error) {
        console.log(error.code, error.message)
      }
    `
    const result = spawnSync(process.execPath, ['--import=tsx', '--input-type=module', '-e', program], {
      encoding: 'utf8',
      env: { ...process.env, VMSEAL_KEY_WRAP_KERNEL: kernel },
    })
    if (kernel === 'nonsense')
      return t.regex(result.stdout, /^VMSEAL_INVALID_ARGUMENT .*VMSEAL_KEY_WRAP_KERNEL must be/)
    if (result.stdout.includes('this CPU cannot run')) {
      t.log(`skipped: this CPU has no ${kernel}`)
      return t.pass()
    }
    t.is(result.stdout.trim(), 'true', result.stderr)
  })

test('wraps open wherever they stand in memory: side by side, apart, in the wrong order, shared', (t) => {
  const kek = SecretKey.generate(32)
  const keys = [64, 32, 64, 16, 64].map((length) => SecretKey.generate(length))
  const sideBySide = wrapKeys(kek, keys)
  const apart = sideBySide.map((wrap) => new Uint8Array(wrap))
  const shared = new Uint8Array(new SharedArrayBuffer(5 * 72))
  let used = 0
  const sharedOnes = sideBySide.map((wrap) => {
    shared.set(wrap, used)
    used += wrap.length
    return shared.subarray(used - wrap.length, used)
  })
  const mixed = [...sideBySide.slice(0, 2), apart[2]!, ...sideBySide.slice(3)]
  for (const wraps of [sideBySide, apart, sharedOnes, mixed]) {
    const opened = unwrapKeys(kek, wraps)
    t.true(opened.every((key, index) => key.equals(keys[index]!)))
    disposeKeys(opened)
  }
  const backwards = unwrapKeys(kek, sideBySide.toReversed())
  t.true(backwards.every((key, index) => key.equals(keys[keys.length - 1 - index]!)))
  disposeKeys([...keys, ...backwards, kek])
})
