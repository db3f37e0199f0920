/** `vmseal disk view`: what it prints is what opens the disk. */
import { execFileSync } from 'node:child_process'
import { createDecipheriv, randomBytes } from 'node:crypto'
import { existsSync, readFileSync, readdirSync, rmSync, statSync, statfsSync, truncateSync, writeFileSync } from 'node:fs' // prettier-ignore
import { join } from 'node:path'
import test from 'ava'
import { requirePeer, runs } from '../../peers.js'
import { outcomeOf, sha256, start, startSite } from './fixture.js'

test('cryptsetup and QEMU open the disk by the header and the command that are printed', async (t) => {
  if (!requirePeer(t, 'cryptsetup (Debian package cryptsetup-bin)', runs('cryptsetup', '--version'))) return
  if (!requirePeer(t, 'qemu-img (Debian package qemu-utils)', runs('qemu-img', '--version'))) return
  const { run, keys, path } = await startSite(t)
  writeFileSync(path('db01.raw'), randomBytes(64 * 1024))
  await run('disk', 'encrypt', path('db01.raw'), '--to', path('db01.vmdk'), ...keys)
  const luks2 = await run('disk', 'view', path('db01.vmdk'), '--luks2', ...keys)
  t.is(luks2.status, 0, luks2.stderr)
  const { folder, header, secret, commands } = luks2.answer as Record<string, string> & { commands: string[] }
  t.teardown(() => rmSync(folder ?? '', { recursive: true }))
  t.is(statSync(secret ?? '').mode & 0o777, 0o600)
  t.is(statSync(folder ?? '').mode & 0o777, 0o700)
  t.is(statSync(header ?? '').size, 290_816)
  const [open = ''] = commands
  t.notThrows(() =>
    execFileSync('sh', ['-c', open.replace(' open ', ' open --test-passphrase ').replace(/ db01$/, '')]),
  )

  const luks1 = await run('disk', 'view', path('db01.vmdk'), '--luks1', ...keys)
  t.is(luks1.status, 0, luks1.stderr)
  const qemu = luks1.answer as Record<string, string> & { commands: string[] }
  t.teardown(() => rmSync(qemu.folder ?? '', { recursive: true }))
  const [info = ''] = qemu.commands
  const read = join(qemu.folder ?? '', 'read.raw')
  execFileSync('sh', ['-c', `${info.replace('qemu-img info', 'qemu-img convert')} -O raw ${read}`])
  t.is(sha256(read), sha256(path('db01.raw')))
})

const tmpfs = 0x0102_1994

/** A disk through OpenSSL, which has never heard of it: the tweak counts 512-byte sectors, whatever the data unit is. */
function throughOpenssl(ciphertext: Buffer, key: Buffer, unit: number): Buffer {
  const units: Buffer[] = []
  for (let at = 0; at < ciphertext.length; at += unit) {
    const tweak = Buffer.alloc(16)
    tweak.writeBigUInt64LE(BigInt(at / 512))
    const cipher = createDecipheriv('aes-256-xts', key, tweak)
    units.push(cipher.update(ciphertext.subarray(at, at + unit)), cipher.final())
  }
  return Buffer.concat(units)
}

