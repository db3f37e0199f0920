/**
 * The real command under strace: killed at its calls, and each failing once. A sample: every call of every mode is tried by
 * crates/disk/tests/system_calls.rs, which runs the same engine without the start of Node.
 */
import { randomBytes } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { requirePeer, runs } from '../../peers.js'
import { outcomeOf, sha256, start, startSite } from './fixture.js'

const faults: readonly [inject: string, code: string | undefined][] = [
  ['pwrite64:signal=KILL:when=1', undefined],
  ['pwrite64:signal=KILL:when=5', undefined],
  ['pwrite64:signal=KILL:when=8', undefined],
  ['fdatasync:signal=KILL:when=2', undefined],
  ['fdatasync:signal=KILL:when=6', undefined],
  ['rename:signal=KILL:when=1', undefined],
  ['rename:signal=KILL:when=3', undefined],
  ['unlink:signal=KILL:when=4', undefined],
  ['pwrite64:error=EIO:when=6', 'VMSEAL_IO'],
  ['fallocate:error=ENOSPC:when=1', 'VMSEAL_NO_SPACE'],
  ['fdatasync:error=EIO:when=5', 'VMSEAL_IO'],
  ['rename:error=ENOSPC:when=1', 'VMSEAL_NO_SPACE'],
]

test('B8: the command loses nothing when it is killed, and says the code of what failed', async (t) => {
  if (!requirePeer(t, 'strace (Debian package strace)', runs('strace', '-qq', '-f', 'true'))) return
  const { run, keys, path } = await startSite(t)
  writeFileSync(path('db01.raw'), randomBytes(64 * 1024))
  const plain = sha256(path('db01.raw'))
  const first = await run('disk', 'encrypt', path('db01.raw'), '--to', path('key.vmdk'), ...keys)
  const { keyId } = first.answer as { keyId: string }

  for (const [index, [inject, code]] of faults.entries()) {
    const folder = path(`case-${index}`)
    mkdirSync(folder)
    copyFileSync(path('db01.raw'), join(folder, 'db01.raw'))
    const disk = join(folder, 'db01.vmdk')
    const call = inject.split(':')[0] ?? ''
    const strace = ['strace', '-f', '-qq', '-e', `trace=${call}`, '-e', `inject=${inject}`]
    const argv = ['--json', 'disk', 'encrypt', join(folder, 'db01.raw'), '--in-place', '--key-id', keyId]
    const outcome = await outcomeOf(start([...argv, ...keys], [...strace, '-o', join(folder, 'log')]))
    t.is(outcome.code, code, `${inject}: ${outcome.stderr}`)
    t.not(outcome.status, 0, inject)

    const info = await run('disk', 'info', existsSync(disk) ? disk : join(folder, 'db01.raw'))
    t.is(info.status, 0, `${inject}: ${info.stderr}`)
    const { state } = info.answer
    if (state === 'in conversion') {
      if (code !== undefined) t.regex(outcome.stderr, /vmseal disk resume/, inject)
      const resumed = await run('disk', 'resume', disk, ...keys)
      t.is(resumed.status, 0, `${inject}: ${resumed.stderr}`)
    }
    if (state === 'plain') t.is(sha256(join(folder, 'db01.raw')), plain, inject)
    else t.is((await run('disk', 'verify', disk, ...keys)).answer.sha256, plain, inject)
  }
})
