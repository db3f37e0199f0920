/** What a client of somebody else's making may send. */
import test from 'ava'
import { encodeAuthentication } from '../../src/kmip/credential.js'
import { decodeResponse } from '../../src/kmip/messages.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { boolean, enumeration, integer, keyString, structure, textString } from '../../src/kmip/ttlv/node.js'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { encodeVersion } from '../../src/kmip/version.js'
import { native } from '../../src/native/load.js'
import { startWithClient } from '../kms/running-kms.js'
import { exchange, item, openRaw, operationPayload, request, send } from './raw-connection.js'

function message(version: TtlvNode, batchItems: TtlvNode[], fields: TtlvNode[] = []): TtlvNode {
  const header = [version, ...fields, integer(tags.BatchCount, batchItems.length)]
  return structure(tags.RequestMessage, [structure(tags.RequestHeader, header), ...batchItems])
}
function batchItem(operation: number, payload: TtlvNode[] = [], extra: TtlvNode[] = []): TtlvNode {
  return structure(tags.BatchItem, [
    enumeration(tags.Operation, operation),
    structure(tags.RequestPayload, payload),
    ...extra,
  ])
}
const version = encodeVersion('1.2')

test('another major version: one item without an operation, Invalid Message', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  for (const number of [
    { major: 3, minor: 0 },
    { major: 0, minor: 9 },
    { major: -1, minor: 0 },
  ]) {
    const answer = await exchange(t, kms, credentials, message(encodeVersion(number), [batchItem(10)]))
    t.like(answer, { version: { major: 1, minor: 4 }, reasons: ['InvalidMessage'] })
    t.is(answer.items.length, 1)
    t.is(answer.items[0]?.operation, undefined)
  }
})

test('a later minor version is answered in the highest known, its unknown fields ignored', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const later = message(encodeVersion({ major: 1, minor: 9 }), [
    batchItem(0x18, [enumeration(tags.QueryFunction, 1), textString(0x42ffff, 'new')]),
  ])
  t.like(await exchange(t, kms, credentials, later), {
    version: { major: 1, minor: 4 },
    statuses: ['Success'],
  })
})

test('an unreadable Locate filter of a later version matches nothing, never everything', async (t) => {
  const { kms, client, credentials } = await startWithClient(t)
  await client.create()
  const filter = structure(0x42ffff, [textString(tags.NameValue, 'db01')])
  const later = message(encodeVersion({ major: 1, minor: 9 }), [batchItem(8, [filter])])
  const answer = await exchange(t, kms, credentials, later)
  t.deepEqual(answer.statuses, ['Success'])
  t.false(encodeTtlv(answer.items[0]?.payload as TtlvNode).includes(Buffer.from('420094', 'hex')), 'no id')
  const same = await exchange(t, kms, credentials, message(version, [batchItem(8, [filter])]))
  t.deepEqual(same.reasons, ['InvalidField'])
})

test('operations: unknown, unsupported and of a later version', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const connection = await openRaw(t, kms, credentials)
  for (const operation of [0x02, 0x05, 0x1f, 0x2b, 0x31, 0x99, 0x8000_0001]) {
    const answer = await send(connection, message(version, [batchItem(operation)]))
    t.deepEqual(answer.reasons, ['OperationNotSupported'], `${operation}`)
    t.is(answer.items[0]?.operation, operation)
  }
  const discover = await send(connection, request('1.0', [item('DiscoverVersions', [])]))
  t.like(discover, { version: { major: 1, minor: 0 }, reasons: ['OperationNotSupported'] })
})

test('payloads that cannot be read fail alone, the ones beside them do not', async (t) => {
  const { kms, client, credentials } = await startWithClient(t)
  const { id } = await client.create()
  const connection = await openRaw(t, kms, credentials)
  const uid = textString(tags.UniqueIdentifier, id)
  const bad: [string, Parameters<typeof item>[0], TtlvNode[]][] = [
    ['InvalidMessage', 'Get', [uid, uid]],
    ['InvalidMessage', 'Get', [integer(tags.UniqueIdentifier, 5)]],
    ['InvalidField', 'Get', [uid, textString(tags.Comment, 'x')]],
    ['KeyFormatTypeNotSupported', 'Get', [uid, enumeration(tags.KeyFormatType, 7)]],
    ['KeyCompressionTypeNotSupported', 'Get', [uid, enumeration(tags.KeyCompressionType, 1)]],
    ['InvalidMessage', 'Get', [uid, structure(tags.KeyWrappingSpecification, [])]],
    ['InvalidField', 'Get', [uid, enumeration(tags.KeyWrapType, 1)]],
    ['InvalidMessage', 'Create', []],
    ['InvalidField', 'Create', [enumeration(tags.ObjectType, 2), structure(tags.TemplateAttribute, [])]],
    [
      'ItemNotFound',
      'Create',
      [
        enumeration(tags.ObjectType, 2),
        structure(tags.TemplateAttribute, [structure(tags.Name, [textString(tags.NameValue, 'template')])]),
      ],
    ],
    ['InvalidField', 'Query', []],
    ['InvalidMessage', 'Revoke', [uid]],
    [
      'InvalidField',
      'Revoke',
      [uid, structure(tags.RevocationReason, [enumeration(tags.RevocationReasonCode, 77)])],
    ],
    [
      'InvalidField',
      'Revoke',
      [
        uid,
        structure(tags.RevocationReason, [enumeration(tags.RevocationReasonCode, 2)]),
        { tag: tags.CompromiseOccurrenceDate, type: 'DateTime', value: 2n ** 62n },
      ],
    ],
    ['InvalidMessage', 'AddAttribute', [uid]],
    ['InvalidField', 'Locate', [integer(tags.MaximumItems, -1)]],
    [
      'InvalidField',
      'Locate',
      [
        structure(tags.Attribute, [
          textString(tags.AttributeName, 'State'),
          textString(tags.AttributeValue, 'Active'),
        ]),
      ],
    ],
  ]
  for (const [reason, operation, payload] of bad) {
    const good = item('GetAttributes', operationPayload('GetAttributes', { id, names: ['State'] }))
    const answer = await send(
      connection,
      request('1.2', [good, item(operation, payload), good], { batchErrorContinuation: 'Continue' }),
    )
    t.deepEqual(answer.statuses, ['Success', 'OperationFailed', 'Success'], operation)
    t.deepEqual(answer.reasons, [reason], `${operation}: ${answer.items[1]?.message}`)
  }
  t.deepEqual(await client.getAttributes(id, ['State']), [{ name: 'State', value: 'PreActive' }], 'unchanged')
})

