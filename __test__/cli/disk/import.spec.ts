/** `vmseal disk import`: a LUKS volume becomes an encrypted disk where it lies. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { requirePeer, runs } from '../../peers.js'
import { sha256, startSite, type Site } from './fixture.js'

const cheap = ['--batch-mode', '--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000']

/** Encrypts `db01.img` with cryptsetup; its header becomes `db01.hdr`. The plaintext stays in `db01.raw`. */
function cryptsetupVolume({ path }: Site): void {
  const plain = randomBytes(1024 * 1024)
  for (const name of ['db01.raw', 'db01.img']) writeFileSync(path(name), plain)
  writeFileSync(path('key'), 'correct horse')
  const what = ['--encrypt', '--type', 'luks2', '--cipher', 'aes-xts-plain64', '--key-size', '512']
  const where = ['--key-file', path('key'), '--header', path('db01.hdr'), path('db01.img')]
  execFileSync('cryptsetup', ['reencrypt', ...what, ...cheap, ...where], { stdio: 'ignore' })
}

test('a volume of cryptsetup becomes a disk without a byte of it changing, and is decrypted with the KEK alone', async (t) => {
  if (!requirePeer(t, 'cryptsetup (Debian package cryptsetup-bin)', runs('cryptsetup', '--version'))) return
  const site = await startSite(t)
  const { run, keys, path } = site
  cryptsetupVolume(site)
  const ciphertext = sha256(path('db01.img'))
  writeFileSync(path('passphrase'), 'correct horse\nand what follows\n')
  const volume = ['disk', 'import', path('db01.img'), '--luks', '--header', path('db01.hdr'), ...keys]
  const wrong = await run(...volume, '--key-file', path('passphrase'))
  t.is(wrong.code, 'VMSEAL_LUKS_PASSPHRASE', wrong.stderr)
  t.false(existsSync(path('db01.img.vmdk')))

  const made = await run(...volume, '--passphrase-file', path('passphrase'), '--as', path('db01.vmdk'))
  t.is(made.status, 0, made.stderr)
  t.like(made.answer, {
    disk: path('db01.vmdk'),
    version: 2,
    bytes: 1024 * 1024,
    dataOffset: 0,
    sectorSize: 512,
  })
  t.is(sha256(path('db01.img')), ciphertext)
  t.false(readFileSync(path('db01.vmdk'), 'utf8').includes('correct horse'))
  const plain = await run('disk', 'decrypt', path('db01.vmdk'), '--to', path('plain.vmdk'), ...keys)
  t.is(plain.status, 0, plain.stderr)
  t.is(sha256(path('plain-flat.vmdk')), sha256(path('db01.raw')))

  const again = await run(...volume, '--key-file', path('key'), '--as', path('db01.vmdk'))
  t.is(again.code, 'VMSEAL_ALREADY_EXISTS')
})

test('an import says what it needs', async (t) => {
  const { run, keys, path } = await startSite(t)
  writeFileSync(path('db01.img'), randomBytes(8192))
  writeFileSync(path('key'), 'x')
  writeFileSync(path('empty'), '\n')
  const code = async (...argv: string[]) =>
    (await run('disk', 'import', path('db01.img'), ...argv, ...keys)).code
  t.is(await code('--key-file', path('key')), 'VMSEAL_INVALID_ARGUMENT')
  t.is(await code('--luks'), 'VMSEAL_INVALID_ARGUMENT')
  const both = ['--key-file', path('key'), '--passphrase-file', path('key')]
  t.is(await code('--luks', ...both), 'VMSEAL_INVALID_ARGUMENT')
  t.is(await code('--luks', '--passphrase-file', path('empty')), 'VMSEAL_INVALID_ARGUMENT')
  t.is(await code('--luks', '--key-file', path('none')), 'VMSEAL_NOT_FOUND')
  t.is(await code('--luks', '--key-file', path('key')), 'VMSEAL_LUKS_INVALID')
})
