/** The doctor's test key: gone whatever happens on the way, or named. */
import test from 'ava'
import { KmipClient } from '../../src/kmip/client.js'
import { diagnoseUnregistered } from '../../src/vcenter/key-provider/doctor.js'
import { startKms, startWithClient } from '../kms/running-kms.js'
import { startFaultProxy } from './fault-proxy.js'

const timing = {
  connectTimeoutMs: 1000, requestTimeoutMs: 600, operationTimeoutMs: 3000, hedgeDelayMs: 100, firstBackoffMs: 10,
  longestBackoffMs: 50, lateCreateMs: 1000,
} // prettier-ignore

/** A KMS whose connections are cut when it works on an operation, `times` times. */
async function openCutAt(t: Parameters<typeof startKms>[0], operation: string, times: number) {
  const { kms, credentials, client } = await startWithClient(t)
  const proxy = await startFaultProxy({ kms, stranger: kms, random: () => 0.5 })
  t.teardown(() => proxy.close())
  let left = times
  kms.on('operation', (seen) => {
    if (seen.operation === operation && left-- > 0) proxy.cut()
  })
  const serverName = kms.endpoint.host
  return { kms, credentials, client, server: { host: proxy.host, port: proxy.port, serverName } }
}

for (const [operation, hop] of [
  ['Create', 'create'],
  ['Get', 'get'],
  ['Destroy', 'destroy'],
] as const)
  test(`M4: a connection that breaks at ${operation} is told as the hop ${hop}, and the test key is gone`, async (t) => {
    const { credentials, server, client } = await openCutAt(t, operation, 1)
    const { hops, ok, leftBehind } = await diagnoseUnregistered(server, credentials, timing)
    t.false(ok)
    t.like(hops.at(-1), { hop, ok: false })
    t.true(hops.slice(0, -1).every((report) => report.ok))
    t.regex(hops.at(-1)?.action ?? '', /KMS/)
    t.deepEqual(await client.locate(), [])
    t.is(leftBehind, undefined)
  })

test('M4: a test key that cannot be taken away is named', async (t) => {
  const { credentials, server, client, kms } = await openCutAt(t, 'none', 0)
  kms.on('operation', ({ operation }) => {
    if (operation === 'Get') kms.disable('vcenter')
  })
  const { hops, leftBehind } = await diagnoseUnregistered(server, credentials, timing)
  t.false(hops.at(-1)?.ok)
  kms.enable('vcenter')
  client.close()
  const again = await KmipClient.connect({ ...kms.endpoint, ...credentials })
  t.is((await again.locate({ name: leftBehind ?? '' })).length, 1)
  again.close()
})

test('M4: a doctor that is told nonsense says so before it looks anything up', async (t) => {
  const credentials = { caCertificate: '', certificate: '', privateKeyFile: '' }
  for (const server of [
    { host: '', port: 5696 },
    { host: 'kms', port: 0 },
    { host: 'kms', port: 1.5 },
  ])
    t.throws(() => diagnoseUnregistered(server, credentials, timing), { code: 'VMSEAL_INVALID_ARGUMENT' })
  const incomplete = { caCertificate: '', certificate: '' } as typeof credentials
  t.throws(() => diagnoseUnregistered({ host: 'kms', port: 5696 }, incomplete), {
    code: 'VMSEAL_INVALID_ARGUMENT',
    message: /privateKeyFile/,
  })
})
