/** A key provider over a real KMS whose connections are cut, whose servers go away, and whose keys are not usable. */
import test, { type ExecutionContext } from 'ava'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { VmsealError } from '../../src/errors.js'
import { KmipClient } from '../../src/kmip/client.js'
import { Kms } from '../../src/kms/kms.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { KeyProvider, UnusedKeyError } from '../../src/vcenter/key-provider.js'
import { keyMemoryAllocations } from './key-memory.js'

const purpose = { name: 'db01', identifier: '00000000-0000-4000-8000-000000000001' }

/** A KMS behind a relay whose connections can be cut. */
async function openKms(t: ExecutionContext) {
  const directory = await mkdtemp(path.join(tmpdir(), 'vmseal-provider-'))
  const running = { kms: await Kms.start({ directory }) }
  const { port } = running.kms.endpoint
  const sockets = new Set<Socket>()
  const relay = createServer((near) => {
    const far = connect(port, '127.0.0.1')
    for (const [one, other] of [[near, far], [far, near]] as const) {
      sockets.add(one)
      one.on('error', () => other.destroy())
      one.on('close', () => other.destroy())
      one.pipe(other)
    }
  }) // prettier-ignore
  await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve))
  const cut = (): void => {
    for (const socket of sockets) socket.destroy()
    sockets.clear()
  }
  const operations: string[] = []
  const watch = (kms: Kms): void => void kms.on('operation', ({ operation }) => operations.push(operation))
  watch(running.kms)
  const credentials = await running.kms.enrol('vcenter')
  t.teardown(async () => {
    cut()
    relay.close()
    await running.kms.stop()
    await rm(directory, { recursive: true, force: true })
  })
  const store = openSqliteStore(path.join(directory, 'vcenter.db'))
  t.teardown(() => store.close())
  const unreachable: string[] = []
  const relayed = { host: '127.0.0.1', port: (relay.address() as AddressInfo).port }
  const provider = (servers = [relayed]): KeyProvider => {
    const { caCertificate, certificate, privateKeyFile } = credentials
    const record = { id: 'kms-1', servers, caCertificate, certificate, privateKeyFile: 'unused', addedAt: '' }
    const made = new KeyProvider({
      record,
      privateKeyFile,
      creations: store.keyCreations,
      onUnreachable: async (message) => void unreachable.push(message),
    })
    t.teardown(() => made.close())
    return made
  }
  const restart = async (): Promise<void> => {
    await running.kms.stop()
    running.kms = await Kms.start({ directory, port })
    watch(running.kms)
  }
  const direct = () => KmipClient.connect({ ...running.kms.endpoint, ...credentials })
  return { running, store, relayed, cut, operations, credentials, provider, unreachable, restart, direct }
}

test('a key is made, activated, described, and fetched as a handle on one kept connection', async (t) => {
  const { provider, direct, operations } = await openKms(t)
  const subject = provider()
  const id = await subject.createKey(purpose)
  using key = disposable(await subject.fetchKey(id))
  t.is(key.handle.length, 32)
  t.is(operations.filter((operation) => operation === 'Create').length, 1)
  const client = await direct()
  const attributes = await client.getAttributes(id)
  client.close()
  const value = (name: string) => attributes.find((attribute) => attribute.name === name)?.value
  t.is(value('State'), 'Active')
  t.is(value('Cryptographic Length'), 256)
  t.is(value('Cryptographic Usage Mask'), 0x0c)
  t.is(value('x-Identifier'), purpose.identifier)
})

test('a connection that died unnoticed is replaced, also before Create, which is sent once', async (t) => {
  const { provider, cut, operations, unreachable, restart } = await openKms(t)
  const subject = provider()
  const id = await subject.createKey(purpose)
  cut()
  ;(await subject.fetchKey(id)).dispose()
  cut()
  const second = await subject.createKey(purpose)
  t.not(second, id)
  await restart()
  ;(await subject.fetchKey(second)).dispose()
  await restart()
  await subject.createKey(purpose)
  t.is(operations.filter((operation) => operation === 'Create').length, 3)
  t.deepEqual(unreachable, [])
})