const extension = (critical: boolean) =>
  structure(tags.MessageExtension, [
    textString(tags.VendorIdentification, 'somebody'),
    boolean(tags.CriticalityIndicator, critical),
    structure(tags.VendorExtension, []),
  ])

test('a message extension that must be understood is refused, another is not', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const ask = (critical: boolean) =>
    exchange(
      t,
      kms,
      credentials,
      message(version, [batchItem(0x18, [enumeration(tags.QueryFunction, 1)], [extension(critical)])]),
    )
  t.deepEqual((await ask(true)).reasons, ['FeatureNotSupported'])
  t.deepEqual((await ask(false)).statuses, ['Success'])
})

test('a credential, an asynchronous indicator and a time stamp do no harm', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const fields: TtlvNode[] = [
    boolean(tags.AsynchronousIndicator, true),
    encodeAuthentication({ username: 'somebody', password: 'else' }),
    boolean(tags.BatchOrderOption, true),
    { tag: tags.TimeStamp, type: 'DateTime', value: 0n },
  ]
  const query = batchItem(0x18, [enumeration(tags.QueryFunction, 1)])
  t.deepEqual((await exchange(t, kms, credentials, message(version, [query], fields))).statuses, ['Success'])
})

test('a credential that cannot be read is refused, and so is a demand for an answer later', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const query = batchItem(0x18, [enumeration(tags.QueryFunction, 1)])
  const empty = structure(tags.Authentication, [structure(tags.Credential, [])])
  t.deepEqual((await exchange(t, kms, credentials, message(version, [query], [empty]))).reasons, [
    'InvalidMessage',
  ])
  const demand = message(encodeVersion('2.0'), [query], [enumeration(tags.AsynchronousIndicator, 1)])
  t.deepEqual((await exchange(t, kms, credentials, demand)).reasons, ['FeatureNotSupported'])
})

test('a message that is broken inside gets a KMIP error, and the connection goes on', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const connection = await openRaw(t, kms, credentials)
  const good = request('1.2', [item('Query', [enumeration(tags.QueryFunction, 1)])])
  for (const broken of [
    structure(tags.RequestMessage, []),
    message(version, []),
    message(version, [structure(tags.BatchItem, [])]),
    message(version, [batchItem(10)], [integer(tags.BatchCount, 1)]),
  ]) {
    t.deepEqual((await send(connection, broken)).reasons, ['InvalidMessage'])
    t.deepEqual((await send(connection, good)).statuses, ['Success'])
  }
})

test('a long text of the client is not repeated at length', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const id = '😀'.repeat(5000)
  const answer = await exchange(
    t,
    kms,
    credentials,
    request('1.2', [item('Get', operationPayload('Get', { id }))]),
  )
  t.deepEqual(answer.reasons, ['ItemNotFound'])
  t.true((answer.items[0]?.message?.length ?? 0) < 400)
})

test('an attribute that holds key material is refused', async (t) => {
  const { kms, client, credentials } = await startWithClient(t)
  const { id } = await client.create()
  const key = native.KeyHandle.generate(32)
  const value = structure(tags.AttributeValue, [keyString(tags.KeyMaterial, key)])
  const attribute = structure(tags.Attribute, [textString(tags.AttributeName, 'x-Key'), value])
  const payload = [textString(tags.UniqueIdentifier, id), attribute]
  const connection = await openRaw(t, kms, credentials)
  const sent = request('1.2', [item('AddAttribute', payload)])
  const { message: answer } = await connection.request(encodeTtlv(sent), [key])
  t.like(decodeResponse(decodeTtlv(answer)).items, [{ reason: 'InvalidField' }])
  t.false((await client.getAttributes(id)).some(({ name }) => name === 'x-Key'))
  key.dispose()
})
