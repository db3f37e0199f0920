/** `vmseal kms verify`, `audit verify`, `backup`, `restore`, `rotate-root-key`. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { KmipClient } from '../../src/kmip/client.js'
import { temporaryDirectory } from '../kms/running-kms.js'
import { answer, refused, startServing, vmseal } from './command.js'
import type { ServingKms } from './command.js'

/** A client of the KMS at `directory`, enrolled by the command. */
async function enrol(
  t: ExecutionContext,
  kms: ServingKms,
  directory: string,
): Promise<() => Promise<KmipClient>> {
  const files = answer<{ certificateFile: string; privateKeyFile: string; caCertificateFile: string }>(t, [
    'kms',
    'enrol',
    'vcenter',
    '--directory',
    directory,
    '--output',
    join(directory, '..', 'client'),
  ])
  return async () => {
    const client = await KmipClient.connect({
      ...kms.endpoint,
      caCertificate: readFileSync(files.caCertificateFile, 'utf8'),
      certificate: readFileSync(files.certificateFile, 'utf8'),
      privateKeyFile: files.privateKeyFile,
    })
    t.teardown(() => client.close())
    return client
  }
}

test('backup, restore with a passphrase and without; the restored KMS has the keys', async (t) => {
  const parent = temporaryDirectory(t)
  const at = (name: string) => join(parent, name)
  const kms = await startServing(t, at('kms'))
  const client = await (await enrol(t, kms, at('kms')))()
  const { id } = await client.create()
  const serving = ['--directory', at('kms')]
  writeFileSync(at('passphrase'), 'a passphrase\n')
  const made = answer(t, ['kms', 'backup', at('sealed'), '--passphrase-file', at('passphrase'), ...serving])
  t.deepEqual(made, { file: at('sealed'), sealedBy: 'passphrase' })
  t.is(statSync(at('sealed')).mode & 0o777, 0o600)
  t.is(answer(t, ['kms', 'backup', at('by-root'), ...serving]).sealedBy, 'root key')
  t.is(refused(t, ['kms', 'backup', at('sealed'), ...serving], 2), 'VMSEAL_ALREADY_EXISTS')
  t.is(await kms.stop(), 0)

  const restore = (file: string, directory: string, ...options: string[]) => [
    'kms',
    'restore',
    at(file),
    '--directory',
    at(directory),
    ...options,
  ]
  answer(t, restore('sealed', 'second', '--passphrase-file', at('passphrase')))
  answer(t, restore('by-root', 'third', '--root-key', join(at('kms'), 'root.key')))
  for (const directory of ['second', 'third']) {
    const restored = await startServing(t, at(directory))
    t.deepEqual(answer(t, ['kms', 'verify', '--directory', at(directory)]), { ok: true, keys: 1, broken: [] })
    const reader = await (await enrol(t, restored, at(directory)))()
    const { key } = await reader.get(id)
    t.is(key.length, 32)
    key.dispose()
    t.is(await restored.stop(), 0)
  }

  writeFileSync(at('wrong'), 'another passphrase\n')
  t.is(refused(t, restore('sealed', 'x', '--passphrase-file', at('wrong')), 2), 'VMSEAL_INVALID_ARGUMENT')
  t.is(
    refused(t, restore('sealed', 'second', '--passphrase-file', at('passphrase')), 2),
    'VMSEAL_ALREADY_EXISTS',
  )
  t.is(refused(t, restore('nowhere', 'x', '--passphrase-file', at('passphrase')), 2), 'VMSEAL_NOT_FOUND')
  const bytes = readFileSync(at('sealed'))
  bytes[bytes.length >> 1]! ^= 1
  writeFileSync(at('altered'), bytes)
  refused(t, restore('altered', 'x', '--passphrase-file', at('passphrase')), 2)
  t.false(existsSync(at('x')), 'nothing is left behind')
})

test('audit verify: whole while it serves and after; a changed line and a missing one are found, status 1', async (t) => {
  const directory = join(temporaryDirectory(t), 'kms')
  const kms = await startServing(t, directory)
  const client = await (await enrol(t, kms, directory))()
  for (let n = 0; n < 5; n++) await client.create()
  const verify = ['kms', 'audit', 'verify', '--directory', directory]
  const served = answer<{ ok: boolean; records: number; headChecked: boolean }>(t, verify)
  t.true(served.ok && served.headChecked)
  t.true(served.records >= 6)
  t.is(await kms.stop(), 0)
  const rested = answer<{ ok: boolean; records: number }>(t, verify)
  t.true(rested.ok && rested.records >= served.records)
  t.regex(vmseal(verify).stdout, /^\d+ records, unbroken\n$/)

  const log = join(directory, 'audit.log')
  const lines = readFileSync(log, 'utf8').trimEnd().split('\n')
  const broken = (kept: readonly string[]) => {
    writeFileSync(log, `${kept.join('\n')}\n`)
    const { status, stdout } = vmseal(['--json', ...verify])
    t.is(status, 1)
    t.regex(vmseal(verify).stdout, /BROKEN/)
    return JSON.parse(stdout) as { ok: boolean; firstBreak?: { line: number; reason: string } }
  }
  t.like(broken(lines.with(3, (lines[3] ?? '').replace('Create', 'Revoke'))), {
    ok: false,
    firstBreak: { line: 4 },
  })
  t.like(broken(lines.toSpliced(2, 1)), { ok: false, firstBreak: { line: 3, reason: 'gap' } })
  t.like(broken(lines.slice(0, -1)), { ok: false, firstBreak: { reason: 'cut' } })
  t.is(refused(t, ['kms', 'audit', 'verify', '--directory', join(directory, 'no')], 2), 'VMSEAL_NOT_FOUND')
})

test('rotate-root-key moves every record to a new root key while it serves', async (t) => {
  const directory = join(temporaryDirectory(t), 'kms')
  const kms = await startServing(t, directory)
  const client = await (await enrol(t, kms, directory))()
  const { id } = await client.create()
  const before = readFileSync(join(directory, 'root.key'))
  t.deepEqual(answer(t, ['kms', 'rotate-root-key', '--directory', directory]), { rotated: true })
  t.false(existsSync(join(directory, 'root.key')), 'the old root key is gone')
  t.false(readFileSync(join(directory, 'root-2.key')).equals(before))
  t.deepEqual(answer(t, ['kms', 'verify', '--directory', directory]), { ok: true, keys: 1, broken: [] })
  const { key } = await client.get(id)
  key.dispose()
  t.is(
    refused(t, ['kms', 'rotate-root-key', '--directory', join(directory, 'no')], 2),
    'VMSEAL_KMS_NOT_SERVED',
  )
})
