import test from 'ava'
import type { Attribute } from '../../src/kmip/attributes.js'
import { connect, startWithClient } from './running-kms.js'

const name = (text: string): Attribute => ({
  name: 'Name',
  value: { NameValue: text, NameType: 'UninterpretedTextString' },
})

test('every filter must match', async (t) => {
  const { client } = await startWithClient(t)
  const a = (await client.create({ length: 128, attributes: [name('a'), { name: 'x-Tier', value: 'gold' }] }))
    .id
  const b = (
    await client.create({ usageMask: 4, attributes: [name('b'), { name: 'x-Tier', value: 'gold' }] })
  ).id
  const c = (await client.create()).id
  await client.activate(b)
  const found = (...attributes: Attribute[]) => client.locate({ attributes })

  t.deepEqual(await client.locate(), [a, b, c], 'in the order in which they were made')
  t.deepEqual(await client.locate({ name: 'a' }), [a])
  t.deepEqual(await client.locate({ state: 'Active' }), [b])
  t.deepEqual(await client.locate({ objectType: 'SymmetricKey' }), [a, b, c])
  t.deepEqual(await found({ name: 'x-Tier', value: 'gold' }), [a, b])
  t.deepEqual(await found({ name: 'x-Tier', value: 'gold' }, { name: 'State', value: 'PreActive' }), [a])
  t.deepEqual(await found({ name: 'Cryptographic Length', value: 128 }), [a])
  t.deepEqual(await found({ name: 'Cryptographic Usage Mask', value: 4 }), [a, b, c], 'all bits of the mask')
  t.deepEqual(await found({ name: 'Cryptographic Usage Mask', value: 8 }), [a, c])
  t.deepEqual(await found({ name: 'Unique Identifier', value: c }), [c])
  t.deepEqual(await found({ name: 'Cryptographic Algorithm', value: 'AES' }), [a, b, c])
})

const at = (seconds: number): Attribute => ({
  name: 'Initial Date',
  value: new Date(Date.now() + seconds * 1000),
})

test('dates: one is exact, two are a range', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create()
  t.deepEqual(await client.locate({ attributes: [at(-60), at(60)] }), [id])
  t.deepEqual(await client.locate({ attributes: [at(60), at(120)] }), [])
  t.deepEqual(await client.locate({ attributes: [at(-3600)] }), [])
})

test('what is unknown, unread or absent matches nothing, never everything', async (t) => {
  const { kms, client, credentials } = await startWithClient(t)
  await client.create({ attributes: [name('a'), { name: 'Description', value: 'first' }] })
  const none: Attribute[] = [
    name('b'),
    { name: 'Name', value: { NameValue: 'a', NameType: 'URI' } },
    { name: 'x-Nothing', value: 'x' },
    { name: 'y-Server', value: 'x' },
    { name: 'Object Type', value: 'Certificate' },
    { name: 'Cryptographic Algorithm', value: 77 },
    { name: 'Operation Policy Name', value: 'default' },
    { name: 'Sensitive', value: false },
    { name: 'Object Group', value: 'a' },
    { ...name('a'), index: 7 },
    { name: 'Name', value: { NameValue: "' OR '1'='1", NameType: 'UninterpretedTextString' } },
  ]
  for (const attribute of none)
    t.deepEqual(await client.locate({ attributes: [attribute] }), [], attribute.name)
  t.deepEqual(await client.locate({ attributes: [name('a'), name('b')] }), [])
  t.is((await client.locate({ attributes: [{ name: 'Description', value: 'first' }] })).length, 1)
  const [group, offline] = await client.batch([
    { operation: 'Locate', request: { attributes: [], objectGroupMember: 'GroupMemberFresh' } },
    { operation: 'Locate', request: { attributes: [], storageStatusMask: 2 } },
  ])
  t.deepEqual(
    [group, offline].map((result) => result.status === 'fulfilled' && result.value.ids),
    [[], []],
  )
  const older = await connect(t, kms, credentials, { protocolVersions: ['1.2'] })
  await t.throwsAsync(older.locate({ attributes: [{ name: 'Description', value: 'first' }] }), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
})

test('pages', async (t) => {
  const { client } = await startWithClient(t)
  const ids: string[] = []
  for (let n = 0; n < 5; n++) ids.push((await client.create()).id)
  t.deepEqual(await client.locate({ maximumItems: 2 }), ids.slice(0, 2))
  t.deepEqual(await client.locate({ maximumItems: 2, offsetItems: 3 }), ids.slice(3))
  t.deepEqual(await client.locate({ maximumItems: 0 }), [])
  const [page] = await client.batch([{ operation: 'Locate', request: { attributes: [], maximumItems: 2 } }])
  t.is(page.status === 'fulfilled' && page.value.locatedItems, 5)
})

test('destroyed keys are found by their state alone', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create({ attributes: [name('a')] })
  await client.destroy(id)
  t.deepEqual(await client.locate({ name: 'a' }), [])
  t.deepEqual(await client.locate({ state: 'Destroyed' }), [id])
})
