import test from 'ava'
import { settleBatch } from '../../src/kmip/batch.js'
import { encodedLength } from '../../src/kmip/ttlv/codec.js'
import type { KeyHandle } from '../../src/native/load.js'
import { refusal, startWithClient } from '../kms/running-kms.js'
import { exchange, item, operationPayload, request } from './raw-connection.js'

test('a batch works on all items and tells of each', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create()
  const [got, missing, attributes] = await client.batch([
    { operation: 'Get', request: { id } },
    { operation: 'Get', request: { id: 'nobody' } },
    { operation: 'GetAttributes', request: { id, names: ['State'] } },
  ])
  t.is(got.status, 'fulfilled')
  if (got.status === 'fulfilled') {
    t.is(got.value.id, id)
    got.value.key?.dispose()
  }
  t.like(missing, { status: 'rejected', reason: { code: 'VMSEAL_KMIP_OPERATION_FAILED' } })
  t.deepEqual(attributes, {
    status: 'fulfilled',
    value: { id, attributes: [{ name: 'State', value: 'PreActive' }] },
  })
  t.deepEqual(await client.batch([]), [])
})

test('100 keys in one message, each in its place', async (t) => {
  const { client } = await startWithClient(t)
  const made = await client.batch(Array.from({ length: 100 }, () => createRequest))
  const ids = made.flatMap((result) => (result.status === 'fulfilled' ? [result.value.id] : []))
  t.is(ids.length, 100)
  const single = new Map<string, KeyHandle>()
  for (const id of ids) single.set(id, (await client.get(id)).key)
  const results = await client.batch(ids.map((id) => ({ operation: 'Get' as const, request: { id } })))
  for (const [index, result] of results.entries()) {
    if (result.status === 'rejected') throw result.reason
    const { id, key } = result.value
    t.is(ids[index], id)
    if (!key) throw new Error('wrapped')
    t.true(single.get(id)?.equals(key))
    t.is(ids.filter((other) => single.get(other)?.equals(key)).length, 1)
    key.dispose()
  }
  for (const key of single.values()) key.dispose()
})

const createRequest = {
  operation: 'Create',
  request: {
    objectType: 'SymmetricKey',
    attributes: [
      { name: 'Cryptographic Algorithm', value: 'AES' },
      { name: 'Cryptographic Length', value: 256 },
      { name: 'Cryptographic Usage Mask', value: 12 },
    ],
  },
} as const

test('without another word a batch stops at the first failure', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create()
  const reason = await refusal(
    t,
    client.addAttributes(id, [
      { name: 'x-A', value: 'a' },
      { name: 'State', value: 'Active' },
      { name: 'x-B', value: 'b' },
    ]),
  )
  t.is(reason, 'PermissionDenied')
  t.deepEqual(
    (await client.getAttributes(id)).filter(({ name }) => name.startsWith('x-')),
    [{ name: 'x-A', index: 0, value: 'a' }],
  )
})

test('best effort adds what can be added and returns the refusals', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create()
  const failures = await client.tryAddAttributes(id, [
    { name: 'State', value: 'Active' },
    { name: 'x-B', value: 'b' },
  ])
  t.deepEqual(
    failures.map((error) => error.details.resultReason),
    ['PermissionDenied'],
  )
  t.is((await client.getAttributes(id, ['x-B'])).length, 1)
  t.deepEqual(await client.tryAddAttributes(id, []), [])
})

test('the ID placeholder carries a new key through its batch', async (t) => {
  const { client, kms, credentials } = await startWithClient(t)
  const answer = await exchange(
    t,
    kms,
    credentials,
    request('1.2', [item('Create', createPayload()), item('Activate', []), item('Get', [])]),
  )
  t.deepEqual(answer.statuses, ['Success', 'Success', 'Success'])
  const [id] = await client.locate({ state: 'Active' })
  t.truthy(id)
  const lonely = await exchange(t, kms, credentials, request('1.2', [item('Get', [])]))
  t.deepEqual(lonely.reasons, ['ItemNotFound'])
  const several = await exchange(
    t,
    kms,
    credentials,
    request('1.2', [item('Create', createPayload()), item('Locate', []), item('Get', [])]),
  )
  t.deepEqual(several.statuses, ['Success', 'Success', 'OperationFailed'], 'Locate found two: no placeholder')
})

function createPayload() {
  return operationPayload('Create', createRequest.request)
}

test('the maximum response size is kept, and nothing is done whose answer may not fit', async (t) => {
  const { client, kms, credentials } = await startWithClient(t)
  const { id } = await client.create()
  const sizes = { maximumResponseSize: 300 }
  const create = await exchange(t, kms, credentials, request('1.2', [item('Create', createPayload())], sizes))
  t.deepEqual(create.reasons, ['ResponseTooLarge'])
  t.deepEqual(await client.locate(), [id], 'no key was made')
  const gets = Array.from({ length: 5 }, () => item('Get', operationPayload('Get', { id })))
  const limited = await exchange(
    t,
    kms,
    credentials,
    request('1.2', gets, { maximumResponseSize: 900, batchErrorContinuation: 'Continue' }),
  )
  t.true(limited.statuses.includes('Success') && limited.reasons.includes('ResponseTooLarge'))
  t.is(limited.keys, limited.statuses.filter((status) => status === 'Success').length)
})

test('more items than allowed, and Undo, are refused as a whole', async (t) => {
  const { kms, credentials, client } = await startWithClient(t)
  const many = Array.from({ length: 1001 }, () => item('Create', createPayload()))
  const message = request('1.2', many)
  t.true(encodedLength(message) < 1024 * 1024)
  t.deepEqual((await exchange(t, kms, credentials, message)).reasons, ['InvalidMessage'])
  const undo = request('1.2', [item('Create', createPayload())], { batchErrorContinuation: 'Undo' })
  t.deepEqual((await exchange(t, kms, credentials, undo)).reasons, ['FeatureNotSupported'])
  t.deepEqual(await client.locate(), [], 'nothing was done')
})

test('an operation that the version lacks is not sent', async (t) => {
  const sent = settleBatch(
    [{ operation: 'DiscoverVersions', request: { versions: [] } }],
    { version: '1.0' },
    () => Promise.reject(new Error('sent')),
  )
  await t.throwsAsync(sent, { code: 'VMSEAL_KMIP_VERSION' })
})
