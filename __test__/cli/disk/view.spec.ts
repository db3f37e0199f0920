/** `vmseal disk view`: what it prints is what opens the disk. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { requirePeer, runs } from '../../peers.js'
import { sha256, startSite } from './fixture.js'

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
