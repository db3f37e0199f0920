/** H5 and H7: several servers of one provider; who is asked, and how long anybody waits. */
import test, { type ExecutionContext } from 'ava'
import { createServer, type AddressInfo } from 'node:net'
import { Kms } from '../../src/kms/kms.js'
import { KmipClient } from '../../src/kmip/client.js'
import { native } from '../../src/native/load.js'
import { keyMemoryAllocations } from './key-memory.js'
import { openReplicas } from './replicated-kms.js'
import { startKms } from '../kms/running-kms.js'

const purpose = { name: 'db01', identifier: '00000000-0000-4000-8000-000000000001' }

/** Takes connections and never says anything. */
async function openBlackHole(t: ExecutionContext) {
  const server = createServer((socket) => void socket.on('error', () => {}))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => void server.close())
  return { host: '127.0.0.1', port: (server.address() as AddressInfo).port }
}

async function makeAt(kms: Kms, credentials: Awaited<ReturnType<Kms['enrol']>>): Promise<string> {
  const client = await KmipClient.connect({ ...kms.endpoint, ...credentials })
  const { id } = await client.create()
  await client.activate(id)
  client.close()
  return id
}

test('H5: the first server makes and gives keys; when it stops the next one does; when both stop it is unreachable', async (t) => {
  const { servers, seen, provider, events } = await openReplicas(t)
  const subject = provider(servers.map((kms) => kms.endpoint))
  ;(await subject.fetchKey(await subject.createKey(purpose))).dispose()
  t.deepEqual(seen[1], [])
  await servers[0].stop()
  const second = await subject.createKey(purpose)
  ;(await subject.fetchKey(second)).dispose()
  t.true(seen[1]?.includes('Create'))
  t.deepEqual(events, [])
  await servers[1].stop()
  const error = await t.throwsAsync(subject.fetchKey(second), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  for (const { endpoint } of servers)
    t.true(error?.message.includes(`${endpoint.host}:${endpoint.port}: connect: `))
  await t.throwsAsync(subject.createKey(purpose), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  t.deepEqual(events.map(({ kind }) => kind), ['unreachable', 'unreachable']) // prettier-ignore
})

test('H5: a server that failed rests: the calls after it do not wait for it', async (t) => {
  const { servers, provider } = await openReplicas(t)
  const hole = await openBlackHole(t)
  const timing = { connectTimeoutMs: 2000, firstBackoffMs: 60_000, hedgeDelayMs: 50 }
  const subject = provider([hole, servers[1].endpoint], { timing })
  const begin = performance.now()
  const id = await subject.createKey(purpose)
  const first = performance.now() - begin
  t.true(first >= 1900 && first < 8000)
  for (let times = 0; times < 5; times += 1) (await subject.fetchKey(id)).dispose()
  t.true(performance.now() - begin - first < 1500)
})

// Alone: it counts the keys of the whole process.
test.serial(
  'H5: a read that gets no answer is asked of the next server after a moment; what comes late is wiped',
  async (t) => {
    const { servers, credentials, provider, seen } = await openReplicas(t)
    const id = await makeAt(servers[0], credentials)
    const hole = await openBlackHole(t)
    const timing = { connectTimeoutMs: 20_000, requestTimeoutMs: 20_000, hedgeDelayMs: 100 }
    const subject = provider([hole, servers[0].endpoint], { timing })
    const before = keyMemoryAllocations()
    const begin = performance.now()
    const key = await subject.fetchKey(id)
    const spent = performance.now() - begin
    t.true(spent >= 95 && spent < 2000, `${spent}`)
    key.dispose()
    t.true(keyMemoryAllocations() <= before)
    t.true(seen[0]?.includes('Get'))
  },
)

test('H5: a key that one replica does not have is asked of the others; it is missing when all say so', async (t) => {
  const { servers, credentials, provider, seen } = await openReplicas(t)
  const onSecond = await makeAt(servers[1], credentials)
  const subject = provider(servers.map((kms) => kms.endpoint))
  ;(await subject.fetchKey(onSecond)).dispose()
  t.true(seen[0]?.includes('Get'))
  t.is(await subject.keyState(onSecond), 'Active')
  await t.throwsAsync(subject.fetchKey('nowhere'), { code: 'VMSEAL_KEY_MISSING_IN_KMS' })
  // One that cannot be asked may have it.
  await servers[1].stop()
  await t.throwsAsync(subject.fetchKey('nowhere'), {
    code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE',
    message: /nowhere|not/,
  })
})

test('H5: a key that is not active at one replica is asked of the others', async (t) => {
  const { servers, credentials, provider } = await openReplicas(t)
  const subject = provider(servers.map((kms) => kms.endpoint))
  const client = await KmipClient.connect({ ...servers[0].endpoint, ...credentials })
  const { id } = await client.create()
  await t.throwsAsync(subject.fetchKey(id), { code: 'VMSEAL_KEY_NOT_ACTIVE', message: /PreActive/ })
  await client.activate(id)
  ;(await subject.fetchKey(id)).dispose()
  client.close()
})

test('H3: a server with a certificate that is not trusted gets no message, raises one alarm, and others serve', async (t) => {
  const { servers, provider, events } = await openReplicas(t)
  const stranger = await startKms(t)
  const asked: string[] = []
  stranger.on('operation', ({ operation }) => asked.push(operation))
  const subject = provider([stranger.endpoint, servers[0].endpoint], { timing: { firstBackoffMs: 1 } })
  for (let times = 0; times < 4; times += 1)
    (await subject.fetchKey(await subject.createKey(purpose))).dispose()
  const name = `127.0.0.1:${stranger.endpoint.port}`
  t.deepEqual(events, [{ kind: 'distrust', text: name }])
  t.deepEqual(asked, [])
  const alone = provider([stranger.endpoint])
  const error = await t.throwsAsync(alone.createKey(purpose), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  t.true(error?.message.includes(`${name}: trust: `))
  t.deepEqual(asked, [])
})

test('H3: a server that changes its certificate under the same authority is refused once its key was pinned', async (t) => {
  const { servers, credentials, provider, events } = await openReplicas(t)
  const { host, port } = servers[0].endpoint
  const certificate = await native.fetchServerCertificate(host, port, 2000)
  const { keyHash } = native.describeCertificate(certificate)
  const pin = { providerId: 'kms-1', host, port, certificate, keyHash, trustedAt: '' }
  const subject = provider([servers[0].endpoint], { trusted: [pin] })
  const id = await subject.createKey(purpose)
  ;(await subject.fetchKey(id)).dispose()
  const other = { ...pin, keyHash: '00'.repeat(32), certificate: credentials.caCertificate }
  const wrong = provider([servers[0].endpoint], { trusted: [other] })
  await t.throwsAsync(wrong.fetchKey(id), {
    code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE',
    message: /: trust: .*another certificate/,
  })
  t.deepEqual(events.map(({ kind }) => kind), ['distrust', 'unreachable']) // prettier-ignore
})

test('H7: nobody waits longer than the deadline for a server that does not answer, however many calls there are', async (t) => {
  const { provider } = await openReplicas(t)
  const hole = await openBlackHole(t)
  const timing = { connectTimeoutMs: 400, requestTimeoutMs: 400, operationTimeoutMs: 900, hedgeDelayMs: 50 }
  const subject = provider([hole, hole], { timing })
  const begin = performance.now()
  const calls = Array.from({ length: 40 }, (_, index) =>
    index % 2 === 0 ? subject.fetchKey('k') : subject.createKey(purpose),
  )
  const results = await Promise.allSettled(calls)
  t.true(performance.now() - begin < 900 + 500)
  for (const result of results) {
    t.is(result.status, 'rejected')
    if (result.status === 'rejected') t.like(result.reason, { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  }
})

test('H7: a server at an IPv6 address', async (t) => {
  const { directory, servers, provider } = await openReplicas(t)
  await servers[1].stop()
  const kms = await Kms.start({ directory: `${directory}/b`, host: '::1' }).catch(() => undefined)
  if (!kms) {
    t.log('skipped: this machine has no IPv6')
    t.pass()
    return
  }
  t.teardown(() => kms.stop())
  const subject = provider([kms.endpoint])
  ;(await subject.fetchKey(await subject.createKey(purpose))).dispose()
  const down = provider([{ host: '::1', port: 1 }])
  await t.throwsAsync(down.fetchKey('k'), { message: /\[::1\]:1: connect: / })
})

test('H5: a server that was down is probed in the background and used again', async (t) => {
  const { directory, servers, provider } = await openReplicas(t)
  const { port } = servers[0].endpoint
  const subject = provider(servers.map((kms) => kms.endpoint), { timing: { firstBackoffMs: 20, longestBackoffMs: 40 } }) // prettier-ignore
  const id = await subject.createKey(purpose)
  await servers[0].stop()
  await t.throwsAsync(subject.fetchKey(id))
  const back = await Kms.start({ directory: `${directory}/a`, port })
  t.teardown(() => back.stop())
  const asked: string[] = []
  back.on('operation', ({ operation }) => asked.push(operation))
  for (let times = 0; times < 40 && !asked.includes('Create'); times += 1) {
    await new Promise((resolve) => setTimeout(resolve, 25))
    await subject.createKey(purpose)
  }
  t.true(asked.includes('Create'))
})
