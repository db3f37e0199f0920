import { createCipheriv, createDecipheriv, randomBytes, randomInt } from 'node:crypto'
import test from 'ava'
import { SecretKey, XtsCipher, unwrapKey, unwrapKeyPadded, wrapKey, wrapKeyPadded } from '../../src/crypto.js'
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
