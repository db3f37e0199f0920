/** Our client and servers that answer otherwise than ours: a real TLS listener with answers from these tests. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { KmipClient } from '../../src/kmip/client.js'
import type { KmipClientOptions } from '../../src/kmip/client.js'
import { encodeResponseItem } from '../../src/kmip/messages.js'
import type { ResponseItem } from '../../src/kmip/messages.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { dumpTtlv } from '../../src/kmip/ttlv/dump.js'
import { collectKeys } from '../../src/kmip/ttlv/keys.js'
import {
  byteString,
  enumeration,
  integer,
  keyString,
  structure,
  textString,
} from '../../src/kmip/ttlv/node.js'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { encodeVersion } from '../../src/kmip/version.js'
import type { VersionNumber } from '../../src/kmip/version.js'
import { native } from '../../src/native/load.js'

type Answer = TtlvNode | undefined

/** Serves `answers` one after another; undefined closes the connection. What was asked is kept as text. */
async function serve(
  t: ExecutionContext,
  answers: Answer[],
): Promise<{ options: KmipClientOptions; asked: string[] }> {
  const directory = mkdtempSync(join(tmpdir(), 'vmseal-kmip-'))
  const file = (name: string) => join(directory, name)
  const caCertificate = native.createAuthority('test authority', file('ca.key'))
  const server = native.issueServerCertificate(
    caCertificate,
    file('ca.key'),
    ['127.0.0.1'],
    file('server.key'),
  )
  const certificate = native.issueClientCertificate(
    caCertificate,
    file('ca.key'),
    'client',
    file('client.key'),
  )
  const asked: string[] = []
  const listener = native.KmipListener.start(
    {
      host: '127.0.0.1',
      port: 0,
      certificate: server,
      privateKeyFile: file('server.key'),
      clientAuthorities: caCertificate,
      pinnedClients: [],
    },
    ({ id, message }) => {
      asked.push(dumpTtlv(decodeTtlv(message)))
      const next = answers.shift()
      if (!next) listener.refuse(id)
      else listener.reply(id, encodeTtlv(next), collectKeys(next))
    },
  )
  t.teardown(async () => {
    await listener.stop()
    rmSync(directory, { recursive: true })
  })
  const options = {
    host: '127.0.0.1',
    port: listener.port,
    caCertificate,
    certificate,
    privateKeyFile: file('client.key'),
    requestTimeoutMs: 3000,
  }
  return { options, asked }
}

async function connect(t: ExecutionContext, answers: Answer[], version: '1.0' | '1.2' = '1.2') {
  const { options } = await serve(t, answers)
  const client = await KmipClient.connect({ ...options, protocolVersions: [version] })
  t.teardown(() => client.close())
  return client
}

function answer(version: VersionNumber, ...items: ResponseItem[]): TtlvNode {
  return structure(tags.ResponseMessage, [
    structure(tags.ResponseHeader, [
      encodeVersion(version),
      { tag: tags.TimeStamp, type: 'DateTime', value: 0n },
      integer(tags.BatchCount, items.length),
    ]),
    ...items.map(encodeResponseItem),
  ])
}
const v10 = { major: 1, minor: 0 }
const v12 = { major: 1, minor: 2 }

function success(id: string, operation?: number, uniqueBatchItemId?: Uint8Array): ResponseItem {
  return {
    status: 'Success',
    payload: structure(tags.ResponsePayload, [textString(tags.UniqueIdentifier, id)]),
    ...(operation === undefined ? {} : { operation }),
    ...(uniqueBatchItemId ? { uniqueBatchItemId } : {}),
  }
}
const activations = ['1', '2', '3'].map((id) => ({ operation: 'Activate' as const, request: { id } }))
function itemId(index: number): Uint8Array {
  return Uint8Array.of(0, 0, 0, index)
}

function versionsAnswer(...versions: VersionNumber[]): TtlvNode {
  const payload = structure(tags.ResponsePayload, versions.map(encodeVersion))
  return answer({ major: 1, minor: 1 }, { operation: 0x1e, status: 'Success', payload })
}

test('the version: the highest in common, whatever the order', async (t) => {
  const { options, asked } = await serve(t, [
    versionsAnswer(v10, { major: 2, minor: 1 }, v12, { major: 1, minor: 1 }),
  ])
  const client = await KmipClient.connect(options)
  t.is(client.version, '1.2')
  t.true(asked[0]?.includes('ProtocolVersionMinor (Integer): 1\n    BatchCount'), 'asked in 1.1')
  client.close()
})

test('the version: a server without DiscoverVersions speaks 1.0', async (t) => {
  const refused = { status: 'OperationFailed', reason: 'OperationNotSupported', operation: 0x1e } as const
  const { options } = await serve(t, [answer({ major: 1, minor: 1 }, refused)])
  const client = await KmipClient.connect(options)
  t.is(client.version, '1.0')
  client.close()
})

test('the version: a server that refuses 1.1 answers in one that it speaks', async (t) => {
  const { options } = await serve(t, [answer(v12, { status: 'OperationFailed', reason: 'InvalidMessage' })])
  const client = await KmipClient.connect(options)
  t.is(client.version, '1.2')
  client.close()
})

test('the version: nothing in common', async (t) => {
  for (const reply of [
    versionsAnswer({ major: 2, minor: 0 }),
    versionsAnswer(),
    answer({ major: 2, minor: 0 }, { status: 'OperationFailed', reason: 'InvalidMessage' }),
  ]) {
    const { options } = await serve(t, [reply])
    await t.throwsAsync(KmipClient.connect(options), { code: 'VMSEAL_KMIP_VERSION' })
  }
})

