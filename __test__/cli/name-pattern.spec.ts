import test from 'ava'
import fc from 'fast-check'
import { isNamed, searchedPart } from '../../src/cli/vm/name-pattern.js'

test('a text without a star is a part for the search alone', (t) => {
  t.is(searchedPart('b0'), 'b0')
  t.true(isNamed('b0')('db01'))
  t.is(searchedPart(''), undefined)
})

test('with stars the whole name counts, in any case', (t) => {
  for (const [text, name, fits] of [
    ['db*', 'DB01', true],
    ['db*', 'adb', false],
    ['*01', 'db01', true],
    ['d*1*', 'db01', true],
    ['db*b01', 'db01', false],
    ['*', '', true],
    ['a*a', 'a', false],
    ['a*b*c', 'a-c-b', false],
  ] as const)
    t.is(isNamed(text)(name), fits, `${text} ${name}`)
})

test('every name that fits has the part that is searched for', (t) => {
  const texts = fc.string({ unit: fc.constantFrom('a', 'b', '*'), maxLength: 8 })
  fc.assert(
    fc.property(texts, fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 8 }), (text, name) => {
      const expected = new RegExp(`^${text.replaceAll('*', '.*')}$`).test(name)
      if (!text.includes('*')) return
      t.is(isNamed(text)(name), expected)
      if (expected) t.true(name.includes(searchedPart(text) ?? ''))
    }),
    { numRuns: 2000 },
  )
})

test('many stars take no time', (t) => {
  t.false(isNamed(`${'a*'.repeat(5000)}b`)('a'.repeat(9000)))
})
