/** A vCenter that was started again: what it had sent before, and had not arrived, acts no more. */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { Askers } from '../../src/rpc/askers.js'
import { startLinkProxy } from './link-proxy.js'
import { gate, partialHost, serveHost } from './network.js'

const key = { keyId: 'k', providerId: 'p' }

for (const isFollowed of [false, true])
  test(`a request that is late ${isFollowed ? 'does nothing once' : 'acts unless'} a later vCenter asked the host`, async (t) => {
    const removed: string[] = []
    const served = await serveHost(
      t,
      partialHost({ listKeys: async () => [], removeKey: async ({ keyId }) => void removed.push(keyId) }),
    )
    const proxy = await startLinkProxy(t, served.address)
    const earlier = served.connect({ address: proxy.address })
    await earlier.api.listKeys()
    proxy.late = true
    const removing = t.throwsAsync(earlier.api.removeKey(key), { code: 'VMSEAL_HOST_UNREACHABLE' })
    while (proxy.underWay === 0) await sleep(2)
    earlier.close()
    await removing
    const later = served.connect()
    if (isFollowed) await later.api.listKeys()
    proxy.deliver()
    for (let turn = 0; turn < 50 && removed.length === 0; turn += 1) await sleep(10)
    t.deepEqual(removed, isFollowed ? [] : ['k'])
    await later.api.removeKey(key)
    t.deepEqual(removed, isFollowed ? ['k'] : ['k', 'k'])
  })

test('what an earlier asker began goes on, and the later one sees it', async (t) => {
  const [begun, rest] = [gate(), gate()]
  const removeKey = async (): Promise<void> => {
    begun.open()
    await rest.opened
  }
  const served = await serveHost(t, partialHost({ listKeys: async () => [], removeKey }))
  const removing = served.connect().api.removeKey(key)
  await begun.opened
  const later = served.connect()
  t.is((await later.strangers()).length, 1)
  rest.open()
  await t.notThrowsAsync(removing, 'its answer still finds its way')
})

test('who lives asks again by itself: two that take turns are both served, and each change acts once', async (t) => {
  const removed: string[] = []
  const removeKey = async ({ keyId }: typeof key): Promise<void> => void removed.push(keyId)
  const served = await serveHost(t, partialHost({ removeKey }))
  const links = [served.connect(), served.connect()]
  for (const turn of [0, 1, 2, 3]) await links[turn % 2]?.api.removeKey({ ...key, keyId: `k${turn}` })
  t.deepEqual(removed, ['k0', 'k1', 'k2', 'k3'])
})

test('a greeting of one that was followed changes nothing, and an earlier release is in nobody’s way', (t) => {
  const askers = new Askers()
  const [one, two] = [randomUUID(), randomUUID()]
  for (const asker of [one, one, undefined, two, undefined]) t.true(askers.greet(asker))
  t.false(askers.greet(one))
  t.deepEqual([one, two, undefined].map((asker) => askers.isFollowed(asker)), [true, false, false]) // prettier-ignore
})

test('however many ask, what is remembered is bounded and the latest counts', (t) => {
  const askers = new Askers()
  const all = Array.from({ length: 2500 }, () => randomUUID())
  for (const asker of all) askers.greet(asker)
  t.is(all.filter((asker) => askers.isFollowed(asker)).length, 1000)
  t.false(askers.isFollowed(all.at(-1)))
})
