import test from 'ava'
import {
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  encodeResponseItem,
} from '../../src/kmip/messages.js'
import { operationCodec, operationTable } from '../../src/kmip/operations/table.js'
import type { OperationName, RequestOf, ResponseOf } from '../../src/kmip/operations/table.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { dumpTtlv } from '../../src/kmip/ttlv/dump.js'
import { boolean, byteString, enumeration, integer, structure, textString } from '../../src/kmip/ttlv/node.js'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'
import { StructureReader } from '../../src/kmip/ttlv/reader.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { encodeVersion, isSince, protocolVersions } from '../../src/kmip/version.js'

const date = new Date(1_700_000_000_000)

const requests: { [O in OperationName]: RequestOf<O>[] } = {
  DiscoverVersions: [
    { versions: [] },
    {
      versions: [
        { major: 1, minor: 4 },
        { major: 3, minor: 0 },
      ],
    },
  ],
  Query: [{ functions: ['QueryOperations', 'QueryServerInformation', 99] }],
  Create: [
    {
      objectType: 'SymmetricKey',
      attributes: [
        { name: 'Cryptographic Algorithm', value: 'AES' },
        { name: 'x-Vendor', value: 'someone' },
      ],
    },
  ],
  // Its key is not part of what the wire shows: keys.spec.ts.
  Register: [],
  ReKey: [{}, { id: '1', offset: 0, attributes: [{ name: 'x-Vendor', value: 'someone' }] }],
  Check: [{ id: '1' }, { id: '1', usageLimitsCount: 5n, usageMask: 12, leaseTime: 60 }],
  Get: [{}, { id: '1', keyFormatType: 'Raw' }],
  GetAttributes: [{ names: [] }, { id: '1', names: ['State', 'x-Name'] }],
  GetAttributeList: [{}, { id: '1' }],
  AddAttribute: [{ id: '1', attribute: { name: 'x-Name', value: 'db01' } }],
  ModifyAttribute: [{ id: '1', attribute: { name: 'x-Name', value: 'db01' } }],
  DeleteAttribute: [{ id: '1', name: 'x-Name' }, { name: 'State' }],
  SetAttribute: [{ id: '1', attribute: { name: 'Description', value: 'a key' } }],
  AdjustAttribute: [
    { id: '1', name: 'Cryptographic Length', type: 'Increment', value: 2 },
    { name: 'Sensitive', type: 'Negate' },
  ],
  Activate: [{}, { id: '1' }],
  Locate: [
    { attributes: [] },
    { maximumItems: 5, storageStatusMask: 1, attributes: [{ name: 'State', value: 'Active' }] },
  ],
  Revoke: [
    { id: '1', reason: 'KeyCompromise', message: 'lost', compromiseOccurrenceDate: date },
    { reason: 'Superseded' },
  ],
  Destroy: [{ id: '1' }],
  Archive: [{}, { id: '1' }],
  Recover: [{ id: '1' }],
}

const responses: { [O in Exclude<OperationName, 'Get'>]: ResponseOf<O>[] } = {
  Register: [{ id: '1' }],
  ReKey: [{ id: '2' }],
  Check: [{ id: '1' }, { id: '1', usageMask: 16 }],
  GetAttributeList: [{ id: '1', names: ['State', 'x-Name', 'Name'] }],
  ModifyAttribute: [{ id: '1' }],
  DeleteAttribute: [{ id: '1' }],
  SetAttribute: [{ id: '1' }],
  AdjustAttribute: [{ id: '1' }],
  Archive: [{ id: '1' }],
  Recover: [{ id: '1' }],
  DiscoverVersions: [{ versions: [{ major: 1, minor: 4 }] }],
  Query: [
    {
      operations: ['Get', 0x8000_0001],
      objectTypes: ['SymmetricKey'],
      vendorIdentification: 'v',
      applicationNamespaces: ['n'],
    },
  ],
  Create: [{ id: '1', objectType: 'SymmetricKey' }],
  GetAttributes: [{ id: '1', attributes: [{ name: 'State', value: 'Active' }] }],
  AddAttribute: [{ id: '1' }],
  Activate: [{ id: '1' }],
  Locate: [{ ids: [] }, { ids: ['1', '2'] }],
  Revoke: [{ id: '1' }],
  Destroy: [{ id: '1' }],
}

function onWire(tag: number, children: TtlvNode[]): StructureReader {
  return new StructureReader(decodeTtlv(encodeTtlv(structure(tag, children))))
}

