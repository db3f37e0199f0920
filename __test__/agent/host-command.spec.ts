/** `vmseal host`: what is refused, with which exit status, and what is printed. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import test from 'ava'

const command = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))
const node = ['--import=tsx', command]

function run(...argv: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [...node, ...argv], { encoding: 'utf8' })
}

test('a call that is wrong is refused with status 2, and says what to write', (t) => {
  const good = [
    'host',
    'start',
    '--name',
    'esx-1',
    '--datastore',
    'ds1=/nowhere',
    '--directory',
    '/nowhere/host',
  ]
  const cases: [string[], RegExp][] = [
    [['host', 'start', '--name', 'esx-1'], /--datastore/],
    [[...good, '--datastore', 'ds1=/other'], /given twice/],
    [[...good, '--datastore', 'ds2'], /name=directory/],
    [[...good, '--listen', 'a b:1'], /host:port/],
    [[...good, '--listen', 'localhost:70000'], /65535/],
    [[...good, '--token-minutes', '0'], /minutes/],
    [['host', 'leave'], /--directory/],
  ]
  for (const [argv, message] of cases) {
    const { status, stderr } = run(...argv)
    t.is(status, 2, argv.join(' '))
    t.regex(stderr, message)
  }
})

test('a host starts, shows its token, ends at SIGTERM, and is refused while another has its directory', async (t) => {
  const directory = mkdtempSync(path.join(tmpdir(), 'vmseal-host-command-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const argv = [
    'host', 'start', '--name', 'esx-1', '--datastore', `ds1=${directory}`, '--directory', path.join(directory, 'host'),
    '--listen', '127.0.0.1:0',
  ] // prettier-ignore
  const child = spawn(process.execPath, [...node, '--json', ...argv], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => void child.kill('SIGKILL'))
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string]
  const facts = JSON.parse(line) as {
    event: string
    token: string
    address: { port: number }
    expiresAt: string
  }
  t.is(facts.event, 'waiting')
  t.regex(facts.token, /^vmseal-join-1\.[A-Za-z0-9_-]{86}$/)
  t.true(facts.address.port > 0)
  const again = run('--json', ...argv)
  t.is(again.status, 4)
  t.like(JSON.parse(again.stderr), { error: { code: 'VMSEAL_FILE_LOCKED' } })
  const leaving = run('--json', 'host', 'leave', '--directory', path.join(directory, 'host'))
  t.like(JSON.parse(leaving.stderr), { error: { code: 'VMSEAL_FILE_LOCKED' } })
  const gone = once(child, 'exit')
  child.kill('SIGTERM')
  t.deepEqual(await gone, [0, null])
  t.is(run('host', 'leave', '--directory', path.join(directory, 'host')).status, 0)
})
