import test from 'ava'
import { dumpTtlv } from '../../src/kmip/ttlv/dump.js'
import { byteString, enumeration, keyString, structure, textString } from '../../src/kmip/ttlv/node.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { native } from '../../src/native/load.js'

test('a dump names tags and values', (t) => {
  const node = structure(tags.RequestPayload, [
    textString(tags.UniqueIdentifier, 'key "1"'),
    enumeration(tags.State, 2),
    { tag: 0x540001, type: 'LongInteger', value: -5n },
    { tag: tags.InitialDate, type: 'DateTime', value: 0n },
    { tag: tags.DestroyDate, type: 'DateTime', value: 2n ** 62n },
  ])
  t.is(
    dumpTtlv(node),
    [
      'RequestPayload (Structure)',
      '  UniqueIdentifier (TextString): "key \\"1\\""',
      '  State (Enumeration): 0x00000002',
      '  0x540001 (LongInteger): -5',
      '  InitialDate (DateTime): 1970-01-01T00:00:00.000Z',
      `  DestroyDate (DateTime): ${2n ** 62n}`,
    ].join('\n'),
  )
})

test('a dump never shows the content of byte strings, keys and credentials', (t) => {
  const key = native.KeyHandle.generate(32)
  const secret = Buffer.from('0123456789abcdef0123456789abcdef')
  const node = structure(tags.RequestMessage, [
    keyString(tags.KeyMaterial, key),
    byteString(tags.KeyMaterial, secret),
    byteString(tags.IVCounterNonce, secret),
    structure(tags.Credential, [
      structure(tags.CredentialValue, [
        textString(tags.Username, 'hunter'),
        textString(tags.Password, 'hunter2'),
      ]),
    ]),
    textString(tags.Password, 'hunter2'),
  ])
  const text = dumpTtlv(node)
  t.false(text.includes('0123') || text.includes(secret.toString('hex')) || text.includes('hunter'))
  t.true(text.includes('(key, 32 bytes)'))
  key.dispose()
  t.true(dumpTtlv(node).includes('(key, disposed)'))
})

test('long texts are cut', (t) => {
  t.true(dumpTtlv(textString(tags.Comment, 'x'.repeat(100_000))).length < 300)
})
