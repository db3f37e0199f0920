/** Operations beyond vCenter's: Register, ReKey, attributes, Check, Archive and Recover, wrapped Get. */
import test from 'ava'
import { attributeValue } from '../../src/kmip/attributes.js'
import type { KmipClient } from '../../src/kmip/client.js'
import type { BatchRequest } from '../../src/kmip/batch.js'
import type { KeyWrapping } from '../../src/kmip/operations/key-wrapping.js'
import type { RequestOf } from '../../src/kmip/operations/table.js'
import { native } from '../../src/native/load.js'
import { connect, refusal, startWithClient } from './running-kms.js'

/** One operation by itself. */
async function ask<const R extends BatchRequest>(client: KmipClient, request: R) {
  const [result] = await client.batch([request])
  if (result.status === 'rejected') throw result.reason
  return result.value
}

const named = (text: string) => ({
  name: 'Name',
  value: { NameValue: text, NameType: 'UninterpretedTextString' },
})

test('a registered key is that key', async (t) => {
  const { client } = await startWithClient(t)
  for (const length of [128, 192, 256]) {
    const key = native.KeyHandle.generate(length / 8)
    const attributes = [{ name: 'Cryptographic Usage Mask', value: 12 }, named(`k${length}`)]
    const { id } = await ask(client, {
      operation: 'Register',
      request: { key, algorithm: 'AES', length, attributes },
    })
    const got = await client.get(id)
    t.true(got.key.equals(key))
    t.deepEqual(await client.locate({ name: `k${length}` }), [id])
    got.key.dispose()
    key.dispose()
  }
})

test('refused: keys to register that contradict themselves', async (t) => {
  const { client } = await startWithClient(t)
  const mask = { name: 'Cryptographic Usage Mask', value: 12 }
  const cases: (Omit<RequestOf<'Register'>, 'key'> & { readonly bytes: number })[] = [
    { bytes: 32, algorithm: 'AES', length: 128, attributes: [mask] },
    { bytes: 32, algorithm: 'DES', length: 256, attributes: [mask] },
    { bytes: 32, algorithm: 'AES', length: 256, attributes: [] },
    {
      bytes: 32,
      algorithm: 'AES',
      length: 256,
      attributes: [mask, { name: 'Cryptographic Length', value: 128 }],
    },
    { bytes: 20, algorithm: 'AES', length: 160, attributes: [mask] },
    { bytes: 32, algorithm: 'AES', length: 256, attributes: [mask, { name: 'State', value: 'Active' }] },
  ]
  for (const { bytes, ...request } of cases) {
    const key = native.KeyHandle.generate(bytes)
    await t.throwsAsync(ask(client, { operation: 'Register', request: { key, ...request } }))
    key.dispose()
  }
  t.deepEqual(await client.locate(), [])
})

test('ReKey: another key, with name and attributes of the old one, linked both ways, once', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create({
    length: 192,
    attributes: [named('a'), { name: 'x-Tier', value: 'gold' }],
  })
  await client.activate(id)
  const next = await ask(client, { operation: 'ReKey', request: { id, offset: 0 } })
  const [old, replacement] = [await client.get(id), await client.get(next.id)]
  t.false(old.key.equals(replacement.key))
  t.is(replacement.length, 192)
  old.key.dispose()
  replacement.key.dispose()
  t.deepEqual(await client.locate({ name: 'a' }), [next.id])
  const [before, after] = [await client.getAttributes(id), await client.getAttributes(next.id)]
  t.is(attributeValue(after, 'State') as string, 'Active')
  t.is(attributeValue(after, 'x-Tier') as string, 'gold')
  t.is(attributeValue(before, 'Name'), undefined)
  t.deepEqual(attributeValue(after, 'Link'), { LinkType: 'ReplacedObjectLink', LinkedObjectIdentifier: id })
  t.deepEqual(attributeValue(before, 'Link'), {
    LinkType: 'ReplacementObjectLink',
    LinkedObjectIdentifier: next.id,
  })
  t.is(await refusal(t, ask(client, { operation: 'ReKey', request: { id } })), 'IllegalOperation')
  const third = await ask(client, { operation: 'ReKey', request: { id: next.id } })
  t.is(attributeValue(await client.getAttributes(third.id), 'State') as string, 'PreActive')
  const other = await client.create()
  t.is(
    await refusal(t, ask(client, { operation: 'ReKey', request: { id: other.id, offset: 60 } })),
    'InvalidField',
  )
  t.is((await client.locate()).length, 4, 'what is refused makes nothing')
})

