/** `vmseal disk` with a KMS and without a vCenter: encrypt, recrypt, verify and decrypt, to a copy and in place. */
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { openKmsControl } from '../../../src/cli/kms/control.js'
import { VCenter } from '../../../src/vcenter/vcenter.js'
import { outcomeOf, sha256, start, startSite } from './fixture.js'

const mebibyte = 1024 * 1024

test('B8, D1: a disk goes to an encrypted copy, through both recrypts, and back', async (t) => {
  const { run, keys, path, kms } = await startSite(t)
  writeFileSync(path('db01.raw'), randomBytes(mebibyte))
  const plain = sha256(path('db01.raw'))

  const encrypted = await run('disk', 'encrypt', path('db01.raw'), '--to', path('db01.vmdk'), ...keys)
  t.is(encrypted.status, 0, encrypted.stderr)
  const { keyId, providerId, diskId } = encrypted.answer
  t.is(providerId, 'kms')
  t.is(sha256(path('db01.raw')), plain, 'the source is only read')

  const info = await run('disk', 'info', path('db01.vmdk'))
  t.like(info.answer, {
    state: 'encrypted',
    diskId,
    capacityBytes: mebibyte,
    generation: 1,
    keys: [{ keyId, providerId: 'kms' }],
    conversion: null,
  })
  const verified = await run('disk', 'verify', path('db01.vmdk'), ...keys)
  t.is(verified.answer.sha256, plain)

  const before = sha256(path('db01-flat.vmdk'))
  const shallow = await run('disk', 'recrypt', path('db01.vmdk'), '--shallow', ...keys)
  t.is(shallow.status, 0, shallow.stderr)
  t.is(sha256(path('db01-flat.vmdk')), before, 'shallow touches no data')
  t.not(shallow.answer.keyId, keyId)

  const deep = await run('disk', 'recrypt', path('db01.vmdk'), '--to', path('deep.vmdk'), ...keys)
  t.is(deep.status, 0, deep.stderr)
  t.not(sha256(path('deep-flat.vmdk')), before)

  const decrypted = await run('disk', 'decrypt', path('deep.vmdk'), '--to', path('plain.vmdk'), ...keys)
  t.is(decrypted.status, 0, decrypted.stderr)
  t.is(sha256(path('plain-flat.vmdk')), plain)
  t.deepEqual(
    kms.clients.map(({ name }) => name),
    ['operator'],
  )
})

test('D2: a raw image is encrypted, recrypted and decrypted where it lies', async (t) => {
  const { run, keys, path } = await startSite(t)
  writeFileSync(path('db01.raw'), randomBytes(mebibyte))
  const plain = sha256(path('db01.raw'))
  const disk = path('db01.vmdk')

  const encrypted = await run(
    'disk',
    'encrypt',
    path('db01.raw'),
    '--in-place',
    '--sector-size',
    '4096',
    ...keys,
  )
  t.is(encrypted.status, 0, encrypted.stderr)
  t.is(encrypted.answer.disk, disk)
  t.is((await run('disk', 'verify', disk, ...keys)).answer.sha256, plain)
  const recrypted = await run('disk', 'recrypt', disk, '--in-place', ...keys)
  t.is(recrypted.status, 0, recrypted.stderr)
  t.like((await run('disk', 'info', disk)).answer, { generation: 2, sectorSize: 4096 })
  t.is((await run('disk', 'verify', disk, ...keys)).answer.sha256, plain)
  t.is((await run('disk', 'decrypt', disk, '--in-place', ...keys)).status, 0)
  t.is(sha256(path('db01.raw')), plain)
  t.is((await run('disk', 'info', disk)).answer.state, 'plain')
})