for (const sectorSize of [512, 4096])
  test(`the command of --dm-crypt maps the disk with its sectors of ${sectorSize} bytes, by a secret that is in memory only and made once`, async (t) => {
    if (!requirePeer(t, 'cryptsetup (Debian package cryptsetup-bin)', runs('cryptsetup', '--version'))) return
    const { run, keys, path, folder: site } = await startSite(t)
    const disk = path('db01.vmdk')
    writeFileSync(path('db01.raw'), randomBytes(64 * 1024))
    const unit = ['--sector-size', String(sectorSize)]
    const made = await run('disk', 'encrypt', path('db01.raw'), '--to', disk, ...unit, ...keys)
    t.is(made.status, 0, made.stderr)

    const answers: { folder: string; header: string; secret: string; commands: string[] }[] = []
    for (let view = 0; view < 2; view += 1) {
      const { answer, status, stderr } = await run('disk', 'view', disk, '--dm-crypt', ...keys)
      t.is(status, 0, stderr)
      answers.push(answer as (typeof answers)[0])
      t.teardown(() => rmSync(answer.folder as string, { recursive: true, force: true }))
    }
    const [first, second] = answers
    const { folder, header, secret, commands } = first!
    t.deepEqual(commands, [`cryptsetup open --header ${header} --key-file ${secret} ${path('db01-flat.vmdk')} db01`]) // prettier-ignore
    t.is(statfsSync(folder).type, tmpfs)
    for (const [file, mode] of [
      [folder, 0o700],
      [header, 0o600],
      [secret, 0o600],
    ] as const)
      // prettier-ignore
      t.is(statSync(file).mode & 0o777, mode)
    t.notDeepEqual(readFileSync(secret), readFileSync(second!.secret), 'each view has a secret of its own')
    const opens = (of: string, by: string): boolean =>
      runs(
        'cryptsetup',
        'open',
        '--test-passphrase',
        '--header',
        of,
        '--key-file',
        by,
        path('db01-flat.vmdk'),
      )
    t.true(opens(header, secret))
    t.false(opens(second!.header, secret))

    // What the kernel would be told, from the header that the command names.
    const metadata = execFileSync('cryptsetup', ['luksDump', '--dump-json-metadata', header], {
      encoding: 'utf8',
    })
    const { segments, config } = JSON.parse(metadata) as {
      segments: Record<string, unknown>
      config: Record<string, unknown>
    }
    t.deepEqual(segments, {
      0: { type: 'crypt', offset: '0', size: 'dynamic', iv_tweak: '0', encryption: 'aes-xts-plain64', sector_size: sectorSize },
    }) // prettier-ignore
    t.deepEqual(
      [config.flags, config.requirements],
      [undefined, undefined],
      'no iv_large_sectors, no other flag',
    )
    const key = join(folder, 'volume-key')
    execFileSync('cryptsetup', ['luksDump', '--batch-mode', '--dump-volume-key', '--volume-key-file', key, '--key-file', secret, header]) // prettier-ignore
    const plain = throughOpenssl(readFileSync(path('db01-flat.vmdk')), readFileSync(key), sectorSize)
    t.deepEqual(plain, readFileSync(path('db01.raw')))

    const told = await outcomeOf(start(['disk', 'view', disk, '--dm-crypt', ...keys]))
    const printed = /--header (\S+)\/\S+ --key-file (\S+) /.exec(told.stdout)
    t.teardown(() => rmSync(printed![1]!, { recursive: true, force: true }))
    t.false(told.stdout.includes(readFileSync(printed![2]!, 'utf8')), 'the secret is on no command line')
    const beside = readdirSync(site).filter((name) => name.startsWith('db01'))
    t.deepEqual(beside, ['db01-flat.vmdk', 'db01.raw', 'db01.vmdk', 'db01.vmdk.vmseal'])
  })

test('a view that fails leaves no folder in memory', async (t) => {
  const { run, keys, path } = await startSite(t)
  // Holes that stay holes: other programs would read them as noise.
  const name = `thin-${randomBytes(4).toString('hex')}`
  writeFileSync(path(`${name}.raw`), randomBytes(8192))
  truncateSync(path(`${name}.raw`), 1024 * 1024)
  const disk = path(`${name}.vmdk`)
  await run('disk', 'encrypt', path(`${name}.raw`), '--to', disk, ...keys)
  t.is((await run('disk', 'view', disk, '--dm-crypt', ...keys)).code, 'VMSEAL_DISK_STATE')
  t.deepEqual(readdirSync('/dev/shm').filter((entry) => entry.includes(name)), []) // prettier-ignore
})

test('a view needs memory for its secret, one kind, and an encrypted disk', async (t) => {
  const { run, keys, path } = await startSite(t)
  writeFileSync(path('db01.raw'), randomBytes(8192))
  await run('disk', 'encrypt', path('db01.raw'), '--to', path('db01.vmdk'), ...keys)
  const view = (...argv: string[]) => run('disk', 'view', ...argv, ...keys)
  t.is((await view(path('db01.vmdk'))).code, 'VMSEAL_INVALID_ARGUMENT')
  t.is((await view(path('db01.vmdk'), '--luks1', '--luks2')).code, 'VMSEAL_INVALID_ARGUMENT')
  t.is((await view(path('db01.raw'), '--luks2')).code, 'VMSEAL_DISK_STATE')
  t.is((await view(path('db01.vmdk'), '--luks2', '--folder', '/proc')).code, 'VMSEAL_INVALID_ARGUMENT')
  const missing = join('/dev/shm', 'vmseal-no-such-folder')
  t.is((await view(path('db01.vmdk'), '--luks2', '--folder', missing)).code, 'VMSEAL_NOT_FOUND')
  t.false(existsSync(missing))
})