test('attributes are modified and deleted by their index', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create({ attributes: [named('a')] })
  for (const value of ['one', 'two']) await client.addAttribute(id, { name: 'x-A', value })
  const modify = (attribute: { name: string; index?: number; value: string }) =>
    ask(client, { operation: 'ModifyAttribute', request: { id, attribute } })
  const remove = (name: string, index?: number) =>
    ask(client, {
      operation: 'DeleteAttribute',
      request: { id, name, ...(index === undefined ? {} : { index }) },
    })
  await modify({ name: 'x-A', index: 1, value: 'deux' })
  await modify({ name: 'x-A', value: 'un' })
  const values = async () => (await client.getAttributes(id, ['x-A'])).map(({ value }) => value)
  t.deepEqual(await values(), ['un', 'deux'])
  t.is(await refusal(t, modify({ name: 'x-A', index: 2, value: 'trois' })), 'ItemNotFound')
  t.is(await refusal(t, modify({ name: 'x-B', value: 'x' })), 'ItemNotFound')
  t.is(await refusal(t, modify({ name: 'y-A', value: 'x' })), 'PermissionDenied')
  t.is(await refusal(t, remove('State')), 'PermissionDenied')
  t.is(await refusal(t, remove('Cryptographic Usage Mask')), 'PermissionDenied')
  await remove('x-A')
  t.deepEqual(await values(), ['deux'])
  await remove('x-A', 1)
  t.deepEqual(await values(), [])
  t.is(await refusal(t, remove('x-A')), 'ItemNotFound')
  const { names } = await ask(client, { operation: 'GetAttributeList', request: { id } })
  t.true(names.includes('State') && names.includes('Name') && !names.includes('x-A'))
  t.is(new Set(names).size, names.length)
})

test('a name that is modified stays unique', async (t) => {
  const { client } = await startWithClient(t)
  await client.create({ attributes: [named('a')] })
  const { id } = await client.create({ attributes: [named('b')] })
  const modify = (text: string) =>
    ask(client, { operation: 'ModifyAttribute', request: { id, attribute: named(text) } })
  t.is(await refusal(t, modify('a')), 'IllegalOperation')
  t.deepEqual(await client.locate({ name: 'b' }), [id], 'as it was')
  await modify('b')
  await modify('c')
  t.deepEqual(await client.locate({ name: 'c' }), [id])
})

test('2.1: an attribute is set and adjusted', async (t) => {
  const { client } = await startWithClient(t, { protocolVersions: ['2.1'] })
  const { id } = await client.create()
  const set = (name: string, value: string | number | boolean) =>
    ask(client, { operation: 'SetAttribute', request: { id, attribute: { name, value } } })
  const adjust = (name: string, type: 'Increment' | 'Decrement' | 'Negate', value?: number) =>
    ask(client, {
      operation: 'AdjustAttribute',
      request: { id, name, type, ...(value === undefined ? {} : { value }) },
    })
  const value = async (name: string) => attributeValue(await client.getAttributes(id, [name]), name)
  await set('Description', 'one')
  await set('Description', 'two')
  t.is((await value('Description')) as string, 'two')
  await set('x-Count', 5)
  await adjust('x-Count', 'Increment', 3)
  await adjust('x-Count', 'Decrement')
  t.is((await value('x-Count')) as number, 7)
  await set('x-Flag', true)
  await adjust('x-Flag', 'Negate')
  t.is((await value('x-Flag')) as boolean, false)
  t.is(await refusal(t, set('State', 'Active')), 'PermissionDenied')
  t.is(await refusal(t, adjust('x-Flag', 'Increment')), 'InvalidField')
  t.is(await refusal(t, adjust('x-None', 'Increment')), 'ItemNotFound')
  await set('x-Count', 2_147_483_647)
  t.is(await refusal(t, adjust('x-Count', 'Increment')), 'InvalidField')
  t.is((await value('x-Count')) as number, 2_147_483_647)
})

test('Check names what the key is not for', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create({ usageMask: 12 })
  t.deepEqual(await ask(client, { operation: 'Check', request: { id, usageMask: 4 } }), { id })
  t.deepEqual(await ask(client, { operation: 'Check', request: { id, usageMask: 0x1c } }), {
    id,
    usageMask: 0x10,
  })
  t.is(await refusal(t, ask(client, { operation: 'Check', request: { id: 'nobody' } })), 'ItemNotFound')
})

