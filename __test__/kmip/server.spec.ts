/** The protocol side of the server with a real key service and no socket. */
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { kmipFailure } from '../../src/kmip/failure.js'
import { decodeResponse } from '../../src/kmip/messages.js'
import { KmipServer } from '../../src/kmip/server.js'
import type { KmipServerOptions, KmipService, OperationRecord } from '../../src/kmip/server.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { enumeration, keyString, structure } from '../../src/kmip/ttlv/node.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { Clients } from '../../src/kms/clients.js'
import { closeDatabase, openDatabase } from '../../src/kms/database.js'
import { Keys } from '../../src/kms/keys.js'
import { SealedRecords } from '../../src/kms/sealed-records.js'
import { KeyService } from '../../src/kms/service.js'
import { native } from '../../src/native/load.js'
import { temporaryDirectory } from '../kms/running-kms.js'
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

function keyService(t: ExecutionContext): KeyService {
  const database = openDatabase(join(temporaryDirectory(t), 'kms.db'))
  const records = new SealedRecords(native.KeyHandle.generate(32))
  t.teardown(() => {
    records.dispose()
    closeDatabase(database)
  })
  const clients = new Clients(database)
  clients.add('client', caller.clientKeyHash, 'pem')
  return new KeyService(new Keys(database), clients, records)
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
