/** Rows G3 and H6 of the feature table, and the doctor: how servers are, and where it breaks. */
import test from 'ava'
import { createServer, type AddressInfo } from 'node:net'
import path from 'node:path'
import { KmipClient } from '../../src/kmip/client.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { EventLog, type VCenterEvent } from '../../src/vcenter/events.js'
import { HostConnections } from '../../src/vcenter/host-connections.js'
import { KeyProviders } from '../../src/vcenter/key-providers.js'
import { VmInventory } from '../../src/vcenter/vm-inventory.js'
import { startKms, startWithClient, temporaryDirectory } from '../kms/running-kms.js'
import { openSite } from './site.js'

/** Key providers whose clock is ahead. */
function openAt(
  t: Parameters<typeof startKms>[0],
  days: number,
  file = path.join(temporaryDirectory(t), 'db'),
) {
  const time = { days }
  const clock = (): Date => new Date(Date.now() + time.days * 24 * 60 * 60 * 1000)
  const store = openSqliteStore(file)
  const events: VCenterEvent[] = []
  const log = new EventLog(store.events, clock, (event) => void events.push(event))
  const connections = new HostConnections()
  const keyProviders = new KeyProviders({
    store,
    clock,
    connections,
    directory: `${file}-credentials`,
    events: log,
    inventory: new VmInventory({ store, connections, events: log, clock }),
    timing: { connectTimeoutMs: 2000, requestTimeoutMs: 2000 },
  })
  const close = async (): Promise<void> => {
    await keyProviders.close()
    await store.close()
  }
  return { keyProviders, events, time, close, file }
}

test('G3: status of servers and provider for every kind of fault', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const stranger = await startKms(t)
  const foreign = await stranger.enrol('vcenter')
  const hole = createServer((socket) => void socket.on('error', () => {}))
  await new Promise<void>((resolve) => hole.listen(0, '127.0.0.1', resolve))
  t.teardown(() => void hole.close())
  const silent = { host: '127.0.0.1', port: (hole.address() as AddressInfo).port }
  const down = { host: '127.0.0.1', port: 1 }
  const { keyProviders, close } = openAt(t, 0)
  t.teardown(close)
  const unknownToServer = {
    ...credentials,
    certificate: foreign.certificate,
    privateKeyFile: foreign.privateKeyFile,
  }
  const cases = [
    ['good', [kms.endpoint], credentials, 'green', [['green', true, true, true]]],
    ['down', [down], credentials, 'red', [['red', false, undefined, undefined]]],
    ['silent', [silent], credentials, 'red', [['red', true, false, undefined]]],
    ['not trusted', [stranger.endpoint], credentials, 'red', [['red', true, false, undefined]]],
    ['not known there', [kms.endpoint], unknownToServer, 'red', [['red', true, true, false]]],
    [
      'one of two',
      [down, kms.endpoint],
      credentials,
      'yellow',
      [
        ['red', false, undefined, undefined],
        ['green', true, true, true],
      ],
    ],
  ] as const
  for (const [id, servers, given, overall, expected] of cases) {
    await keyProviders.add({ id, servers, credentials: given })
    const status = await keyProviders.status(id)
    t.is(status.status, overall, id)
    const seen = status.servers.map((server) => [
      server.status,
      server.reachable,
      server.clientTrustServer,
      server.serverTrustClient,
    ])
    t.deepEqual(seen, expected as unknown as typeof seen, id)
    for (const server of status.servers) t.is(server.reason === undefined, server.status === 'green', id)
  }
  const [good] = (await keyProviders.status('good')).servers
  t.regex(good?.certificate?.issuer ?? '', /vmseal KMS authority/)
  kms.disable('vcenter')
  t.like((await keyProviders.status('good')).servers[0], { reachable: true, clientTrustServer: true, serverTrustClient: false }) // prettier-ignore
})

