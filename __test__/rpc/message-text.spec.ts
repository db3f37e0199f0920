import test from 'ava'
import fc from 'fast-check'
import { hostMethods } from '../../src/rpc/host-methods.js'
import { parseMessage } from '../../src/rpc/message-text.js'

test('whatever JSON holds, it reads back the same', (t) => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 8 }), (value) => {
      t.deepEqual(parseMessage(JSON.stringify(value)), JSON.parse(JSON.stringify(value)))
    }),
  )
  t.pass()
})

test('text that is no JSON is refused with a code, never with another error', (t) => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      try {
        parseMessage(text)
      } catch (error) {
        t.is((error as { code?: string }).code, 'VMSEAL_RPC_MALFORMED')
      }
    }),
  )
  for (const text of ['', '{', '[1,]', '"', '{"a":1}}', 'undefined'])
    t.throws(() => parseMessage(text), { code: 'VMSEAL_RPC_MALFORMED' }, text)
})

test('nesting is bounded, and brackets in strings are no nesting', (t) => {
  t.notThrows(() => parseMessage('['.repeat(32) + ']'.repeat(32)))
  for (const [open, close] of [
    ['[', ']'],
    ['{"a":', '}'],
  ] as const)
    t.throws(() => parseMessage(`${open.repeat(1_000_000)}1${close.repeat(1_000_000)}`), {
      code: 'VMSEAL_RPC_MALFORMED',
    })
  const text = JSON.stringify(`${'['.repeat(100)}\\"${'{'.repeat(100)}`)
  t.notThrows(() => parseMessage(text))
})

test('no random JSON passes for an answer that is an object', (t) => {
  const objects = Object.entries(hostMethods).filter(([name]) => /identify|VirtualMachine$|digest/.test(name))
  fc.assert(
    fc.property(fc.jsonValue(), fc.constantFrom(...objects), (value, [name, { result }]) => {
      if (['destroyVirtualMachine', 'findVirtualMachines'].includes(name)) return
      t.false(result(value), name)
    }),
  )
  t.pass()
})
