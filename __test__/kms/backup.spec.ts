import { copyFileSync, existsSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { Kms } from '../../src/kms/kms.js'
import { connect, startKms, temporaryDirectory } from './running-kms.js'

const passphrase = () => new TextEncoder().encode('a backup passphrase')

async function backedUp(t: ExecutionContext, sealing?: Uint8Array) {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  const credentials = await kms.enrol('vcenter', { directory: temporaryDirectory(t) })
  const client = await connect(t, kms, credentials)
  const { id } = await client.create({ attributes: [{ name: 'x-Name', value: 'db01' }] })
  await client.activate(id)
  const file = join(temporaryDirectory(t), 'kms.backup')
  await kms.backup(file, sealing)
  return { directory, kms, credentials, client, id, file }
}

test('a restored KMS has the keys, attributes, clients and authority, and its audit log goes on', async (t) => {
  const { kms, credentials, client, id, file } = await backedUp(t, passphrase())
  const later = (await client.create()).id
  const before = await client.get(id)
  const attributes = await client.getAttributes(id)
  await kms.stop()
  t.is(statSync(file).mode & 0o777, 0o600)

  const directory = join(temporaryDirectory(t), 'restored')
  await Kms.restore(file, { directory, passphrase: passphrase() })
  for (const name of ['ca.key', 'root.key', 'kms.db'])
    t.is(statSync(join(directory, name)).mode & 0o777, 0o600, name)
  t.true((await Kms.verifyAudit(directory)).ok)
  const restored = await startKms(t, directory)
  t.deepEqual(await restored.verify(), { keys: 1, ok: true, broken: [] })
  const again = await connect(t, restored, credentials)
  const after = await again.get(id)
  t.true(after.key.equals(before.key))
  before.key.dispose()
  after.key.dispose()
  t.deepEqual(await again.getAttributes(id), attributes)
  await t.throwsAsync(again.get(later), { code: 'VMSEAL_KMIP_OPERATION_FAILED' })
  await again.create()
  t.like(await Kms.verifyAudit(directory), { ok: true, headChecked: false })
  await restored.stop()
  t.like(await Kms.verifyAudit(directory), { ok: true, headChecked: true })
})

test('without a passphrase the root key opens the backup', async (t) => {
  const { directory, credentials, id, file } = await backedUp(t)
  const rootKeyFile = join(temporaryDirectory(t), 'root.key')
  copyFileSync(join(directory, 'root.key'), rootKeyFile)
  const target = temporaryDirectory(t)
  await t.throwsAsync(Kms.restore(file, { directory: target }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  const other = temporaryDirectory(t)
  await (await startKms(t, other)).stop()
  const error = await t.throwsAsync(
    Kms.restore(file, { directory: target, rootKeyFile: join(other, 'root.key') }),
    { code: 'VMSEAL_INVALID_ARGUMENT' },
  )
  t.like(error, { details: { subject: 'rootKeyFile' } })
  t.deepEqual(readdirSync(target), [])
  await Kms.restore(file, { directory: target, rootKeyFile })
  const restored = await startKms(t, target)
  ;(await (await connect(t, restored, credentials)).get(id)).key.dispose()
  t.notDeepEqual(readFileSync(join(target, 'root.key')), readFileSync(rootKeyFile), 'a root key of its own')
})

test('refused: every altered place, a cut file, something else; nothing is left behind', async (t) => {
  const { directory: source, file } = await backedUp(t)
  const rootKeyFile = join(source, 'root.key')
  const whole = readFileSync(file)
  const header = whole.indexOf(10)
  const directory = temporaryDirectory(t)
  const altered = join(temporaryDirectory(t), 'altered')
  const places = [0, 3, 40, header - 30, header, header + 1, header + 40, header + 5000, whole.length - 1]
  const files = places.map((at) => {
    const bytes = Buffer.from(whole)
    bytes[at] = (bytes[at] as number) ^ 1
    return bytes
  })
  files.push(
    whole.subarray(0, -1),
    whole.subarray(0, header + 1),
    whole.subarray(0, header),
    Buffer.from('{}\n'),
  )
  files.push(Buffer.alloc(0), Buffer.concat([whole, Buffer.from('x')]), Buffer.alloc(200_000, 0x61))
  for (const [index, bytes] of files.entries()) {
    writeFileSync(altered, bytes)
    const error = await t.throwsAsync(
      Kms.restore(altered, { directory, rootKeyFile }),
      undefined,
      String(index),
    )
    t.regex(
      (error as unknown as { code: string }).code,
      /^VMSEAL_(STORE_INVALID|INVALID_ARGUMENT)$/,
      String(index),
    )
    t.deepEqual(readdirSync(directory), [], String(index))
  }
})

test('refused: a wrong passphrase, a directory in use, a file that exists', async (t) => {
  const { kms, directory, file } = await backedUp(t, passphrase())
  const target = temporaryDirectory(t)
  for (const wrong of [new TextEncoder().encode('another'), undefined])
    t.like(
      await t.throwsAsync(Kms.restore(file, { directory: target, ...(wrong ? { passphrase: wrong } : {}) }), {
        code: 'VMSEAL_INVALID_ARGUMENT',
      }),
      { details: { subject: 'passphrase' } },
    )
  t.deepEqual(readdirSync(target), [])
  await t.throwsAsync(Kms.restore(file, { directory, passphrase: passphrase() }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  t.true(existsSync(join(directory, 'kms.db')))
  await t.throwsAsync(kms.backup(file, passphrase()), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(Kms.restore(join(target, 'nothing'), { directory: target }), {
    code: 'VMSEAL_NOT_FOUND',
  })
  t.deepEqual(
    readdirSync(directory).filter((name) => name.startsWith('backup')),
    [],
    'no rest',
  )
})

test('a store under a passphrase needs one for its backup, and can get another one', async (t) => {
  const directory = temporaryDirectory(t)
  const kms = await Kms.start({ directory, passphrase: new TextEncoder().encode('first') })
  t.teardown(() => kms.stop())
  const credentials = await kms.enrol('vcenter', { directory: temporaryDirectory(t) })
  const { id } = await (await connect(t, kms, credentials)).create()
  const file = join(temporaryDirectory(t), 'kms.backup')
  await t.throwsAsync(kms.backup(file), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await kms.backup(file, passphrase())
  const target = temporaryDirectory(t)
  const second = () => new TextEncoder().encode('second')
  await Kms.restore(file, { directory: target, passphrase: passphrase(), storePassphrase: second() })
  t.false(existsSync(join(target, 'root.key')))
  const restored = await Kms.start({ directory: target, passphrase: second() })
  t.teardown(() => restored.stop())
  ;(await (await connect(t, restored, credentials)).get(id)).key.dispose()
})

test('a backup holds no key in the clear and no certificate of a client', async (t) => {
  const { kms, file } = await backedUp(t, passphrase())
  const bytes = readFileSync(file)
  for (const word of ['vcenter', 'PRIVATE KEY', 'CERTIFICATE', 'SQLite', 'x-Name', 'db01'])
    t.false(bytes.includes(word), word)
  t.truthy(kms)
})