for (const version of protocolVersions)
  test(`payloads of KMIP ${version} survive the wire and leave nothing unread`, (t) => {
    for (const name of Object.keys(operationTable) as OperationName[]) {
      const codec = operationCodec(name)
      if (!isSince(version, codec.since)) continue
      for (const request of requests[name]) {
        const payload = onWire(tags.RequestPayload, codec.encodeRequest(request, version))
        t.deepEqual(codec.decodeRequest(payload, version), request, name)
        payload.end()
      }
      for (const response of name === 'Get' ? [] : responses[name]) {
        const payload = onWire(tags.ResponsePayload, codec.encodeResponse(response, version))
        t.deepEqual(codec.decodeResponse(payload, version), response, name)
        payload.end()
      }
    }
  })

test('1.x repeats an attribute that was changed, 2.x does not', (t) => {
  const response = { id: '1', attribute: { name: 'x-Name', index: 3, value: 'db01' } }
  for (const name of ['AddAttribute', 'ModifyAttribute', 'DeleteAttribute'] as const)
    for (const version of ['1.0', '2.0'] as const) {
      const codec = operationTable[name]
      const payload = onWire(tags.ResponsePayload, codec.encodeResponse(response, version))
      t.deepEqual(codec.decodeResponse(payload, version), version === '1.0' ? response : { id: '1' })
      payload.end()
    }
})

test('what a version lacks is left out of its payloads', (t) => {
  const request = {
    maximumItems: 1,
    offsetItems: 2,
    objectGroupMember: 'GroupMemberFresh',
    attributes: [],
  } as const
  const fields = (version: '1.0' | '1.1' | '1.3') =>
    operationTable.Locate.encodeRequest(request, version).length
  t.deepEqual([fields('1.0'), fields('1.1'), fields('1.3')], [1, 2, 3])
  const response = { ids: ['1'], locatedItems: 7 }
  t.is(operationTable.Locate.encodeResponse(response, '1.2').length, 1)
  t.is(operationTable.Locate.encodeResponse(response, '1.3').length, 2)
  const comment = { id: '1', attributes: [{ name: 'Comment', value: 'x' }] }
  t.is(operationTable.GetAttributes.encodeResponse(comment, '1.3').length, 1)
  t.is(operationTable.GetAttributes.encodeResponse(comment, '1.4').length, 2)
})

test('a request message survives the wire', (t) => {
  const message = {
    header: { version: '1.2', maximumResponseSize: 4096, batchErrorContinuation: 'Continue' },
    lenient: false,
    items: [
      { operation: 10, uniqueBatchItemId: Uint8Array.of(1), payload: structure(tags.RequestPayload, []) },
      { operation: 18, uniqueBatchItemId: Uint8Array.of(2), payload: structure(tags.RequestPayload, []) },
    ],
  } as const
  t.deepEqual(decodeRequest(decodeTtlv(encodeTtlv(encodeRequest(message)))), message)
})

test('the bytes of a request are those that vCenter sends', (t) => {
  // Header 1.1 and batch count, DiscoverVersions without an item id and with an empty payload.
  const message = encodeRequest({
    header: { version: '1.1' },
    items: [{ operation: 0x1e, payload: structure(tags.RequestPayload, []) }],
  })
  t.is(
    encodeTtlv(message).toString('hex'),
    '42007801000000604200770100000038420069010000002042006a0200000004000000010000000042006b020000000400000001' +
      '0000000042000d0200000004000000010000000042000f010000001842005c05000000040000001e000000004200790100000000',
  )
})

test('correlation values exist since 1.4', (t) => {
  for (const version of ['1.3', '1.4'] as const) {
    const request = encodeRequest({ header: { version, clientCorrelationValue: 'c' }, items: [item()] })
    t.is(decodeRequest(request).header.clientCorrelationValue, version === '1.4' ? 'c' : undefined)
    const response = encodeResponse({ version, timeStamp: date, clientCorrelationValue: 'c' }, [])
    t.is(dumpTtlv(response).includes('ClientCorrelationValue'), version === '1.4')
  }
})

function item() {
  return { operation: 10, payload: structure(tags.RequestPayload, []) }
}

function requestMessage(fields: TtlvNode[], items: TtlvNode[] = [batchItem()]): TtlvNode {
  return structure(tags.RequestMessage, [structure(tags.RequestHeader, fields), ...items])
}
function batchItem(...extra: TtlvNode[]): TtlvNode {
  return structure(tags.BatchItem, [
    enumeration(tags.Operation, 10),
    structure(tags.RequestPayload, []),
    ...extra,
  ])
}
const version = encodeVersion('1.1')
const one = integer(tags.BatchCount, 1)