test('answers without item ids, operations and in another minor version are matched by position', async (t) => {
  const client = await connect(t, [answer(v10, success('1'), success('2'), success('3'))])
  const results = await client.batch(activations)
  t.deepEqual(
    results.map((result) => result.status === 'fulfilled' && result.value.id),
    ['1', '2', '3'],
  )
})

test('answers with item ids are matched by them, in any order', async (t) => {
  const client = await connect(t, [
    answer(v12, success('3', 0x12, itemId(2)), success('1', 0x12, itemId(0)), success('2', 0x12, itemId(1))),
  ])
  const results = await client.batch(activations)
  t.deepEqual(
    results.map((result) => result.status === 'fulfilled' && result.value.id),
    ['1', '2', '3'],
  )
})

test('fewer answers than questions: the server stopped', async (t) => {
  const client = await connect(t, [
    answer(v12, success('1', 0x12, itemId(0)), {
      status: 'OperationFailed',
      reason: 'PermissionDenied',
      operation: 0x12,
      uniqueBatchItemId: itemId(1),
    }),
  ])
  const [first, second, third] = await client.batch(activations)
  t.is(first?.status, 'fulfilled')
  t.like(second, { reason: { details: { resultReason: 'PermissionDenied' } } })
  t.like(third, { status: 'rejected', reason: { code: 'VMSEAL_KMIP_OPERATION_FAILED', details: {} } })
})

test('one refusal of the whole message stands for every item', async (t) => {
  const whole = { status: 'OperationFailed', reason: 'InvalidMessage', message: 'cannot parse' } as const
  const client = await connect(t, [answer(v10, whole), answer(v10, whole)])
  for (const result of await client.batch(activations))
    t.like(result, { status: 'rejected', reason: { details: { resultReason: 'InvalidMessage' } } })
  const failures = await client.tryAddAttributes('1', [
    { name: 'x-A', value: 'a' },
    { name: 'x-B', value: 'b' },
  ])
  t.is(failures.length, 2)
})

test('refused: answers that fit no question', async (t) => {
  const client = await connect(t, [
    answer(v12, success('1', 0x14)),
    answer(v12, success('1', 0x12, itemId(0)), success('1', 0x12, itemId(0))),
    answer(v12, success('1', 0x12, itemId(9))),
    answer(v12, success('1', 0x12, Uint8Array.of(1))),
    answer(v12, success('1'), success('2'), success('3'), success('4')),
    answer(v12),
    answer(v12, { status: 'Success', operation: 0x12 }),
    answer(v12, { status: 'OperationPending', operation: 0x12 }),
  ])
  await t.throwsAsync(client.activate('1'), { code: 'VMSEAL_KMIP_MALFORMED' })
  for (let n = 0; n < 4; n++)
    await t.throwsAsync(client.batch(activations), { code: 'VMSEAL_KMIP_MALFORMED' })
  await t.throwsAsync(client.activate('1'), { code: 'VMSEAL_KMIP_OPERATION_FAILED' })
  await t.throwsAsync(client.activate('1'), { code: 'VMSEAL_KMIP_MALFORMED' })
  const pending = await t.throwsAsync(client.activate('1'), { code: 'VMSEAL_KMIP_OPERATION_FAILED' })
  t.true(pending?.message.includes('OperationPending'))
})

test('a reason that no table has is shown as a number', async (t) => {
  const client = await connect(t, [
    answer(v12, { status: 'OperationFailed', reason: 0x8000_0005, message: 'odd' }),
  ])
  const error = await t.throwsAsync(client.activate('1'), { code: 'VMSEAL_KMIP_OPERATION_FAILED' })
  t.true(error?.message.includes('0x80000005') && error.message.includes('odd'))
})

function getAnswer(keyBlock: TtlvNode[], objectType = 2): TtlvNode {
  const payload = structure(tags.ResponsePayload, [
    enumeration(tags.ObjectType, objectType),
    textString(tags.UniqueIdentifier, '1'),
    structure(tags.SymmetricKey, [structure(tags.KeyBlock, keyBlock)]),
  ])
  return answer(v12, { operation: 10, status: 'Success', payload })
}
function block(key: TtlvNode[], format = 1, length = 256): TtlvNode[] {
  return [
    enumeration(tags.KeyFormatType, format),
    structure(tags.KeyValue, key),
    enumeration(tags.CryptographicAlgorithm, 3),
    integer(tags.CryptographicLength, length),
  ]
}

test.serial('refused: keys that are not what they claim; none stays in memory', async (t) => {
  const key = native.KeyHandle.generate(32)
  const material = [keyString(tags.KeyMaterial, key)]
  const wrapping = structure(tags.KeyWrappingData, [enumeration(tags.WrappingMethod, 1)])
  const wrapped = [byteString(tags.KeyMaterial, Buffer.alloc(40, 1))]
  const client = await connect(t, [
    getAnswer(block(material, 1, 128)),
    getAnswer(block(material, 2)),
    getAnswer(block(material), 7),
    getAnswer(block([])),
    getAnswer([...block(wrapped), wrapping]),
    getAnswer(block(material)),
  ])
  const before = native.keyMemoryStatus().allocations
  for (let n = 0; n < 5; n++) await t.throwsAsync(client.get('1'), { code: 'VMSEAL_KMIP_MALFORMED' }, `${n}`)
  t.is(native.keyMemoryStatus().allocations, before)
  const { key: got } = await client.get('1')
  t.true(got.equals(key))
  got.dispose()
  key.dispose()
})

test('an answer that breaks off is a connection error', async (t) => {
  const client = await connect(t, [undefined])
  await t.throwsAsync(client.activate('1'), { code: 'VMSEAL_KMIP_CONNECTION' })
  t.true(client.closed)
})
