/** Messages that were damaged on the way: a KMIP answer or a VmsealError, nothing worse. */
import test from 'ava'
import fc from 'fast-check'
import { isVmsealError } from '../../src/errors.js'
import {
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  encodeResponseItem,
} from '../../src/kmip/messages.js'
import { operationCodec, operationTable } from '../../src/kmip/operations/table.js'
import type { OperationName } from '../../src/kmip/operations/table.js'
import { KmipServer } from '../../src/kmip/server.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { enumeration, structure } from '../../src/kmip/ttlv/node.js'
import { StructureReader } from '../../src/kmip/ttlv/reader.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { openDatabase, closeDatabase } from '../../src/kms/database.js'
import { Clients } from '../../src/kms/clients.js'
import { Keys } from '../../src/kms/keys.js'
import { SealedRecords } from '../../src/kms/sealed-records.js'
import { KeyService } from '../../src/kms/service.js'
import { native } from '../../src/native/load.js'
import { temporaryDirectory } from '../kms/running-kms.js'
import { item, operationPayload, request } from './raw-connection.js'

const id = '7f6c0a1e-0000-4000-8000-000000000001'
const filter = { name: 'Name', value: { NameValue: 'db01', NameType: 'UninterpretedTextString' } }

const seeds: Buffer[] = [
  request('1.1', [item('DiscoverVersions', [])]),
  request('1.2', [item('Query', [enumeration(tags.QueryFunction, 1)])]),
  request('1.4', [item('Get', operationPayload('Get', { id, keyFormatType: 'Raw' }))], {
    clientCorrelationValue: 'c',
  }),
  request('1.0', [
    item('GetAttributes', operationPayload('GetAttributes', { id, names: ['State', 'x-Name'] })),
    item('Locate', operationPayload('Locate', { maximumItems: 3, attributes: [filter] })),
    item('Activate', []),
  ]),
  request('1.3', [
    item(
      'AddAttribute',
      operationPayload('AddAttribute', { id, attribute: { name: 'x-Vendor', value: 'somebody' } }),
    ),
    item('Revoke', operationPayload('Revoke', { id, reason: 'KeyCompromise', message: 'lost' })),
    item('Destroy', operationPayload('Destroy', { id })),
  ]),
].map((node) => encodeTtlv(node))

const responseSeeds: Buffer[] = [
  encodeResponse({ version: '1.2', timeStamp: new Date(0) }, [
    encodeResponseItem({
      operation: 11,
      uniqueBatchItemId: Uint8Array.of(1, 2),
      status: 'Success',
      payload: structure(
        tags.ResponsePayload,
        operationTable.GetAttributes.encodeResponse(
          { id, attributes: [filter, { name: 'State', value: 'Active' }] },
          '1.2',
        ),
      ),
    }),
    encodeResponseItem({ operation: 10, status: 'OperationFailed', reason: 'ItemNotFound', message: 'no' }),
  ]),
].map((node) => encodeTtlv(node))

/** Overwrites, cuts out, doubles or inserts bytes at a few places. */
function mutated(from: readonly Buffer[]): fc.Arbitrary<Buffer> {
  const change = fc.record({
    how: fc.constantFrom('overwrite', 'flip', 'cut', 'double', 'insert'),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    length: fc.integer({ min: 1, max: 24 }),
    byte: fc.oneof(fc.constantFrom(0, 1, 7, 8, 0x42, 0x7f, 0x80, 0xff), fc.integer({ min: 0, max: 255 })),
  })
  return fc
    .tuple(fc.constantFrom(...from), fc.array(change, { minLength: 1, maxLength: 4 }))
    .map(([seed, changes]) => {
      let bytes = Buffer.from(seed)
      for (const { how, at, length, byte } of changes) {
        const place = Math.min(Math.floor(at * bytes.length), Math.max(bytes.length - 1, 0))
        const [before, after] = [bytes.subarray(0, place), bytes.subarray(place)]
        if (how === 'overwrite' && bytes.length > 0) bytes[place] = byte
        else if (how === 'flip' && bytes.length > 0)
          bytes[place] = (bytes[place] as number) ^ (1 << (byte & 7))
        else if (how === 'cut') bytes = Buffer.concat([before, after.subarray(length)])
        else if (how === 'double') bytes = Buffer.concat([before, after.subarray(0, length), after])
        else bytes = Buffer.concat([before, Buffer.alloc(length, byte), after])
      }
      return bytes
    })
}

const operations = Object.keys(operationTable) as OperationName[]

/** True if `work` ends well or with a VmsealError; anything else is thrown on. */
function holds(work: () => void): boolean {
  try {
    work()
  } catch (error) {
    if (!isVmsealError(error)) throw error
  }
  return true
}

test('20,000 damaged requests through codec, messages and payloads', (t) => {
  let read = 0
  fc.assert(
    fc.property(mutated(seeds), (bytes) => {
      return holds(() => {
        const { header, items, lenient } = decodeRequest(decodeTtlv(bytes))
        for (const { payload } of items)
          for (const name of operations)
            holds(() => {
              operationCodec(name).decodeRequest(new StructureReader(payload, lenient), header.version)
              read++
            })
      })
    }),
    { numRuns: 20_000 },
  )
  t.true(read > 1000, 'some were readable')
})

test('20,000 damaged responses through codec, messages and payloads', (t) => {
  let read = 0
  fc.assert(
    fc.property(mutated(responseSeeds), (bytes) =>
      holds(() => {
        for (const { payload } of decodeResponse(decodeTtlv(bytes)).items)
          for (const name of payload ? operations : [])
            holds(() => {
              operationCodec(name).decodeResponse(
                new StructureReader(payload ?? structure(0, []), true),
                '1.2',
              )
              read++
            })
      }),
    ),
    { numRuns: 20_000 },
  )
  t.true(read > 1000, 'some were readable')
})

test.serial('3,000 damaged requests at the KMS itself: each has an answer that can be read', async (t) => {
  const database = openDatabase(`${temporaryDirectory(t)}/kms.db`)
  database.pragma('synchronous = OFF')
  const records = new SealedRecords(native.KeyHandle.generate(32))
  const clients = new Clients(database)
  clients.add('client', 'hash', 'pem')
  const service = new KeyService(new Keys(database), clients, records)
  const server = new KmipServer(service)
  const caller = { connectionId: 1, clientKeyHash: 'hash' }
  const make = encodeTtlv(
    encodeRequest({
      header: { version: '1.2' },
      items: [
        item(
          'Create',
          operationPayload('Create', {
            objectType: 'SymmetricKey',
            attributes: [
              { name: 'Cryptographic Algorithm', value: 'AES' },
              { name: 'Cryptographic Length', value: 256 },
              { name: 'Cryptographic Usage Mask', value: 12 },
              filter,
            ],
          }),
        ),
      ],
    }),
  )
  const before = native.keyMemoryStatus().allocations
  await fc.assert(
    fc.asyncProperty(mutated([...seeds, make]), async (bytes) => {
      const { message, keys } = await server.process(bytes, [], caller)
      for (const key of keys) key.dispose()
      const { items } = decodeResponse(decodeTtlv(message))
      return items.length > 0
    }),
    { numRuns: 3000 },
  )
  t.is(native.keyMemoryStatus().allocations, before, 'no key is left behind')
  records.dispose()
  closeDatabase(database)
})