const malformed: Record<string, TtlvNode> = {
  'no request message': structure(tags.ResponseMessage, []),
  'no header': structure(tags.RequestMessage, [batchItem()]),
  'no version': requestMessage([one]),
  'no batch count': requestMessage([version]),
  'a batch count of 2 with one item': requestMessage([version, integer(tags.BatchCount, 2)]),
  'a batch count of 0': requestMessage([version, integer(tags.BatchCount, 0)], []),
  'a header field twice': requestMessage([version, one, one]),
  'a version of the wrong type': requestMessage([textString(tags.ProtocolVersion, '1.1'), one]),
  'a header field of the wrong type': requestMessage([
    version,
    textString(tags.MaximumResponseSize, '5'),
    one,
  ]),
  'an unknown continuation option': requestMessage([
    version,
    enumeration(tags.BatchErrorContinuationOption, 9),
    one,
  ]),
  'an unknown header field': requestMessage([version, one, integer(0x540001, 1)]),
  'a field of a later version': requestMessage([version, textString(tags.ClientCorrelationValue, 'c'), one]),
  'an item without an operation': requestMessage([version, one], [structure(tags.BatchItem, [])]),
  'an item without a payload': requestMessage(
    [version, one],
    [structure(tags.BatchItem, [enumeration(tags.Operation, 1)])],
  ),
  'an item with two operations': requestMessage([version, one], [batchItem(enumeration(tags.Operation, 10))]),
  'an unknown item field': requestMessage(
    [version, one],
    [batchItem(byteString(0x540001, Uint8Array.of(1)))],
  ),
}

for (const [what, node] of Object.entries(malformed))
  test(`refused: ${what}`, (t) => {
    t.throws(() => decodeRequest(node), { code: 'VMSEAL_KMIP_MALFORMED' })
  })

test('another major version is refused, a later minor version read leniently as the highest known', (t) => {
  for (const major of [0, 3, -1])
    t.throws(() => decodeRequest(requestMessage([encodeVersion({ major, minor: 0 }), one])), {
      code: 'VMSEAL_KMIP_VERSION',
    })
  const later = requestMessage([encodeVersion({ major: 1, minor: 9 }), one, integer(0x540001, 1)])
  t.like(decodeRequest(later), { lenient: true, header: { version: '1.4' } })
  const second = requestMessage([encodeVersion({ major: 2, minor: 7 }), one, integer(0x540001, 1)])
  t.like(decodeRequest(second), { lenient: true, header: { version: '2.1' } })
})

test('a response survives the wire, failures and unknown fields included', (t) => {
  const items = [
    {
      status: 'Success',
      operation: 10,
      uniqueBatchItemId: Uint8Array.of(1),
      payload: structure(tags.ResponsePayload, []),
    },
    { status: 'OperationFailed', reason: 'ItemNotFound', message: 'no such key' },
    { status: 'OperationFailed', reason: 0x8000_0001 },
  ] as const
  const encoded = encodeResponse({ version: '1.3', timeStamp: date }, [
    ...items.map(encodeResponseItem),
    textString(0x540001, 'unknown'),
  ])
  t.deepEqual(decodeResponse(decodeTtlv(encodeTtlv(encoded))), {
    version: { major: 1, minor: 3 },
    items: [...items],
  })
})

test('refused: what is no response', (t) => {
  t.throws(() => decodeResponse(requestMessage([version, one])), { code: 'VMSEAL_KMIP_MALFORMED' })
  t.throws(() => decodeResponse(structure(tags.ResponseMessage, [])), { code: 'VMSEAL_KMIP_MALFORMED' })
})

function indicator(value: number): TtlvNode {
  return enumeration(tags.AsynchronousIndicator, value)
}

test('the header of 2.x: an answer later cannot be demanded, an item cannot be ephemeral', (t) => {
  const header = (indicated: TtlvNode, only = batchItem()) =>
    requestMessage([encodeVersion('2.0'), indicated, one], [only])
  t.is(decodeRequest(header(indicator(2))).header.version, '2.0')
  t.like(
    t.throws(() => decodeRequest(header(indicator(1)))),
    {
      details: { resultReason: 'FeatureNotSupported' },
    },
  )
  t.throws(() => decodeRequest(header(boolean(tags.AsynchronousIndicator, false))), {
    code: 'VMSEAL_KMIP_MALFORMED',
  })
  t.notThrows(() => decodeRequest(header(indicator(3), batchItem(boolean(tags.Ephemeral, false)))))
  t.like(
    t.throws(() => decodeRequest(header(indicator(3), batchItem(boolean(tags.Ephemeral, true))))),
    {
      details: { resultReason: 'FeatureNotSupported' },
    },
  )
  const older = requestMessage([encodeVersion('1.4'), one], [batchItem(boolean(tags.Ephemeral, false))])
  t.throws(() => decodeRequest(older), { code: 'VMSEAL_KMIP_MALFORMED' })
})