test('decryption and recrypt take their source away too, and without being asked no copy does', async (t) => {
  const { run, keys, path } = await startSite(t)
  writeFileSync(path('a.raw'), randomBytes(mebibyte))
  const plain = sha256(path('a.raw'))
  const steps = [
    ['encrypt', 'a.raw', 'b.vmdk', 'unlink', 'unlinked'],
    ['recrypt', 'b.vmdk', 'c.vmdk', 'unlink', 'unlinked'],
    ['decrypt', 'c.vmdk', 'd.vmdk', 'overwrite', 'overwritten'],
  ] as const
  for (const [verb, from, to, how, became] of steps) {
    const outcome = await run('disk', verb, path(from), '--to', path(to), '--discard-source', how, ...keys)
    t.is(outcome.status, 0, outcome.stderr)
    t.is(outcome.answer.source, became)
    t.false(existsSync(path(from)))
  }
  t.is(sha256(path('d-flat.vmdk')), plain)
  const kept = await run('disk', 'encrypt', path('d.vmdk'), '--to', path('e.vmdk'), ...keys)
  t.is(kept.answer.source, 'kept')
  t.true(existsSync(path('d.vmdk')))
  const wrong = [
    ['--in-place', '--discard-source', 'unlink'],
    ['--to', path('f.vmdk'), '--discard-source', 'burn'],
  ]
  for (const options of wrong)
    t.is((await run('disk', 'encrypt', path('d.vmdk'), ...options, ...keys)).status, 2)
})

test('--kms names a KMS that serves on this machine, by its directory', async (t) => {
  const { run, keys, path, kms } = await startSite(t)
  const control = await openKmsControl(path('kms'), kms)
  t.teardown(() => control.close())
  writeFileSync(path('a.raw'), randomBytes(mebibyte))
  const plain = sha256(path('a.raw'))
  const here = ['--kms', path('kms'), ...keys.slice(2)]
  const encrypted = await run('disk', 'encrypt', path('a.raw'), '--in-place', ...here)
  t.is(encrypted.status, 0, encrypted.stderr)
  t.is((await run('disk', 'recrypt', path('a.vmdk'), '--shallow', ...here)).status, 0)
  t.is((await run('disk', 'verify', path('a.vmdk'), ...here)).answer.sha256, plain)
  t.is((await run('disk', 'decrypt', path('a.vmdk'), '--to', path('b.vmdk'), ...here)).status, 0)
  t.is(sha256(path('b-flat.vmdk')), plain)
})

test('keys come through the registration of a vCenter that does not run, and by file options', async (t) => {
  const { run, kms, keys, path } = await startSite(t)
  const vcenter = await VCenter.open({ directory: path('vcenter') })
  const credentials = await kms.enrol('vcenter', { directory: path('of-vcenter') })
  await vcenter.keyProviders.add({ id: 'kms-1', servers: [kms.endpoint], credentials })
  writeFileSync(path('a.raw'), randomBytes(4096))
  const encrypt = ['disk', 'encrypt', path('a.raw'), '--to', path('a.vmdk')] as const
  t.is((await run(...encrypt, '--vcenter', path('vcenter'))).code, 'VMSEAL_FILE_LOCKED')
  await vcenter.close()
  const encrypted = await run(...encrypt, '--vcenter', path('vcenter'))
  t.is(encrypted.answer.providerId, 'kms-1', encrypted.stderr)
  const [pem = '', key = ''] = ['pem', 'key'].map((end) =>
    path(
      `of-vcenter/${readdirSync(path('of-vcenter')).find((name) => name.endsWith(`.${end}`) && name !== 'ca.pem')}`,
    ),
  )
  const files = ['--ca', path('of-vcenter/ca.pem'), '--certificate', pem, '--key', key]
  const verified = await run('disk', 'verify', path('a.vmdk'), ...keys.slice(0, 2), ...files)
  t.is(verified.answer.sha256, sha256(path('a.raw')), verified.stderr)
  const foreign = await run('disk', 'verify', path('a.vmdk'), ...keys)
  t.is(foreign.status, 1, 'the key belongs to another client')
  t.is(foreign.code, 'VMSEAL_KEY_MISSING_IN_KMS')
})