test('an archived key is found by its storage status alone, and not given out', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create()
  await ask(client, { operation: 'Archive', request: { id } })
  t.is(await refusal(t, client.get(id)), 'ObjectArchived')
  t.is(await refusal(t, client.activate(id)), 'ObjectArchived')
  t.is(await refusal(t, client.addAttribute(id, { name: 'x-A', value: 'a' })), 'ObjectArchived')
  t.is(await refusal(t, ask(client, { operation: 'Archive', request: { id } })), 'ObjectArchived')
  t.is(await refusal(t, ask(client, { operation: 'ReKey', request: { id } })), 'ObjectArchived')
  t.true(attributeValue(await client.getAttributes(id), 'Archive Date') instanceof Date)
  const found = async (storageStatusMask: number) =>
    (await ask(client, { operation: 'Locate', request: { attributes: [], storageStatusMask } })).ids
  t.deepEqual(await client.locate(), [])
  t.deepEqual([await found(1), await found(2), await found(3), await found(4)], [[], [id], [id], []])
  await ask(client, { operation: 'Recover', request: { id } })
  await ask(client, { operation: 'Recover', request: { id } })
  ;(await client.get(id)).key.dispose()
  t.deepEqual(await client.locate(), [id])
})

test('a key leaves wrapped under an active wrapping key', async (t) => {
  const { client } = await startWithClient(t)
  const wrappingKeyId = (await client.create({ usageMask: 0x30 })).id
  const { id } = await client.create()
  const wrapped = (changes: Partial<KeyWrapping> = {}) =>
    ask(client, {
      operation: 'Get',
      request: {
        id,
        wrapping: {
          method: 'Encrypt',
          wrappingKeyId,
          blockCipherMode: 'NISTKeyWrap',
          encodingOption: 'NoEncoding',
          ...changes,
        },
      },
    })
  t.is(await refusal(t, wrapped()), 'PermissionDenied', 'not active yet')
  await client.activate(wrappingKeyId)
  const [plain, kek] = [await client.get(id), await client.get(wrappingKeyId)]
  for (const [blockCipherMode, unwrap] of [
    ['NISTKeyWrap', native.unwrapKey],
    ['AESKeyWrapPadding', native.unwrapKeyPadded],
  ] as const) {
    const answer = await wrapped({ blockCipherMode })
    t.is(answer.wrapped?.length, 40)
    const key = unwrap(kek.key, answer.wrapped as Uint8Array)
    t.true(key.equals(plain.key))
    key.dispose()
  }
  const refusals: [Partial<KeyWrapping>, string][] = [
    [{ wrappingKeyId: 'nobody' }, 'ItemNotFound'],
    [{ wrappingKeyId: id }, 'PermissionDenied'],
    [{ method: 'MACSign' }, 'FeatureNotSupported'],
    [{ blockCipherMode: 'CBC' }, 'FeatureNotSupported'],
    [{ encodingOption: 'TTLVEncoding' }, 'EncodingOptionError'],
    [{ algorithm: 'RSA' }, 'FeatureNotSupported'],
    [{ paddingMethod: 'OAEP' }, 'FeatureNotSupported'],
    [{ hashingAlgorithm: 'SHA256' }, 'FeatureNotSupported'],
  ]
  for (const [change, reason] of refusals) t.is(await refusal(t, wrapped(change)), reason)
  plain.key.dispose()
  kek.key.dispose()
})

test('RSA-OAEP is refused by name: no key leaves wrapped otherwise than it was asked for', async (t) => {
  const { client } = await startWithClient(t)
  const wrappingKeyId = (await client.create({ usageMask: 0x30 })).id
  await client.activate(wrappingKeyId)
  const { id } = await client.create()
  const error = await t.throwsAsync(
    client.getWrapped(id, wrappingKeyId, { paddingMethod: 'OAEP', hashingAlgorithm: 'SHA256' }),
  )
  t.like(error, {
    code: 'VMSEAL_KMIP_OPERATION_FAILED',
    details: { resultReason: 'FeatureNotSupported' },
  })
})

test('refused: a wrapping key of another client', async (t) => {
  const { kms, client } = await startWithClient(t)
  const other = await connect(t, kms, await kms.enrol('other'))
  const wrappingKeyId = (await other.create({ usageMask: 0x30 })).id
  await other.activate(wrappingKeyId)
  const { id } = await client.create()
  const wrapping = { method: 'Encrypt', wrappingKeyId, encodingOption: 'NoEncoding' } as const
  t.is(await refusal(t, ask(client, { operation: 'Get', request: { id, wrapping } })), 'ItemNotFound')
})
