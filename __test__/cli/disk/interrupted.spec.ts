/** What the command says and leaves when it is stopped in the middle: Ctrl-C, and a KMS that is away. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import test from 'ava'
import { outcomeOf, sha256, start, startSite, type Site } from './fixture.js'

const mebibyte = 1024 * 1024

/** Runs a command and stops it once its conversion has begun. */
async function stopped(site: Site, isBegun: () => boolean, ...argv: readonly string[]) {
  const child = start(['--json', ...argv, ...site.keys])
  const ended = once(child, 'exit')
  const outcome = outcomeOf(child)
  while (!isBegun() && child.exitCode === null) await setTimeout(1)
  child.kill('SIGINT')
  await ended
  return outcome
}

test.serial(
  'B8: Ctrl-C leaves a disk in conversion that says how to go on, and resume ends it',
  async (t) => {
    const site = await startSite(t)
    const { path, run, keys } = site
    writeFileSync(path('db01.raw'), randomBytes(256 * mebibyte))
    const plain = sha256(path('db01.raw'))
    const disk = path('db01.vmdk')
    const record = `${disk}.vmseal-job`
    const isBegun = () => existsSync(record) && readFileSync(disk, 'utf8').includes('sealing')
    const outcome = await stopped(site, isBegun, 'disk', 'encrypt', path('db01.raw'), '--in-place')
    t.is(outcome.code, 'VMSEAL_CANCELLED', outcome.stdout)
    t.regex(outcome.stderr, /vmseal disk resume .*db01\.vmdk/)

    const info = await run('disk', 'info', disk)
    t.like(info.answer, {
      state: 'in conversion',
      conversion: { mode: 'encrypt', totalBytes: 256 * mebibyte },
    })
    for (const verb of ['encrypt', 'decrypt', 'recrypt']) {
      const refused = await run('disk', verb, disk, '--in-place', ...keys)
      t.true(['VMSEAL_DISK_STATE', 'VMSEAL_DISK_IN_CONVERSION'].includes(refused.code ?? ''), refused.stderr)
    }
    t.is((await run('disk', 'verify', disk, ...keys)).status, 0)
    const away = ['--server', '127.0.0.1:9', ...keys.slice(2)]
    t.is((await run('disk', 'resume', disk, ...away)).code, 'VMSEAL_KEY_PROVIDER_UNREACHABLE')
    t.is((await run('disk', 'repair', disk)).status, 0, 'repair needs no key')

    const resumed = await run('disk', 'resume', disk, ...keys)
    t.is(resumed.status, 0, resumed.stderr)
    t.like(resumed.answer, { mode: 'encrypt', state: 'encrypted' })
    t.is((await run('disk', 'verify', disk, ...keys)).answer.sha256, plain)
    t.false(existsSync(record))
  },
)

test.serial('Ctrl-C takes a copy back whole', async (t) => {
  const site = await startSite(t)
  const { path } = site
  writeFileSync(path('db01.raw'), randomBytes(256 * mebibyte))
  const isBegun = () => existsSync(path('copy-flat.vmdk'))
  const outcome = await stopped(site, isBegun, 'disk', 'encrypt', path('db01.raw'), '--to', path('copy.vmdk'))
  t.is(outcome.code, 'VMSEAL_CANCELLED', outcome.stdout)
  t.deepEqual(
    readdirSync(site.folder).filter((name) => name.startsWith('copy')),
    [],
  )
})
