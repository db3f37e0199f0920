/** The protocol side of the server, without a socket. */
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { kmipFailure } from '../../src/kmip/failure.js'
import { decodeResponse } from '../../src/kmip/messages.js'
import { KmipServer } from '../../src/kmip/server.js'
import type { KmipServerOptions, KmipService, OperationRecord } from '../../src/kmip/server.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { enumeration, keyString, structure } from '../../src/kmip/ttlv/node.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { native } from '../../src/native/load.js'
import { item, operationPayload, request } from './raw-connection.js'

const caller = { connectionId: 1, clientKeyHash: 'hash' }
const create = operationPayload('Create', {
  objectType: 'SymmetricKey',
  attributes: [
    { name: 'Cryptographic Algorithm', value: 'AES' },
    { name: 'Cryptographic Length', value: 256 },
    { name: 'Cryptographic Usage Mask', value: 12 },
  ],
})
const createAndGet = encodeTtlv(request('1.2', [item('Create', create), item('Get', [])]))

/** Makes and gives keys, sealed while they are kept. */
function keyService(t: ExecutionContext): KmipService {
  const root = native.KeyHandle.generate(32)
  t.teardown(() => root.dispose())
  const records = new Map<string, Buffer>()
  return {
    Create() {
      const id = `${records.size + 1}`
      const key = native.KeyHandle.generate(32)
      records.set(id, native.sealRecord(root, key, Buffer.from(id)))
      key.dispose()
      return { id, objectType: 'SymmetricKey' }
    },
    Get({ id }) {
      const record = records.get(id)
      if (!record) throw kmipFailure('ItemNotFound', 'no such key')
      const key = native.openRecord(root, record, Buffer.from(id))
      return { id, key, algorithm: 'AES', length: 256 }
    },
  }
}

async function process(service: KmipService, options: KmipServerOptions, message: Uint8Array) {
  const reply = await new KmipServer(service, options).process(message, [], caller)
  const { items } = decodeResponse(decodeTtlv(reply.message))
  return { reply, items, reasons: items.map(({ reason, status }) => reason ?? status) }
}

test('each operation is observed once, before its answer exists', async (t) => {
  const seen: OperationRecord[] = []
  const { reply, reasons } = await process(keyService(t), { observe: (one) => seen.push(one) }, createAndGet)
  t.deepEqual(reasons, ['Success', 'Success'])
  t.deepEqual(
    seen.map(({ operation, result }) => [operation, result]),
    [
      ['Create', 'Success'],
      ['Get', 'Success'],
    ],
  )
  t.truthy(seen[0]?.id)
  t.is(seen[0]?.id, seen[1]?.id)
  t.is(reply.keys.length, 1)
  for (const key of reply.keys) key.dispose()
})

function failAtGet({ operation }: OperationRecord): void {
  if (operation === 'Get') throw new Error('the disk is full')
}

test.serial('a key whose record cannot be written is not sent', async (t) => {
  const service = keyService(t)
  const before = native.keyMemoryStatus().allocations
  const { reply, reasons, items } = await process(service, { observe: failAtGet }, createAndGet)
  t.deepEqual(reasons, ['Success', 'GeneralFailure'])
  t.is(reply.keys.length, 0)
  t.false(items[1]?.message?.includes('disk'), 'what went wrong inside is not told')
  t.is(native.keyMemoryStatus().allocations, before)
})

test('a caller that is kept out gets one refusal and nothing is done', async (t) => {
  const seen: OperationRecord[] = []
  const { reasons, items } = await process(
    keyService(t),
    {
      authenticate: () => {
        throw kmipFailure('AuthenticationNotSuccessful', 'go away')
      },
      observe: (one) => seen.push(one),
    },
    createAndGet,
  )
  t.deepEqual(reasons, ['AuthenticationNotSuccessful'])
  t.is(items[0]?.operation, undefined)
  t.deepEqual(
    seen.map(({ operation, result }) => [operation, result]),
    [['Message', 'AuthenticationNotSuccessful']],
  )
})

test('an operation that the service lacks is not offered', async (t) => {
  const service: KmipService = { Activate: ({ id }) => ({ id }) }
  const query = encodeTtlv(request('1.2', [item('Query', [enumeration(tags.QueryFunction, 1)])]))
  const { items } = await process(service, {}, query)
  t.deepEqual(
    encodeTtlv(items[0]?.payload ?? structure(0, [])),
    encodeTtlv(
      structure(
        tags.ResponsePayload,
        [0x12, 0x18, 0x1e].map((code) => enumeration(tags.Operation, code)),
      ),
    ),
  )
  t.deepEqual((await process(service, {}, createAndGet)).reasons, ['OperationNotSupported'])
})

