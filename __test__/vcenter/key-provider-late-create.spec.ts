/** A KMS that lets several keys have one name, and works on a Create long after its client gave up. */
import test, { type ExecutionContext } from 'ava'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { kmipFailure } from '../../src/kmip/failure.js'
import { KmipListening } from '../../src/kmip/listener.js'
import { KmipServer, type KmipService } from '../../src/kmip/server.js'
import { native } from '../../src/native/load.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { KeyProvider } from '../../src/vcenter/key-provider.js'

const purpose = { name: 'db01', identifier: '00000000-0000-4000-8000-000000000001' }

interface MadeKey {
  readonly id: string
  readonly name: string
  state: 'PreActive' | 'Active'
}

/** How long each Create takes to happen and to be answered after that. */
async function openSlowKms(t: ExecutionContext, delays: { before: number; after: number }[]) {
  const directory = await mkdtemp(path.join(tmpdir(), 'vmseal-late-'))
  const keys: MadeKey[] = []
  const ended = new AbortController()
  const find = (id: string): MadeKey => {
    const found = keys.find((key) => key.id === id)
    if (!found) throw kmipFailure('ItemNotFound', 'no such key')
    return found
  }
  const service: KmipService = {
    Create: async ({ attributes }) => {
      const { before, after } = delays.shift() ?? { before: 0, after: 0 }
      await sleep(before, undefined, { signal: ended.signal })
      const name = JSON.stringify(attributes.find((attribute) => attribute.name === 'Name')?.value)
      const id = `key-${keys.length + 1}`
      keys.push({ id, name, state: 'PreActive' })
      await sleep(after, undefined, { signal: ended.signal })
      return { id, objectType: 'SymmetricKey' as const }
    },
    Locate: ({ attributes }) => {
      const name = JSON.stringify(attributes.find((attribute) => attribute.name === 'Name')?.value)
      return { ids: keys.filter((key) => key.name === name).map(({ id }) => id) }
    },
    Activate: ({ id }) => {
      const key = find(id)
      if (key.state !== 'PreActive') throw kmipFailure('PermissionDenied', `it is ${key.state}`)
      key.state = 'Active'
      return { id }
    },
    GetAttributes: ({ id }) => ({ id, attributes: [{ name: 'State', value: find(id).state }] }),
  }
  const file = (name: string): string => path.join(directory, name)
  const caCertificate = native.createAuthority('slow authority', file('ca.key'))
  const issue = (name: string) =>
    native.issueClientCertificate(caCertificate, file('ca.key'), name, file(name))
  const listening = KmipListening.start(new KmipServer(service), {
    host: '127.0.0.1',
    port: 0,
    certificate: native.issueServerCertificate(caCertificate, file('ca.key'), ['127.0.0.1'], file('server')),
    privateKeyFile: file('server'),
    clientAuthorities: caCertificate,
    pinnedClients: [],
  })
  const store = openSqliteStore(file('vcenter.db'))
  const certificate = issue('client')
  const open = (clock = () => new Date()): KeyProvider => {
    const servers = [{ host: '127.0.0.1', port: listening.port }]
    const provider = new KeyProvider({
      record: { id: 'p', servers, caCertificate, certificate, privateKeyFile: '', addedAt: '' },
      privateKeyFile: file('client'),
      creations: store.keyCreations,
      timing: { requestTimeoutMs: 300, operationTimeoutMs: 4000 },
      clock,
    })
    t.teardown(() => provider.close())
    return provider
  }
  t.teardown(async () => {
    ended.abort()
    await listening.stop()
    await store.close()
    await rm(directory, { recursive: true, force: true })
  })
  return { keys, open, records: () => store.keyCreations.list('p') }
}

test('H5: a key whose answer comes too late is found by its name and used', async (t) => {
  const { keys, open, records } = await openSlowKms(t, [{ before: 0, after: 600 }])
  t.is(await open().createKey(purpose), 'key-1')
  t.is(keys.length, 1)
  t.deepEqual(await records(), [])
})

test('H5: a Create that happens after its repetition makes a second key: the next call uses it, and no third is made', async (t) => {
  const { keys, open, records } = await openSlowKms(t, [
    { before: 400, after: 0 },
    { before: 150, after: 0 },
  ])
  const provider = open()
  const first = await provider.createKey(purpose)
  t.is(keys.length, 2)
  t.is(keys[0]?.name, keys[1]?.name)
  t.is((await records()).length, 1)
  const second = await provider.createKey(purpose)
  t.deepEqual([first, second].toSorted(), ['key-1', 'key-2'])
  t.is(keys.length, 2)
  t.deepEqual(await records(), [])
  t.is(await provider.createKey(purpose), 'key-3')
})

test('H5: a Create that was unclear and of which nothing is heard for long is forgotten', async (t) => {
  const { keys, open, records } = await openSlowKms(t, [
    { before: 2 ** 30, after: 0 },
    { before: 2 ** 30, after: 0 },
    { before: 2 ** 30, after: 0 },
    { before: 2 ** 30, after: 0 },
  ])
  await t.throwsAsync(open().createKey(purpose), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  t.is((await records()).length, 1)
  t.is(await open().createKey(purpose), 'key-1')
  t.is((await records()).length, 1)
  t.is(await open(() => new Date(Date.now() + 11 * 60_000)).createKey(purpose), 'key-2')
  t.deepEqual(await records(), [])
  t.is(keys.length, 2)
})