test('Create whose answer is lost is not sent again: its key is found by its name', async (t) => {
  const { provider, cut, operations, running, direct, store } = await openKms(t)
  const subject = provider()
  await subject.createKey(purpose)
  running.kms.on('operation', ({ operation }) => {
    if (operation === 'Create') cut()
  })
  const id = await subject.createKey(purpose)
  t.is(operations.filter((operation) => operation === 'Create').length, 2)
  t.true(operations.includes('Locate'))
  const client = await direct()
  t.is((await client.locate()).length, 2)
  const [name] = await client.getAttributes(id, ['Name'])
  client.close()
  t.regex(JSON.stringify(name?.value), /"vmseal-[0-9a-f-]{36}"/)
  t.deepEqual(await store.keyCreations.list('kms-1'), [])
})

test('a key whose Create was unclear to the end is the next one that is handed out, also after a restart', async (t) => {
  const { provider, cut, running, direct, store } = await openKms(t)
  let down = true
  running.kms.on('operation', () => {
    if (down) cut()
  })
  const subject = provider()
  await subject.createKey(purpose).catch(() => undefined)
  await t.throwsAsync(provider().createKey(purpose), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  down = false
  const client = await direct()
  const made = await client.locate()
  const again = provider()
  const first = await again.createKey(purpose)
  const second = await again.createKey(purpose)
  t.is(made.length === 0 || made.includes(first), true)
  t.not(first, second)
  const all = await client.locate()
  client.close()
  // Every key at the KMS was handed out.
  t.deepEqual(all.toSorted(), [first, second].toSorted())
  t.true((await store.keyCreations.list('kms-1')).every(({ keyId }) => keyId === null))
})

test('Activate whose answer is lost is found out to have happened', async (t) => {
  const { provider, cut, running, operations } = await openKms(t)
  let cuts = 0
  running.kms.on('operation', ({ operation }) => {
    if (operation === 'Activate' && cuts++ === 0) cut()
  })
  const subject = provider()
  const id = await subject.createKey(purpose)
  ;(await subject.fetchKey(id)).dispose()
  t.is(operations.filter((operation) => operation === 'Create').length, 1)
  t.is(cuts, 2)
})

test('a key that was made and can then not be activated is named in the error', async (t) => {
  const { provider, running, credentials } = await openKms(t)
  running.kms.on('operation', ({ operation }) => {
    if (operation === 'Create') setImmediate(() => running.kms.disable('vcenter'))
  })
  const error = await t.throwsAsync(provider().createKey(purpose))
  t.true(error instanceof UnusedKeyError && error.keyId.length > 0)
  running.kms.enable('vcenter')
  t.truthy(credentials)
  // It is no orphan: the next call gets it.
  running.kms.removeAllListeners('operation')
  t.is(await provider().createKey(purpose), error instanceof UnusedKeyError ? error.keyId : '')
})

test('servers are tried in order; without any the error names each and why', async (t) => {
  const { provider, running, unreachable } = await openKms(t)
  const dead = { host: '127.0.0.1', port: 1 }
  const subject = provider([dead, running.kms.endpoint])
  const id = await subject.createKey(purpose)
  t.deepEqual(unreachable, [])
  const none = provider([dead, { host: '127.0.0.1', port: 2 }])
  await t.throwsAsync(none.fetchKey(id), {
    code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE',
    message: /127\.0\.0\.1:1: .*127\.0\.0\.1:2: /s,
  })
  t.is(unreachable.length, 1)
})

test.serial(
  'a key that is unknown, destroyed, inactive or somebody else’s is refused, and its handle does not stay',
  async (t) => {
    const { provider, direct, running } = await openKms(t)
    const subject = provider()
    const client = await direct()
    const before = keyMemoryAllocations()
    await t.throwsAsync(subject.fetchKey('no-such-key'), { code: 'VMSEAL_KEY_MISSING_IN_KMS' })
    const { id: preActive } = await client.create()
    await t.throwsAsync(subject.fetchKey(preActive), { code: 'VMSEAL_KEY_NOT_ACTIVE', message: /PreActive/ })
    const id = await subject.createKey(purpose)
    await client.revoke(id, 'KeyCompromise')
    await t.throwsAsync(subject.fetchKey(id), { code: 'VMSEAL_KEY_NOT_ACTIVE', message: /Compromised/ })
    await client.destroy(id)
    await t.throwsAsync(subject.fetchKey(id), { code: 'VMSEAL_KEY_MISSING_IN_KMS' })
    client.close()
    const stranger = await KmipClient.connect({
      ...running.kms.endpoint,
      ...(await running.kms.enrol('stranger')),
    })
    const { id: foreign } = await stranger.create()
    await stranger.activate(foreign)
    stranger.close()
    await t.throwsAsync(subject.fetchKey(foreign), { code: 'VMSEAL_KEY_MISSING_IN_KMS' })
    t.is(keyMemoryAllocations(), before)
  },
)

test('many keys at once over one connection', async (t) => {
  const { provider, operations } = await openKms(t)
  const subject = provider()
  const ids = await Promise.all(Array.from({ length: 12 }, () => subject.createKey(purpose)))
  t.is(new Set(ids).size, 12)
  const keys = await Promise.all(ids.map((id) => subject.fetchKey(id)))
  t.true(keys.every((key) => key.length === 32))
  t.false(keys.slice(1).some((key) => key.equals(keys[0] as (typeof keys)[0])))
  for (const key of keys) key.dispose()
  t.is(operations.filter((operation) => operation === 'Create').length, 12)
})

test.serial(
  'many keys in few messages; those that cannot be had are named with the reason, and nothing stays',
  async (t) => {
    const { provider, operations, direct } = await openKms(t)
    const subject = provider()
    const client = await direct()
    const ids: string[] = []
    for (let made = 0; made < 70; made += 1) {
      const { id } = await client.create()
      if (made !== 5) await client.activate(id)
      ids.push(id)
    }
    await client.revoke(ids[40] ?? '')
    await client.destroy(ids[69] ?? '').catch(() => undefined)
    client.close()
    const before = keyMemoryAllocations()
    const got: string[] = []
    const failures = await subject.fetchKeys([...ids, 'never-made'], async (id, key) => {
      t.is(key.length, 32)
      await Promise.resolve()
      got.push(id)
    })
    t.is(failures.get(ids[5] ?? '')?.code, 'VMSEAL_KEY_NOT_ACTIVE')
    t.is(failures.get(ids[40] ?? '')?.code, 'VMSEAL_KEY_NOT_ACTIVE')
    t.is(failures.get('never-made')?.code, 'VMSEAL_KEY_MISSING_IN_KMS')
    t.is(failures.size, 3)
    const expected = ids.filter((_, index) => index !== 5 && index !== 40)
    t.deepEqual(got.toSorted(), expected.toSorted())
    t.is(keyMemoryAllocations(), before)
    t.true(operations.filter((operation) => operation === 'Get').length <= ids.length + 1 + 3)
    // A handle is wiped also when its user fails.
    const refused = new VmsealError('VMSEAL_HOST_UNREACHABLE')
    t.is((await subject.fetchKeys(ids.slice(0, 5), () => Promise.reject(refused))).size, 5)
    await t.throwsAsync(
      subject.fetchKeys(ids.slice(0, 5), () => Promise.reject(new TypeError('bug'))),
      {
        instanceOf: TypeError,
      },
    )
    t.is(keyMemoryAllocations(), before)
  },
)

test('another authority than the KMS’s is not trusted, and a closed provider does nothing', async (t) => {
  const { provider, credentials, relayed, operations } = await openKms(t)
  const other = await openKms(t)
  const record = {
    id: 'x', servers: [relayed], caCertificate: other.credentials.caCertificate, certificate: credentials.certificate,
    privateKeyFile: '', addedAt: '',
  } // prettier-ignore
  const wrong = new KeyProvider({
    record,
    privateKeyFile: credentials.privateKeyFile,
    creations: other.store.keyCreations,
  })
  const refusal = await t.throwsAsync(wrong.createKey(purpose), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  t.like(refusal?.cause, { code: 'VMSEAL_KMIP_TLS' })
  t.deepEqual(operations, [])
  const closed = provider()
  await closed.close()
  await t.throwsAsync(closed.fetchKey('x'), { code: 'VMSEAL_INVALID_STATE' })
})

function disposable<Handle extends { dispose(): void }>(handle: Handle) {
  return { handle, [Symbol.dispose]: () => handle.dispose() }
}
