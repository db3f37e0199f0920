/** Every operation, our client against our server, over TLS. */
import test from 'ava'
import { attributeValue } from '../../src/kmip/attributes.js'
import { cryptographicUsage } from '../../src/kmip/ttlv/enumerations.js'
import { isSince, protocolVersions } from '../../src/kmip/version.js'
import { connect, refusal, startKms, startWithClient } from '../kms/running-kms.js'

for (const version of protocolVersions)
  test(`the life of a key in KMIP ${version}`, async (t) => {
    const { client } = await startWithClient(t, { protocolVersions: [version] })
    t.is(client.version, version)
    const { id } = await client.create({ attributes: [{ name: 'x-Owner', value: 'test' }] })
    const first = await client.get(id, { state: true })
    t.like(first, { id, algorithm: 'AES', length: 256, state: 'PreActive' })
    const second = await client.get(id)
    t.true(first.key.equals(second.key), 'the same key each time')
    await client.activate(id)
    // Since 2.0 there are no indices.
    const at = (index: number) => (isSince(version, '2.0') ? {} : { index })
    t.deepEqual(await client.getAttributes(id, ['State', 'x-Owner']), [
      { name: 'State', value: 'Active' },
      { name: 'x-Owner', ...at(0), value: 'test' },
    ])
    t.deepEqual(await client.addAttribute(id, { name: 'x-Owner', value: 'again' }), {
      name: 'x-Owner',
      ...at(1),
      value: 'again',
    })
    t.deepEqual(await client.locate({ attributes: [{ name: 'x-Owner', value: 'again' }] }), [id])
    await client.revoke(id, 'CessationOfOperation', 'no longer needed')
    const attributes = await client.getAttributes(id)
    t.is(attributeValue(attributes, 'State'), 'Deactivated')
    t.deepEqual(attributeValue(attributes, 'Revocation Reason'), {
      RevocationReasonCode: 'CessationOfOperation',
      RevocationMessage: 'no longer needed',
    })
    await client.destroy(id)
    t.is(await refusal(t, client.get(id)), 'ItemNotFound')
    t.is(attributeValue(await client.getAttributes(id, ['State']), 'State'), 'Destroyed')
    t.deepEqual(await client.locate(), [])
    first.key.dispose()
    second.key.dispose()
  })

