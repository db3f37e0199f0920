/** What the command says and leaves when it is stopped in the middle: Ctrl-C, and a KMS that is away. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import test from 'ava'
import { outcomeOf, sha256, start, startSite, type Site } from './fixture.js'

const mebibyte = 1024 * 1024

/** Runs a command and stops it once its conversion has begun. */
async function stopped(
  site: Site,
  isBegun: () => boolean,
  argv: readonly string[],
  signal: NodeJS.Signals = 'SIGINT',
) {
  const child = start(['--json', ...argv, ...site.keys])
  const ended = once(child, 'exit')
  const outcome = outcomeOf(child)
  while (!isBegun() && child.exitCode === null) await setTimeout(1)
  child.kill(signal)
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
    const outcome = await stopped(site, isBegun, [
      'disk',
      'encrypt',
      path('db01.raw'),
      '--in-place',
      '--max-rate',
      '32M',
    ])
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

/** The record of a copy says that some of it is durable. */
function hasAdvanced(record: string): boolean {
  return existsSync(record) && !/"frontier":0\b/.test(readFileSync(record, 'utf8'))
}

test.serial(
  'B8: a copy that is killed goes on where it stood, and then its source is overwritten and removed',
  async (t) => {
    const site = await startSite(t)
    const { path, run, keys } = site
    writeFileSync(path('db01.raw'), randomBytes(256 * mebibyte))
    const plain = sha256(path('db01.raw'))
    const copy = path('copy.vmdk')
    const isBegun = () => hasAdvanced(`${copy}.vmseal-copy`)
    const encrypt = ['disk', 'encrypt', path('db01.raw'), '--to', copy]
    const killed = await stopped(site, isBegun, [...encrypt, '--max-rate', '64M'], 'SIGKILL')
    t.is(killed.status, null)
    t.false(existsSync(copy), 'nothing takes it for a disk')
    const info = await run('disk', 'info', copy)
    t.like(info.answer, { state: 'unfinished copy', copy: { source: path('db01.raw'), totalBytes: 256 * mebibyte } }) // prettier-ignore
    const again = await run(...encrypt, ...keys)
    t.is(again.code, 'VMSEAL_ALREADY_EXISTS')
    t.regex(again.stderr, /vmseal disk resume .*vmseal disk abandon/)

    const resumed = await run('disk', 'resume', copy, '--discard-source', 'overwrite', ...keys)
    t.is(resumed.status, 0, resumed.stderr)
    t.like(resumed.answer, { mode: 'copy', state: 'encrypted', source: 'overwritten' })
    t.true((resumed.answer.resumedAt as number) > 0)
    t.is((await run('disk', 'verify', copy, ...keys)).answer.sha256, plain)
    t.deepEqual(
      readdirSync(site.folder).filter((name) => /^(copy|db01)/.test(name)),
      ['copy-flat.vmdk', 'copy.vmdk', 'copy.vmdk.vmseal'],
    )
  },
)

test.serial(
  'B8: an overwriting of the source that is killed is told, refused to others, and gone on with without a key',
  async (t) => {
    const site = await startSite(t)
    const { path, run, keys } = site
    const [image, copy] = [path('db01.raw'), path('copy.vmdk')]
    writeFileSync(image, randomBytes(512 * mebibyte))
    const plain = sha256(image)
    const isBegun = () => existsSync(`${image}.vmseal-discard`)
    const encrypt = ['disk', 'encrypt', image, '--to', copy, '--discard-source', 'overwrite']
    const killed = await stopped(site, isBegun, encrypt, 'SIGKILL')
    t.is(killed.status, null)
    t.true(existsSync(image) && isBegun(), 'it was killed in the middle')
    t.like((await run('disk', 'info', image)).answer, {
      state: 'being overwritten',
      discard: { files: [image], bytes: 512 * mebibyte },
    })
    const again = await run('disk', 'encrypt', image, '--to', path('again.vmdk'), ...keys)
    t.is(again.code, 'VMSEAL_DISK_STATE', again.stdout)
    t.is((await run('disk', 'abandon', image)).code, 'VMSEAL_DISK_STATE')

    const resumed = await run('disk', 'resume', image)
    t.is(resumed.status, 0, resumed.stderr)
    t.like(resumed.answer, { mode: 'discard', source: 'overwritten', bytes: 512 * mebibyte })
    t.is((await run('disk', 'verify', copy, ...keys)).answer.sha256, plain)
    t.deepEqual(
      readdirSync(site.folder).filter((name) => /^(copy|db01)/.test(name)),
      ['copy-flat.vmdk', 'copy.vmdk', 'copy.vmdk.vmseal'],
    )
  },
)

test.serial(
  'Ctrl-C of a copy says how to go on and how to give up, which leaves the source alone',
  async (t) => {
    const site = await startSite(t)
    const { path, run } = site
    writeFileSync(path('db01.raw'), randomBytes(256 * mebibyte))
    const plain = sha256(path('db01.raw'))
    const copy = path('copy.vmdk')
    const isBegun = () => existsSync(`${copy}.vmseal-copy`)
    const encrypt = ['disk', 'encrypt', path('db01.raw'), '--to', copy, '--max-rate', '32M']
    const outcome = await stopped(site, isBegun, encrypt)
    t.is(outcome.code, 'VMSEAL_CANCELLED', outcome.stdout)
    t.regex(outcome.stderr, /vmseal disk resume .*vmseal disk abandon/)
    t.is((await run('disk', 'abandon', copy)).status, 0)
    t.is((await run('disk', 'abandon', copy)).code, 'VMSEAL_NOT_FOUND')
    t.deepEqual(
      readdirSync(site.folder).filter((name) => /^(copy|db01)/.test(name)),
      ['db01.raw'],
    )
    t.is(sha256(path('db01.raw')), plain)
  },
)