test('H6: a warning 60, 30 and 7 days before a certificate expires, once each, also over restarts', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const { keyProviders, events, time, close, file } = openAt(t, 0)
  await keyProviders.add({ id: 'p', servers: kms.endpoint, credentials })
  const { clientCertificate } = await keyProviders.status('p')
  const left = clientCertificate?.daysToExpiry ?? 0
  t.true(left > 300)
  const warnings = () => events.map(({ id }) => id.replace('com.vmware.vc.vecs.', ''))
  const both = ['KMSClientCertExpirationEvent', 'KMSServerCertExpirationEvent']
  const at = async (daysLeft: number) => {
    time.days = left - daysLeft
    events.length = 0
    const { status } = await keyProviders.status('p')
    return [status, warnings()]
  }
  t.deepEqual(await at(61), ['green', []])
  t.deepEqual(await at(59), ['yellow', both])
  t.deepEqual(await at(40), ['yellow', []])
  t.deepEqual(await at(29), ['yellow', both])
  t.deepEqual(await at(6), ['yellow', both])
  const [warning] = events
  t.like(warning?.details, { providerId: 'p', daysToExpiry: 6 })
  t.deepEqual(await at(5), ['yellow', []])
  await close()
  const again = openAt(t, left - 4, file)
  t.teardown(again.close)
  await again.keyProviders.status('p')
  t.deepEqual(again.events, [])
})

test('the doctor walks every hop of a sound server and leaves no key behind', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const [diagnosis] = await site.vcenter.keyProviders.doctor('kms-1')
  t.like(diagnosis, { ok: true, server: `127.0.0.1:${site.kms.endpoint.port}` })
  const hops = ['dns', 'tcp', 'tls', 'client trust', 'versions', 'create', 'get', 'compare', 'destroy']
  t.deepEqual(diagnosis?.hops.map(({ hop, ok }) => [hop, ok]), hops.map((hop) => [hop, true])) // prettier-ignore
  t.true(diagnosis?.hops.every(({ milliseconds, action }) => milliseconds >= 0 && action === undefined))
  const client = await KmipClient.connect({ ...site.kms.endpoint, ...site.credentials })
  t.deepEqual(await client.locate(), [])
  client.close()
})

test('the doctor says at which hop it breaks and what to do', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const stranger = await startKms(t)
  const foreign = await stranger.enrol('vcenter')
  const { keyProviders, close } = openAt(t, 0)
  t.teardown(close)
  const unknownToServer = {
    ...credentials,
    certificate: foreign.certificate,
    privateKeyFile: foreign.privateKeyFile,
  }
  const { port } = kms.endpoint
  const cases = [
    ['dns', { host: 'no-such-host.invalid', port }, credentials, /host name/],
    ['tcp', { host: '127.0.0.1', port: 1 }, credentials, /firewalls/],
    ['tls', stranger.endpoint, credentials, /trust it/],
    ['tls', { ...kms.endpoint, serverName: 'other.example' }, credentials, /serverName/],
    ['client trust', kms.endpoint, unknownToServer, /known at the KMS/],
  ] as const
  for (const [index, [hop, server, given, action]] of cases.entries()) {
    await keyProviders.add({ id: `p${index}`, servers: server, credentials: given })
    const [diagnosis] = await keyProviders.doctor(`p${index}`)
    const last = diagnosis?.hops.at(-1)
    t.false(diagnosis?.ok)
    t.is(last?.hop, hop)
    t.regex(last?.action ?? '', action, hop)
    t.true((last?.detail.length ?? 0) > 5)
    t.true(diagnosis?.hops.slice(0, -1).every(({ ok }) => ok))
  }
  const [stranded] = await keyProviders.doctor({ server: { host: '127.0.0.1', port: 1 }, credentials })
  t.like(stranded?.hops.at(-1), { hop: 'tcp', ok: false })
  t.true((await keyProviders.doctor({ server: kms.endpoint, credentials }))[0]?.ok)
  await keyProviders.add({ id: 'new', servers: kms.endpoint })
  const [fresh] = await keyProviders.doctor('new')
  t.like(fresh?.hops.at(-1), { hop: 'tls', ok: false })
  await t.throwsAsync(keyProviders.doctor('new', { host: 'other', port: 1 }), { code: 'VMSEAL_NOT_FOUND' })
})