test('refusals say what to do, change nothing and make no key', async (t) => {
  const { run, keys, path, kms } = await startSite(t)
  writeFileSync(path('a.raw'), randomBytes(8192))
  writeFileSync(path('odd.raw'), randomBytes(1000))
  writeFileSync(path('taken.vmdk'), '')
  const a = path('a.raw')
  const before = sha256(a)
  const refusals: [string, number, ...string[]][] = [
    ['VMSEAL_INVALID_ARGUMENT', 2, 'encrypt', a, ...keys],
    ['VMSEAL_INVALID_ARGUMENT', 2, 'encrypt', a, '--in-place', '--to', path('b.vmdk'), ...keys],
    ['VMSEAL_INVALID_ARGUMENT', 2, 'encrypt', a, '--in-place'],
    ['VMSEAL_INVALID_ARGUMENT', 2, 'encrypt', a, '--in-place', ...keys.slice(0, 2)],
    ['VMSEAL_NOT_FOUND', 2, 'encrypt', a, '--in-place', ...keys.slice(0, 2), '--credentials', path('none')],
    ['VMSEAL_NOT_FOUND', 2, 'encrypt', a, '--in-place', '--vcenter', path('none')],
    ['VMSEAL_KMS_NOT_SERVED', 2, 'encrypt', a, '--in-place', '--kms', path('.'), ...keys.slice(2)],
    [
      'VMSEAL_KEY_PROVIDER_UNREACHABLE',
      4,
      'encrypt',
      a,
      '--in-place',
      '--server',
      '127.0.0.1:9',
      ...keys.slice(2),
    ],
    ['VMSEAL_ALREADY_EXISTS', 2, 'encrypt', a, '--to', path('taken.vmdk'), ...keys],
    ['VMSEAL_IMAGE_INVALID', 2, 'encrypt', path('odd.raw'), '--in-place', ...keys],
    ['VMSEAL_NOT_FOUND', 2, 'encrypt', path('none.raw'), '--in-place', ...keys],
    ['VMSEAL_DISK_STATE', 2, 'decrypt', a, '--in-place', ...keys],
    ['VMSEAL_DISK_STATE', 2, 'resume', a, ...keys],
    ['VMSEAL_DISK_STATE', 2, 'verify', a, ...keys],
    ['VMSEAL_INVALID_ARGUMENT', 2, 'recrypt', a, '--shallow', '--in-place', ...keys],
    ['VMSEAL_KEY_MISSING_IN_KMS', 1, 'encrypt', a, '--in-place', '--key-id', 'no-such-key', ...keys],
  ]
  const outcomes = await Promise.all(refusals.map(([, , ...argv]) => run('disk', ...argv)))
  for (const [index, [code, status, ...argv]] of refusals.entries()) {
    const outcome = outcomes[index]
    t.is(outcome?.code, code, `${argv.join(' ')}: ${outcome?.stderr}`)
    t.is(outcome?.status, status, argv.join(' '))
    t.regex(outcome?.stderr ?? '', /"action":"/)
  }
  t.is(sha256(a), before)
  t.false(existsSync(path('b.vmdk')))
  t.is(readFileSync(path('kms/audit.log'), 'utf8').match(/"operation":"Create"/g), null)
  t.is(kms.clients.length, 1)
})

test('for people: a table, a key to keep, and help with examples', async (t) => {
  const { keys, path, run } = await startSite(t)
  writeFileSync(path('a.raw'), randomBytes(8192))
  const encrypted = await outcomeOf(
    start(['disk', 'encrypt', path('a.raw'), '--to', path('a.vmdk'), ...keys]),
  )
  t.regex(encrypted.stdout, /encrypted, 8\.00 KiB .*\nkey .*: keep it at the KMS/)
  const info = await outcomeOf(start(['disk', 'info', path('a.vmdk')]))
  t.regex(info.stdout, /state +encrypted\n/)
  t.regex(info.stdout, /cipher +aes-xts-plain64, 512-byte sectors, holes dense, generation 1\n/)
  for (const verb of ['encrypt', 'decrypt', 'recrypt', 'resume', 'info']) {
    const help = await outcomeOf(start(['disk', verb, '--help']))
    t.is(help.status, 0)
    t.regex(help.stdout, /Examples?:\n/, verb)
  }
  t.is(
    (await run('disk', 'encrypt', path('a.raw'), '--in-place', '--sector-size', '1024', ...keys)).status,
    2,
  )
})
