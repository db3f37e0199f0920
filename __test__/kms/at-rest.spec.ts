import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import Database from 'libsql'
import type { VmsealError } from '../../src/errors.js'
import { native } from '../../src/native/load.js'
import { plainKey } from '../kmip/plain-key.js'
import { connect, refusal, startKms, startWithClient, temporaryDirectory } from './running-kms.js'

/** Four keys of one client and one of another, then `alter` while the KMS is down. */
async function altered(t: ExecutionContext, alter: (database: Database.Database, ids: string[]) => void) {
  const directory = temporaryDirectory(t)
  const first = await startKms(t, directory)
  const credentials = await first.enrol('vcenter')
  const client = await connect(t, first, credentials)
  const ids: string[] = []
  for (let n = 0; n < 4; n++) ids.push((await client.create()).id)
  const other = await connect(t, first, await first.enrol('other'))
  ids.push((await other.create()).id)
  await first.stop()
  const database = new Database(join(directory, 'kms.db'))
  alter(database, ids)
  database.close()
  const kms = await startKms(t, directory)
  return { client: await connect(t, kms, credentials), ids, kms }
}

const record = 'SELECT sealed FROM records WHERE key_id = ?'
const replace = 'UPDATE records SET sealed = ? WHERE key_id = ?'
const sealedOf = (database: Database.Database, id: string) =>
  Buffer.from((database.prepare(record).get(id) as { sealed: Buffer }).sealed)

test('records that were flipped, cut or swapped are refused by name; the others are not touched', async (t) => {
  const { client, ids } = await altered(t, (database, [flipped, swapped, partner, , foreign]) => {
    const bytes = sealedOf(database, flipped as string)
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] as number) ^ 1
    database.prepare(replace).run(bytes, flipped)
    database.prepare(replace).run(sealedOf(database, partner as string), swapped)
    database.prepare(replace).run(sealedOf(database, foreign as string).subarray(0, 20), partner)
  })
  const [flipped, swapped, cut, whole] = ids as [string, string, string, string]
  const results = await client.batch(
    [flipped, whole, swapped, cut].map((id) => ({ operation: 'Get', request: { id } }) as const),
  )
  t.deepEqual(
    results.map(({ status }) => status),
    ['rejected', 'fulfilled', 'rejected', 'rejected'],
  )
  for (const [index, id] of [flipped, undefined, swapped, cut].entries()) {
    const result = results[index]
    if (result?.status === 'fulfilled') result.value.key?.dispose()
    if (result?.status === 'rejected') {
      const { details, message } = result.reason as VmsealError
      t.deepEqual(details, { resultReason: 'CryptographicFailure' })
      t.true(message.includes(String(id)) && message.includes('VMSEAL_SEALED_RECORD_INVALID'), message)
    }
  }
})

test('every byte of a record counts', async (t) => {
  const root = native.KeyHandle.generate(32)
  const key = native.KeyHandle.generate(32)
  const aad = Buffer.from('aad')
  const sealed = native.sealRecord(root, key, aad)
  for (let at = 0; at < sealed.length; at++) {
    const bytes = Buffer.from(sealed)
    bytes[at] = (bytes[at] as number) ^ 0x80
    t.throws(
      () => native.openRecord(root, bytes, aad),
      { code: 'VMSEAL_SEALED_RECORD_INVALID' },
      `byte ${at}`,
    )
  }
  native.openRecord(root, sealed, aad).dispose()
})

test('attributes that a record is bound to cannot be changed beneath it', async (t) => {
  const { client, ids } = await altered(t, (database, [usage, length, gone, algorithm, foreign]) => {
    database.prepare('UPDATE keys SET usage_mask = 255 WHERE id = ?').run(usage)
    database.prepare('UPDATE keys SET length = 128 WHERE id = ?').run(length)
    database.prepare('DELETE FROM records WHERE key_id = ?').run(gone)
    database.prepare('UPDATE keys SET algorithm = 1 WHERE id = ?').run(algorithm)
    database.prepare("UPDATE keys SET owner = 'vcenter' WHERE id = ?").run(foreign)
  })
  for (const id of ids) t.is(await refusal(t, client.get(id)), 'CryptographicFailure', id)
})

test('a destroyed key leaves no record', async (t) => {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  const client = await connect(t, kms, await kms.enrol('vcenter'))
  const { id } = await client.create()
  const whole = () =>
    Buffer.concat(['kms.db', 'kms.db-wal'].map((name) => readFileSync(join(directory, name))))
  await kms.stop()
  const database = new Database(join(directory, 'kms.db'))
  const sealed = sealedOf(database, id)
  database.close()
  const again = await startKms(t, directory)
  const second = await connect(t, again, await again.enrol('vcenter'))
  t.true(whole().includes(sealed))
  await second.destroy(id)
  t.false(whole().includes(sealed))
})

test('the directory holds no key in the clear', async (t) => {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  const client = await connect(t, kms, await kms.enrol('vcenter'))
  const { id } = await client.create()
  const { key } = await client.get(id)
  const plain = await plainKey(key)
  t.is(plain.length, 32)
  key.dispose()
  const needles = [0, 16].flatMap((from) => {
    const half = plain.subarray(from, from + 16)
    return [half, Buffer.from(half.toString('hex')), Buffer.from(half.toString('base64').slice(0, 20))]
  })
  const files = readdirSync(directory, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  )
  t.true(files.length >= 8)
  for (const entry of files) {
    const content = readFileSync(join(entry.parentPath, entry.name))
    for (const needle of needles) t.false(content.includes(needle), entry.name)
  }
})

test.serial('keys are not left in memory by the KMS', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create()
  const before = native.keyMemoryStatus().allocations
  for (let n = 0; n < 20; n++) (await client.get(id)).key.dispose()
  await client.batch(
    Array.from({ length: 20 }, () => ({ operation: 'Get', request: { id: 'nobody' } }) as const),
  )
  for (let n = 0; n < 20; n++) await client.create()
  t.is(native.keyMemoryStatus().allocations, before)
})
