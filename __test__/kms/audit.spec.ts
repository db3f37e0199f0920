import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { AuditRecord } from '../../src/kms/audit-log.js'
import type { KmsOperation } from '../../src/kms/kms.js'
import { connect, refusal, startKms, temporaryDirectory } from './running-kms.js'

function lines(directory: string): AuditRecord[] {
  const text = readFileSync(join(directory, 'audit.log'), 'utf8')
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as AuditRecord)
}

test('every operation is recorded and announced, done or refused', async (t) => {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  const seen: KmsOperation[] = []
  kms.on('operation', (operation) => seen.push(operation))
  const client = await connect(t, kms, await kms.enrol('vcenter'))
  const { id } = await client.create()
  ;(await client.get(id)).key.dispose()
  await refusal(t, client.get('nobody'))
  await client.activate(id)
  const expected = [
    ['DiscoverVersions', undefined, 'Success'],
    ['Create', id, 'Success'],
    ['Get', id, 'Success'],
    ['Get', 'nobody', 'ItemNotFound'],
    ['Activate', id, 'Success'],
  ]
  t.deepEqual(
    seen.map(({ operation, keyId, result }) => [operation, keyId, result]),
    expected,
  )
  t.true(seen.every(({ clientName }) => clientName === 'vcenter'))
  const records = lines(directory)
  t.deepEqual(
    records.map(({ operation, keyId, result }) => [operation, keyId, result]),
    [['Enrol', undefined, 'Success'], ...expected],
  )
  for (const { client: name, clientKeyHash = '', time } of records) {
    t.is(name, 'vcenter')
    t.regex(clientKeyHash, /^[0-9a-f]{64}$/)
    t.is(new Date(time).toISOString(), time)
  }
})

test('a strange text of a client stays in its line', async (t) => {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  const client = await connect(t, kms, await kms.enrol('vcenter'))
  await refusal(t, client.get('a\n{"operation":"Destroy"}\u2028'))
  t.deepEqual(
    lines(directory).map(({ operation }) => operation),
    ['Enrol', 'DiscoverVersions', 'Get'],
  )
})
