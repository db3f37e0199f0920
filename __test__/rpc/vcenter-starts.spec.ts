/** A vCenter that was started again: what its earlier start had sent, and had not arrived, acts no more. */
import { randomUUID } from 'node:crypto'
import test from 'ava'
import { VCenterStarts } from '../../src/rpc/vcenter-starts.js'
import { gate, partialHost, serveHost } from './network.js'

const key = { keyId: 'k', providerId: 'p' }

test('a host takes nothing new from a start that a later one has followed', async (t) => {
  const removed: string[] = []
  const served = await serveHost(
    t,
    partialHost({ listKeys: async () => [], removeKey: async ({ keyId }) => void removed.push(keyId) }),
  )
  const [earlier, later] = [served.connect({ start: randomUUID() }), served.connect({ start: randomUUID() })]
  await earlier.api.removeKey(key)
  await later.api.listKeys()
  await t.throwsAsync(earlier.api.removeKey(key), { code: 'VMSEAL_INVALID_STATE', message: /earlier start/ })
  await t.throwsAsync(earlier.api.listKeys(), { code: 'VMSEAL_INVALID_STATE' })
  t.deepEqual(removed, ['k'], 'only the first')
  // Nor does it come back in by a new link.
  const again = served.connect({ start: randomUUID() })
  await again.api.removeKey(key)
  await t.throwsAsync(later.api.removeKey(key), { code: 'VMSEAL_INVALID_STATE' })
  t.deepEqual(removed, ['k', 'k'])
})

test('what an earlier start began goes on, and the later one sees it', async (t) => {
  const [begun, rest] = [gate(), gate()]
  const removeKey = async (): Promise<void> => {
    begun.open()
    await rest.opened
  }
  const served = await serveHost(t, partialHost({ listKeys: async () => [], removeKey }))
  const removing = served.connect({ start: randomUUID() }).api.removeKey(key)
  await begun.opened
  const later = served.connect({ start: randomUUID() })
  t.is((await later.strangers()).length, 1)
  rest.open()
  await t.notThrowsAsync(removing, 'its answer still finds its way')
})

test('links of one start, and a vCenter of an earlier release, are in nobody’s way', (t) => {
  const starts = new VCenterStarts()
  const [one, two] = [randomUUID(), randomUUID()]
  for (const start of [one, one, undefined, one, two, undefined]) starts.greet(start)
  starts.require(two)
  starts.require(undefined)
  t.throws(() => starts.greet(one), { code: 'VMSEAL_INVALID_STATE' })
  t.throws(() => starts.require(one), { code: 'VMSEAL_INVALID_STATE' })
  t.notThrows(() => starts.require(two), 'a refused greeting changes nothing')
})

test('however often it is started, what is remembered is bounded and the latest counts', (t) => {
  const starts = new VCenterStarts()
  const all = Array.from({ length: 2500 }, () => randomUUID())
  for (const start of all) starts.greet(start)
  t.throws(() => starts.require(all.at(-2)), { code: 'VMSEAL_INVALID_STATE' })
  t.notThrows(() => starts.require(all.at(-1)))
})
