/**
 * What vCenter does, each step on a connection of its own: requests in KMIP 1.1 with item ids of 8 bytes
 * (`QLKC` and a little-endian counter), no Name, attributes added afterwards in batches of three.
 */
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { encodeRequest } from '../../src/kmip/messages.js'
import { operationTable } from '../../src/kmip/operations/table.js'
import type { ResponseOf } from '../../src/kmip/operations/table.js'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'
import { StructureReader } from '../../src/kmip/ttlv/reader.js'
import type { KmipConnection } from '../../src/native/load.js'
import type { Kms, KmsCredentials } from '../../src/kms/kms.js'
import { item, openRaw, operationPayload, send } from '../kmip/raw-connection.js'
import type { RawItem } from '../kmip/raw-connection.js'
import { connect, startKms } from './running-kms.js'

function quintessenceId(counter: number): Uint8Array {
  const id = Buffer.from('QLKC\0\0\0\0')
  id.writeUInt32LE(counter, 4)
  return new Uint8Array(id)
}

async function ask(t: ExecutionContext, connection: KmipConnection, ...items: RawItem[]) {
  const numbered = items.map((one, index) => ({ ...one, uniqueBatchItemId: quintessenceId(index + 1) }))
  const answer = await send(connection, encodeRequest({ header: { version: '1.1' }, items: numbered }))
  t.deepEqual(answer.version, { major: 1, minor: 1 })
  t.deepEqual(
    answer.items.map(({ uniqueBatchItemId }) => uniqueBatchItemId),
    numbered.map(({ uniqueBatchItemId }) => uniqueBatchItemId),
    'ids are repeated',
  )
  for (const status of answer.statuses) t.is(status, 'Success')
  return answer
}

/** A new connection; DiscoverVersions without an item id opens it. */
async function open(t: ExecutionContext, kms: Kms, credentials: KmsCredentials): Promise<KmipConnection> {
  const connection = await openRaw(t, kms, credentials)
  const discover = item('DiscoverVersions', [])
  const answer = await send(connection, encodeRequest({ header: { version: '1.1' }, items: [discover] }))
  t.deepEqual(answer.statuses, ['Success'])
  t.is(answer.items[0]?.uniqueBatchItemId, undefined)
  return connection
}

function attributesOf(payload: TtlvNode | undefined): ResponseOf<'GetAttributes'>['attributes'] {
  return operationTable.GetAttributes.decodeResponse(new StructureReader(payload as TtlvNode), '1.1')
    .attributes
}

async function tag(
  t: ExecutionContext,
  connection: KmipConnection,
  id: string,
  values: Record<string, string>,
) {
  for (const name of Object.keys(values)) {
    const payload = operationPayload('GetAttributes', { id, names: [name] })
    const { items } = await ask(t, connection, item('GetAttributes', payload))
    t.deepEqual(attributesOf(items[0]?.payload), [], 'an unknown name is left out')
  }
  const added = Object.entries(values).map(([name, value]) =>
    item('AddAttribute', operationPayload('AddAttribute', { id, attribute: { name, value } })),
  )
  await ask(t, connection, ...added)
}

test('H2: the whole conversation of vCenter for a new key', async (t) => {
  const kms = await startKms(t)
  const credentials = await kms.enrol('vcenter')

  const health = await open(t, kms, credentials)
  await ask(t, health, item('DiscoverVersions', []))
  await ask(t, health, item('Query', operationPayload('Query', { functions: ['QueryServerInformation'] })))
  health.close()

  const creation = await open(t, kms, credentials)
  const made = await ask(
    t,
    creation,
    item(
      'Create',
      operationPayload('Create', {
        objectType: 'SymmetricKey',
        attributes: [
          { name: 'Cryptographic Algorithm', value: 'AES' },
          { name: 'Cryptographic Usage Mask', value: 12 },
          { name: 'Cryptographic Length', value: 256 },
        ],
      }),
    ),
  )
  const { id } = operationTable.Create.decodeResponse(
    new StructureReader(made.items[0]?.payload as TtlvNode),
    '1.1',
  )
  creation.close()

  const product = await open(t, kms, credentials)
  await tag(t, product, id, {
    'x-Product_Version': '7.0.3 build-19480866',
    'x-Vendor': 'VMware, Inc.',
    'x-Product': 'VMware vSphere',
  })
  product.close()

  const fetching = await open(t, kms, credentials)
  const got = await ask(t, fetching, item('Get', operationPayload('Get', { id })))
  t.is(got.keys, 1, 'a Pre-Active key is given out')
  const state = await ask(
    t,
    fetching,
    item('GetAttributes', operationPayload('GetAttributes', { id, names: ['State'] })),
  )
  t.deepEqual(attributesOf(state.items[0]?.payload), [{ name: 'State', value: 'PreActive' }])
  await ask(t, fetching, item('Activate', operationPayload('Activate', { id })))
  fetching.close()

  const owner = await open(t, kms, credentials)
  await tag(t, owner, id, {
    'x-Component': 'Virtual Machine',
    'x-Name': 'db01',
    'x-Identifier': '421c7f0a-0000-4000-8000-00000000db01',
  })
  owner.close()

  const client = await connect(t, kms, credentials)
  t.deepEqual(await client.locate(), [id], 'one key, and no more')
  t.deepEqual(await client.locate({ attributes: [{ name: 'x-Name', value: 'db01' }] }), [id])
  t.is((await client.getAttributes(id)).filter(({ name }) => name.startsWith('x-')).length, 6)
  const first = await client.get(id, { state: true })
  t.is(first.state, 'Active')
  first.key.dispose()
})
