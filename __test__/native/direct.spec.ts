/** The direct calls skip the frame of napi-rs, so what it would refuse they must refuse themselves. */
import fc from 'fast-check'
import test from 'ava'
import { VmsealError } from '../../src/errors.js'
import { direct, native, rethrow } from '../../src/native/load.js'

const handles = () => {
  const dek = native.KeyHandle.generate(64)
  return { kek: native.KeyHandle.generate(32), key: dek, cipher: native.XtsHandle.create(dek, 512, 1) }
}
/** What a call could be given by mistake, among it all that it needs to succeed. */
const anything = (own: ReturnType<typeof handles>) =>
  fc.oneof(
    fc.anything(),
    fc.constantFrom(
      own.kek.token,
      own.key.token,
      own.cipher.token,
      -1,
      0,
      NaN,
      Infinity,
      2 ** 53,
      1e300,
      1,
      2,
      3,
    ),
    fc.bigInt(),
    fc.uint8Array({ maxLength: 600 }),
    fc.float64Array({ maxLength: 4 }),
    fc.constantFrom(
      new Uint8Array(512),
      new Uint8Array(72),
      Float64Array.of(own.key.token, own.kek.token),
      Float64Array.of(72),
      Float64Array.of(NaN, -1, 1e300),
      new Uint8Array(new SharedArrayBuffer(512)),
      new Float64Array(new SharedArrayBuffer(16)),
      new Uint8ClampedArray(512),
      new DataView(new ArrayBuffer(512)),
      new Uint8Array(0),
      Symbol('x'),
      own.cipher,
      own.key,
    ),
  )

const { kek, key, cipher } = handles()

for (const [name, call] of Object.entries(direct))
  test(`${name}: any arguments give a result or a VmsealError`, (t) => {
    // Own ones: a key that is disposed of here is none that another test uses.
    const values = anything(handles())
    fc.assert(
      fc.property(fc.array(values, { maxLength: 5 }), (given) => {
        try {
          ;(call as (...given: unknown[]) => unknown)(...given)
        } catch (thrown) {
          t.throws(() => rethrow(thrown), { instanceOf: VmsealError })
          if ((thrown as Error).message.startsWith('VMSEAL_INTERNAL')) throw thrown
        }
      }),
      { numRuns: 2000 },
    )
    t.pass()
  })

test('a token of one kind is none of another kind', (t) => {
  t.throws(() => direct.xtsEncrypt(key.token, new Uint8Array(512), 0), { message: /^VMSEAL_KEY_DISPOSED/ })
  t.throws(() => direct.wrapKey(cipher.token, key.token, new Uint8Array(72)), {
    message: /^VMSEAL_KEY_DISPOSED/,
  })
})

test('a token is gone with its key, and a new key has another one', (t) => {
  const tokens = new Set<number>()
  for (let round = 0; round < 1000; round += 1) {
    const handle = native.KeyHandle.generate(32)
    const { token } = handle
    t.true(Number.isSafeInteger(token) && token > 0 && handle.token === token && !tokens.has(token))
    tokens.add(token)
    handle.dispose()
    t.throws(() => handle.token, { code: 'VMSEAL_KEY_DISPOSED' })
    t.throws(() => native.keyOfToken(token), { code: 'VMSEAL_KEY_DISPOSED' })
  }
})

test('refusals leave the data alone', (t) => {
  for (const [operation, length] of [
    ['xtsEncrypt', 511],
    ['xtsDecrypt', 513],
  ] as const) {
    const data = new Uint8Array(length).fill(0x5a)
    t.throws(() => direct[operation](cipher.token, data, 0), { message: /^VMSEAL_SECTOR_ALIGNMENT/ })
    t.deepEqual(data, new Uint8Array(length).fill(0x5a))
  }
  const wrapped = new Uint8Array(71).fill(0x5a)
  t.throws(() => direct.wrapKey(kek.token, key.token, wrapped), { message: /^VMSEAL_INVALID_ARGUMENT/ })
  t.deepEqual(wrapped, new Uint8Array(71).fill(0x5a))
})

test('two wraps in one buffer are what each is alone', (t) => {
  const packed = new Uint8Array(144)
  direct.wrapKeys(kek.token, Float64Array.of(key.token, key.token), 2, packed)
  const alone = new Uint8Array(72)
  direct.wrapKey(kek.token, key.token, alone)
  t.deepEqual(packed, Uint8Array.of(...alone, ...alone))
})