function withKey() {
  const key = native.KeyHandle.generate(32)
  const object = structure(tags.SymmetricKey, [keyString(tags.KeyMaterial, key)])
  return { key, message: encodeTtlv(request('1.2', [item('Register', [object])])) }
}

test('keys that come with a message that is refused are wiped', async (t) => {
  const server = new KmipServer(keyService(t))
  const unsupported = withKey()
  await server.process(unsupported.message, [unsupported.key], caller)
  const tooMany = [native.KeyHandle.generate(32), native.KeyHandle.generate(32)]
  await server.process(withKey().message, tooMany, caller)
  const broken = native.KeyHandle.generate(32)
  await server.process(Buffer.from('nonsense'), [broken], caller)
  for (const key of [unsupported.key, ...tooMany, broken]) t.true(key.disposed)
})

test.serial(
  'a key that is asked for wrapped never leaves otherwise, whatever the service answers',
  async (t) => {
    const service = keyService(t)
    const before = native.keyMemoryStatus().allocations
    const wrapping = { method: 'Encrypt', wrappingKeyId: '2', encodingOption: 'NoEncoding' } as const
    const wrapped = operationPayload('Get', { id: '1', wrapping })
    const { reasons, reply } = await process(
      service,
      {},
      encodeTtlv(request('1.2', [item('Create', create), item('Get', wrapped)])),
    )
    t.deepEqual(reasons, ['Success', 'FeatureNotSupported'])
    t.is(reply.keys.length, 0)
    t.is(native.keyMemoryStatus().allocations, before)
  },
)

test('only the versions that a server is given are spoken', async (t) => {
  const service = keyService(t)
  const options = { protocolVersions: ['1.2', '1.4'] } as const
  const ask = (version: '1.2' | '1.3' | '2.1') =>
    process(service, options, encodeTtlv(request(version, [item('DiscoverVersions', [])])))
  t.deepEqual((await ask('1.2')).reasons, ['Success'])
  t.is((await ask('1.2')).items[0]?.payload?.type, 'Structure')
  for (const version of ['1.3', '2.1'] as const) {
    const { items, reply } = await ask(version)
    t.like(items[0], { reason: 'InvalidMessage' })
    t.deepEqual(decodeResponse(decodeTtlv(reply.message)).version, { major: 1, minor: 4 })
  }
})

test('the new keys of Register and ReKey are what the rest of the batch is about', async (t) => {
  const asked: string[] = []
  const service: KmipService = {
    Register: () => ({ id: 'registered' }),
    ReKey: ({ id }) => ({ id: `${id}, renewed` }),
    Activate({ id }) {
      asked.push(id)
      return { id }
    },
  }
  const key = native.KeyHandle.generate(32)
  const register = operationPayload('Register', { key, algorithm: 'AES', length: 256, attributes: [] })
  const message = request('1.2', [
    item('Register', register),
    item('Activate', []),
    item('ReKey', []),
    item('Activate', []),
  ])
  const caller2 = { ...caller, connectionId: 2 }
  const { message: answer } = await new KmipServer(service).process(encodeTtlv(message), [key], caller2)
  t.deepEqual(
    decodeResponse(decodeTtlv(answer)).items.map(({ status }) => status),
    ['Success', 'Success', 'Success', 'Success'],
  )
  t.deepEqual(asked, ['registered', 'registered, renewed'])
  t.true(key.disposed)
})

test('a deletion whose answer may not fit is not begun', async (t) => {
  let deleted = 0
  const service: KmipService = {
    DeleteAttribute({ id, name }) {
      deleted++
      return { id, attribute: { name, value: 'x'.repeat(16_000) } }
    },
  }
  const remove = operationPayload('DeleteAttribute', { id: '1', name: 'x-Long' })
  const ask = (maximumResponseSize: number) =>
    process(
      service,
      {},
      encodeTtlv(request('1.2', [item('DeleteAttribute', remove)], { maximumResponseSize })),
    )
  t.deepEqual((await ask(4096)).reasons, ['ResponseTooLarge'])
  t.is(deleted, 0)
  t.deepEqual((await ask(64 * 1024)).reasons, ['Success'])
})
