import { createHash } from 'node:crypto'
import { dirname, join } from 'node:path'
import test from 'ava'
import { attributeValue, nameValue } from '../../src/kmip/attributes.js'
import { KmipClient } from '../../src/kmip/client.js'
import { connect, refusal, startWithClient } from '../kms/running-kms.js'
import { plainKey } from './plain-key.js'
import { hasPyKmip, runPyKmipClient, startPyKmip } from './pykmip.js'

test.serial("H1: our client at PyKMIP's server", async (t) => {
  if (!hasPyKmip(t)) return
  const options = await startPyKmip(t)
  const client = await KmipClient.connect(options)
  t.teardown(() => client.close())
  t.is(client.version, '1.4')
  t.true((await client.query()).operations.includes('Create'))

  const { id } = await client.create({ attributes: [{ name: 'Name', value: nameValue('vmseal-1') }] })
  const first = await client.get(id, { state: true })
  t.like(first, { algorithm: 'AES', length: 256, state: 'PreActive' })
  await client.activate(id)
  t.is(await refusal(t, client.activate(id)), 'PermissionDenied')
  const again = await client.get(id)
  t.true(again.key.equals(first.key))
  first.key.dispose()
  again.key.dispose()

  const attributes = await client.getAttributes(id)
  t.is(attributeValue(attributes, 'State'), 'Active')
  t.is(attributeValue(attributes, 'Cryptographic Usage Mask'), 12)
  t.deepEqual(await client.getAttributes(id, ['x-Vendor']), [])
  t.deepEqual(await client.locate({ name: 'vmseal-1' }), [id])
  t.deepEqual(await client.locate({ name: 'vmseal-2' }), [])

  // It has no AddAttribute and answers the whole batch with one refusal: that costs the attributes, not the key.
  const failures = await client.tryAddAttributes(id, [
    { name: 'x-Vendor', value: 'vmseal' },
    { name: 'x-Name', value: 'db01' },
  ])
  t.is(failures.length, 2)
  t.true(failures.every(({ code }) => code === 'VMSEAL_KMIP_OPERATION_FAILED'))

  const other = client.closed ? await KmipClient.connect(options) : client
  const batch = await other.batch([
    { operation: 'Get', request: { id } },
    { operation: 'Get', request: { id: '999' } },
    { operation: 'GetAttributes', request: { id, names: ['State'] } },
  ])
  t.deepEqual(
    batch.map(({ status }) => status),
    ['fulfilled', 'rejected', 'fulfilled'],
  )
  if (batch[0].status === 'fulfilled') batch[0].value.key?.dispose()
  t.is(await refusal(t, other.destroy(id)), 'PermissionDenied')
  await other.revoke(id, 'CessationOfOperation')
  await other.destroy(id)
  t.is(await refusal(t, other.get(id)), 'ItemNotFound')
  other.close()
})

for (const version of ['1.0', '1.1', '1.2', '1.3', '1.4', '2.0'])
  test.serial(`H1: PyKMIP's client at our server, KMIP ${version}`, async (t) => {
    if (!hasPyKmip(t)) return
    const { kms, credentials } = await startWithClient(t)
    const issued = dirname(credentials.privateKeyFile)
    const seen = await runPyKmipClient({
      ...kms.endpoint,
      certificate: join(issued, 'client.pem'),
      key: credentials.privateKeyFile,
      ca: join(issued, 'ca.pem'),
      version: `KMIP_${version.replace('.', '_')}`,
    })
    const { id, kept, digest, ...rest } = seen
    t.deepEqual(rest, {
      length: 256,
      same: true,
      state: ['PRE_ACTIVE'],
      activated_again: 'PERMISSION_DENIED',
      destroy_active: 'PERMISSION_DENIED',
      located: [id],
      located_none: [],
      destroyed: 'ITEM_NOT_FOUND',
      unknown: 'ITEM_NOT_FOUND',
    })
    const client = await connect(t, kms, credentials)
    const { key } = await client.get(String(kept))
    t.is(
      createHash('sha256')
        .update(await plainKey(key))
        .digest('hex'),
      String(digest),
      'both have the same key',
    )
    key.dispose()
  })
