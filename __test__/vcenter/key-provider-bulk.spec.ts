/** Many keys at once: from the provider, and on to a host. */
import test, { type ExecutionContext } from 'ava'
import { createServer, type AddressInfo } from 'node:net'
import { Host, VmsealError } from '../../src/index.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { EventLog, type VCenterEvent } from '../../src/vcenter/events.js'
import { HostConnection } from '../../src/vcenter/host-connections.js'
import { KeyDistribution } from '../../src/vcenter/key-distribution.js'
import { KeySealing } from '../../src/vcenter/key-sealing.js'
import { makeSafe } from '../host/fixture.js'
import { keyMemoryAllocations } from './key-memory.js'
import { connectAsVCenter } from './kms-view.js'
import { openReplicas } from './replicated-kms.js'
import { openSite } from './site.js'

/** A host that vCenter talks to through `distribution` alone, and keys that no VM uses. */
async function openDistribution(t: ExecutionContext, count: number) {
  const site = await openSite(t, { hosts: [] })
  const client = await connectAsVCenter(site)
  const keys: { keyId: string; providerId: string }[] = []
  for (let made = 0; made < count; made += 1) {
    const { id } = await client.create()
    await client.activate(id)
    keys.push({ keyId: id, providerId: 'kms-1' })
  }
  const events: VCenterEvent[] = []
  const store = openSqliteStore(':memory:')
  const log = new EventLog(store.events, () => new Date(), (event) => void events.push(event)) // prettier-ignore
  const host = await Host.start({ name: 'esx-1', datastores: {} })
  await makeSafe(host)
  t.teardown(async () => {
    client.close()
    await host.stop()
    await store.close()
  })
  return {
    ...site,
    client,
    keys,
    events,
    host,
    connection: new HostConnection(host, await host.identify(), 'cluster'),
    distribution: new KeyDistribution({
      providers: site.vcenter.keyProviders,
      events: log,
      sealing: new KeySealing(site.vcenter.keyProviders, () => new Date()),
      encryption: { ensureSafe: async () => {} },
    }),
  }
}

test.serial('a host gets many keys, each once, by few messages; no handle stays', async (t) => {
  const { distribution, connection, host, keys, operations, events } = await openDistribution(t, 130)
  const before = keyMemoryAllocations()
  const { pushed, failed } = await distribution.pushMany([...keys, ...keys.slice(0, 7)], connection)
  t.deepEqual(failed, [])
  t.deepEqual(pushed.map(({ keyId }) => keyId).toSorted(), keys.map(({ keyId }) => keyId).toSorted()) // prettier-ignore
  t.is((await host.listKeys()).length, keys.length)
  t.is(operations.filter((operation) => operation === 'Get').length, keys.length)
  t.is(events.filter(({ id }) => id === 'vmseal.host.crypto.KeyPushed').length, keys.length)
  // The host's cache holds them, in this very process.
  t.is(keyMemoryAllocations() - before, keys.length)
  await host.stop()
  // With them went the host key and the key that they were sealed to.
  t.is(keyMemoryAllocations(), before - 2)
})

test.serial(
  'E8: of many keys each that cannot be had is named with its reason; the others arrive',
  async (t) => {
    const { distribution, connection, host, keys, client, events } = await openDistribution(t, 12)
    await client.revoke(keys[3]?.keyId ?? '')
    const never = { keyId: 'never-made', providerId: 'kms-1' }
    const foreign = { keyId: 'k', providerId: 'no-such-provider' }
    const { pushed, failed } = await distribution.pushMany([foreign, never, ...keys], connection)
    t.is(pushed.length, 11)
    t.is((await host.listKeys()).length, 11)
    t.deepEqual(
      new Map(failed.map(({ key, error }) => [key.keyId, error.code])),
      new Map([
        ['k', 'VMSEAL_KEY_PROVIDER_UNREACHABLE'],
        ['never-made', 'VMSEAL_KEY_MISSING_IN_KMS'],
        [keys[3]?.keyId ?? '', 'VMSEAL_KEY_NOT_ACTIVE'],
      ]),
    )
    t.is(events.filter(({ id }) => id.startsWith('com.vmware.vc.kms.crypto.SendKeyError')).length, 3)
    await t.throwsAsync(distribution.ensure([never], connection), { code: 'VMSEAL_KEY_MISSING_IN_KMS' })
  },
)

test.serial('a host that does not answer gets no key, and none is fetched for it', async (t) => {
  const { distribution, connection, host, keys, operations } = await openDistribution(t, 3)
  await host.stop()
  const before = keyMemoryAllocations()
  const { pushed, failed } = await distribution.pushMany(keys, connection)
  t.deepEqual(pushed, [])
  t.deepEqual(failed.map(({ error }) => error.code), keys.map(() => 'VMSEAL_HOST_UNREACHABLE')) // prettier-ignore
  t.false(operations.includes('Get'))
  t.is(keyMemoryAllocations(), before)
})

test('H7: when no server answers, thousands of keys take as long as a few, and all are named', async (t) => {
  const { provider, events } = await openReplicas(t)
  const hole = createServer((socket) => void socket.on('error', () => {}))
  await new Promise<void>((resolve) => hole.listen(0, '127.0.0.1', resolve))
  t.teardown(() => void hole.close())
  const address = { host: '127.0.0.1', port: (hole.address() as AddressInfo).port }
  const timing = { connectTimeoutMs: 200, requestTimeoutMs: 200, operationTimeoutMs: 500 }
  const ids = Array.from({ length: 5000 }, (_, index) => `key-${index}`)
  const begin = performance.now()
  const failures = await provider([address], { timing }).fetchKeys(ids, () => t.fail())
  t.true(performance.now() - begin < 4 * 500)
  t.deepEqual([...failures.keys()].toSorted(), ids.toSorted())
  for (const error of failures.values()) t.is(error.code, 'VMSEAL_KEY_PROVIDER_UNREACHABLE')
  t.true(events.length <= 8)
})

test('H5: keys that one replica lacks come from the other, also in bulk', async (t) => {
  const { servers, provider } = await openReplicas(t)
  const makers = servers.map((kms) => provider([kms.endpoint]))
  const ids: string[] = []
  for (let made = 0; made < 6; made += 1)
    ids.push((await makers[made % 2]?.createKey({ name: 'x', identifier: '' })) ?? '')
  const got: string[] = []
  const both = provider(servers.map(({ endpoint }) => endpoint))
  t.is((await both.fetchKeys(ids, (id) => void got.push(id))).size, 0)
  t.deepEqual(got.toSorted(), ids.toSorted())
  const one = await provider([servers[0].endpoint]).fetchKeys(ids, () => {})
  t.deepEqual([...one.values()].map(({ code }) => code), ids.filter((_, index) => index % 2 === 1).map(() => 'VMSEAL_KEY_MISSING_IN_KMS')) // prettier-ignore
  t.true([...one.values()].every((error) => error instanceof VmsealError))
})