test('versions are agreed on: the highest of both sides', async (t) => {
  const { kms, client, credentials } = await startWithClient(t)
  t.is(client.version, '1.4')
  t.deepEqual(
    (await client.discoverVersions()).map(({ major, minor }) => `${major}.${minor}`),
    ['2.1', '2.0', '1.4', '1.3', '1.2', '1.1', '1.0'],
  )
  const second = await connect(t, kms, credentials, { protocolVersions })
  t.is(second.version, '2.1')
  const only = await connect(t, kms, credentials, { protocolVersions: ['2.0', '2.1'] })
  t.is(only.version, '2.1')
  const older = await connect(t, kms, credentials, { protocolVersions: ['1.0', '1.2', '1.1'] })
  t.is(older.version, '1.2')
  await t.throwsAsync(connect(t, kms, credentials, { protocolVersions: [] }), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
})

test('Query tells what is asked, in the terms of the version', async (t) => {
  const { kms, client, credentials } = await startWithClient(t)
  t.like(await client.query(), { objectTypes: ['SymmetricKey'], vendorIdentification: 'vmseal' })
  t.deepEqual(await client.query(['QueryServerInformation']), {
    operations: [],
    objectTypes: [],
    applicationNamespaces: [],
    vendorIdentification: 'vmseal',
  })
  const oldest = await connect(t, kms, credentials, { protocolVersions: ['1.0'] })
  const { operations } = await oldest.query(['QueryOperations'])
  t.true(operations.includes('AddAttribute'))
  t.false(operations.includes('DiscoverVersions'))
})

for (const length of [128, 192, 256])
  test(`a key of ${length} bits`, async (t) => {
    const { client } = await startWithClient(t)
    const usageMask = cryptographicUsage.WrapKey | cryptographicUsage.UnwrapKey
    const { id } = await client.create({ length, usageMask })
    const { key, ...rest } = await client.get(id)
    t.deepEqual(rest, { id, algorithm: 'AES', length })
    t.is(key.length, length / 8)
    key.dispose()
    t.is(attributeValue(await client.getAttributes(id), 'Cryptographic Usage Mask'), usageMask)
  })

test('refused: keys that are not made here', async (t) => {
  const { client } = await startWithClient(t)
  const refused = (options: Parameters<typeof client.create>[0]) => refusal(t, client.create(options))
  t.is(await refused({ length: 512 }), 'InvalidField')
  t.is(await refused({ length: -1 }), 'InvalidField')
  t.is(await refused({ algorithm: 'RSA' }), 'InvalidField')
  t.is(await refused({ usageMask: 0 }), 'InvalidField')
  t.is(await refused({ attributes: [{ name: 'State', value: 'Active' }] }), 'InvalidField')
  t.is(await refused({ attributes: [{ name: 'y-Server', value: 'x' }] }), 'InvalidField')
  t.is(await refused({ attributes: [{ name: 'Cryptographic Length', value: 128 }] }), 'InvalidField')
  t.is(await refused({ attributes: [{ name: 'Sensitive', value: true }] }), 'InvalidField')
  t.is(
    await refused({ attributes: [1, 2].map((n) => ({ name: 'Description', value: `${n}` })) }),
    'InvalidField',
  )
  t.is(await refused({ attributes: [{ name: 'x-Long', value: 'x'.repeat(20_000) }] }), 'InvalidField')
  const [other] = await client.batch([
    { operation: 'Create', request: { objectType: 'SecretData', attributes: [] } },
  ])
  t.is(other.status, 'rejected')
  t.deepEqual(await client.locate(), [], 'nothing was made')
})

test('names are unique among the keys of a client that are not destroyed', async (t) => {
  const { client } = await startWithClient(t)
  const name = { name: 'Name', value: { NameValue: 'db01', NameType: 'UninterpretedTextString' } }
  const { id } = await client.create({ attributes: [name] })
  t.is(await refusal(t, client.create({ attributes: [name] })), 'InvalidField')
  const second = await client.create()
  t.is(await refusal(t, client.addAttribute(second.id, name)), 'IllegalOperation')
  t.deepEqual(await client.locate({ name: 'db01' }), [id])
  await client.destroy(id)
  await client.addAttribute(second.id, name)
  t.deepEqual(await client.locate({ name: 'db01' }), [second.id])
})

test('refused: attributes that a client may not add', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create()
  const refused = (name: string, value: string | number | Date) =>
    refusal(t, client.addAttribute(id, { name, value }))
  t.is(await refused('State', 'Active'), 'PermissionDenied')
  t.is(await refused('Unique Identifier', 'mine'), 'PermissionDenied')
  t.is(await refused('Cryptographic Length', 128), 'PermissionDenied')
  t.is(await refused('y-Server', 'x'), 'PermissionDenied')
  t.is(await refused('Activation Date', new Date()), 'InvalidField')
  await client.addAttribute(id, { name: 'Contact Information', value: 'admin' })
  t.is(await refused('Contact Information', 'other'), 'IllegalOperation')
  await t.throwsAsync(client.addAttribute(id, { name: 'Nobody Knows', value: 1 }), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
  for (let n = 0; n < 255; n += 51)
    await client.addAttributes(
      id,
      Array.from({ length: 51 }, (_, i) => ({ name: `x-${n + i}`, value: 'x' })),
    )
  t.is(await refused('x-TooMany', 'x'), 'IllegalOperation')
})

test('every operation on a key that does not exist or is destroyed', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create()
  await client.destroy(id)
  for (const gone of ['nobody', id, '', '%', "' OR 1=1 --"]) {
    t.is(await refusal(t, client.get(gone)), 'ItemNotFound', gone)
    t.is(await refusal(t, client.activate(gone)), 'ItemNotFound', gone)
    t.is(await refusal(t, client.destroy(gone)), 'ItemNotFound', gone)
    t.is(await refusal(t, client.addAttribute(gone, { name: 'x-A', value: 1 })), 'ItemNotFound', gone)
    if (gone !== id) t.is(await refusal(t, client.getAttributes(gone)), 'ItemNotFound', gone)
  }
})

test('calls may overlap: each gets its own answer', async (t) => {
  const { client } = await startWithClient(t)
  const made = await Promise.all(Array.from({ length: 20 }, () => client.create()))
  const got = await Promise.all(made.map(({ id }) => client.get(id)))
  t.deepEqual(
    got.map(({ id }) => id),
    made.map(({ id }) => id),
  )
  t.is(new Set(made.map(({ id }) => id)).size, 20)
  for (const { key } of got) key.dispose()
})

test('a closed client and a stopped KMS are connection errors', async (t) => {
  const { kms, client, credentials } = await startWithClient(t)
  const { endpoint } = kms
  client.close()
  client.close()
  t.true(client.closed)
  await t.throwsAsync(client.create(), { code: 'VMSEAL_KMIP_CONNECTION' })
  const other = await connect(t, kms, credentials)
  await kms.stop()
  await t.throwsAsync(other.create(), { code: 'VMSEAL_KMIP_CONNECTION' })
  const late = await startKms(t)
  await t.throwsAsync(connect(t, late, credentials, { port: endpoint.port }), {
    code: 'VMSEAL_KMIP_CONNECTION',
  })
})
