import test from 'ava'
import fc from 'fast-check'
import { isVmsealError } from '../../src/errors.js'
import { VmxDocument, isVmxKey, vmxByteLimit } from '../../src/host/vmx.js'

const key = fc.stringMatching(/^[A-Za-z0-9._:-]{1,40}$/)
const wellFormed = fc
  .string({ unit: 'binary', maxLength: 200 })
  .filter((text) => Buffer.from(text).toString() === text)
const settings = fc.uniqueArray(fc.tuple(key, wellFormed), {
  selector: ([name]) => name.toLowerCase(),
  maxLength: 30,
})

function refused(t: { true(value: boolean, message?: string): void }, text: string | Uint8Array) {
  try {
    VmxDocument.parse(text, 'the file')
    t.true(false, `accepted: ${JSON.stringify(text).slice(0, 80)}`)
  } catch (error) {
    t.true(isVmsealError(error, 'VMSEAL_VMX_INVALID'), String(error))
  }
}

test('what was set is read back, in order, whatever the values hold', (t) => {
  fc.assert(
    fc.property(settings, (pairs) => {
      const document = VmxDocument.empty()
      for (const [name, value] of pairs) document.set(name, value)
      const again = VmxDocument.parse(Buffer.from(document.toString()), 'x')
      t.deepEqual(
        again.keys().map((name) => [name, again.get(name)]),
        pairs,
      )
      t.is(again.toString(), document.toString())
    }),
  )
})

test('reading hostile bytes ends in a document or in VMSEAL_VMX_INVALID', (t) => {
  const lines = fc.array(
    fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.tuple(key, fc.string()).map(([name, value]) => `${name} = "${value}"`),
      fc.constantFrom('a = "|2"', 'a = "|zz"', 'a = "|ff"', '#', 'a = "x" junk', '\ufeff', '"'),
    ),
  )
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    lines.map((parts) => Buffer.from(parts.join('\n'))),
  )
  let accepted = 0
  fc.assert(
    fc.property(bytes, (content) => {
      try {
        const document = VmxDocument.parse(content, 'x')
        accepted += 1
        t.is(VmxDocument.parse(document.toString(), 'x').toString(), document.toString())
      } catch (error) {
        if (!isVmsealError(error, 'VMSEAL_VMX_INVALID')) throw error
      }
    }),
    { numRuns: 2000 },
  )
  t.true(accepted > 0)
})

test('comments, blank lines and unknown lines keep their place; CRLF is read', (t) => {
  const text =
    '#!/usr/bin/vmware\r\n.encoding = "UTF-8"\r\n\r\nsound.present="FALSE"\r\n# note\r\nmemsize = "64"\r\n'
  const document = VmxDocument.parse(text, 'x')
  document.set('MEMSIZE', '128')
  document.set('new', '1')
  document.delete('.ENCODING')
  t.is(
    document.toString(),
    '#!/usr/bin/vmware\n\nsound.present="FALSE"\n# note\nMEMSIZE = "128"\nnew = "1"\n',
  )
  t.is(document.get('memSize'), '128')
})

test('VMware’s escapes are written and read', (t) => {
  const document = VmxDocument.empty()
  document.set('annotation', 'say "yes" | no\nnext\x7f')
  t.is(document.toString(), 'annotation = "say |22yes|22 |7C no|0Anext|7F"\n')
  t.is(VmxDocument.parse('a = "|c3|A9|22"', 'x').get('a'), 'é"')
  t.is(VmxDocument.parse('a = "|ef|bb|bfx"', 'x').get('a'), '\ufeffx')
})

test('broken text is refused', (t) => {
  for (const text of [
    'no equals sign',
    'a = bare',
    'a = "open',
    'a = "x" "y"',
    'a = "x" # comment',
    '= "x"',
    'a b = "x"',
    'ä = "x"',
    `${'k'.repeat(257)} = "x"`,
    'a = "1"\na = "2"',
    'memsize = "1"\nMemSize = "2"',
    'a = "|"',
    'a = "|2"',
    'a = "|2g"',
    'a = "|ff"',
    'a = "|c3"',
    'a = "x\u0000"',
    'a = "x\u0007"',
    'a = "x\r"\r',
    '\u000b',
  ])
    refused(t, text)
  refused(t, Buffer.from([0xff, 0xfe, 0x61]))
  refused(t, Buffer.from('a = "\xed\xa0\x80"', 'latin1'))
})

test('limits hold before memory is used', (t) => {
  refused(t, `a = "${'x'.repeat(vmxByteLimit)}"`)
  refused(t, '\n'.repeat(30_000))
  t.notThrows(() => VmxDocument.parse('\n'.repeat(19_000), 'x'))
})

test('what cannot be written is refused', (t) => {
  const document = VmxDocument.empty()
  for (const name of ['', 'a b', 'a="', 'ä', 'a\n', 'k'.repeat(257)]) {
    t.false(isVmxKey(name))
    t.throws(() => document.set(name, 'x'), { code: 'VMSEAL_INVALID_ARGUMENT' })
  }
  t.throws(() => document.set('a', 'lone \ud800 surrogate'), { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.is(document.toString(), '')
})

test('split and append give back every line once', (t) => {
  const document = VmxDocument.parse('# top\na = "1"\nb = "|22"\n\nc = "3"\n', 'x')
  const [identity, secret] = document.split((name) => name === 'b')
  t.is(identity.toString(), 'b = "|22"\n')
  t.is(secret.toString(), '# top\na = "1"\n\nc = "3"\n')
  t.is(identity.get('a'), undefined)
  identity.append(secret, 'x')
  t.is(identity.get('c'), '3')
  t.throws(() => identity.append(secret, 'x'), { code: 'VMSEAL_VMX_INVALID' })
  t.is(document.copy().toString(), document.toString())
})
