import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { parseArguments } from '../../bench/arguments.js'
import { root } from '../../bench/machine.js'
import { readReport, serialize } from '../../bench/report.js'
import { exampleReport } from './fixture.js'

test('arguments', (t) => {
  const nothing = parseArguments([])
  t.false(nothing.quick)
  t.deepEqual(nothing.only, ['xts', 'key-wrap', 'event-loop', 'conversion'])
  const some = parseArguments(['--quick', '--only', 'xts,key-wrap', '--with-node', '22.23.3'])
  t.true(some.quick)
  t.deepEqual(some.only, ['xts', 'key-wrap'])
  t.is(some.withNode, '22.23.3')
})

for (const argv of [['--fast'], ['--only', 'xts,disks'], ['--only', ''], ['--with-node', '22'], ['extra']])
  test(`refused: ${argv.join(' ')}`, (t) => {
    t.throws(() => parseArguments(argv))
  })

test('--help says what a run takes and measures nothing', (t) => {
  const { status, stdout } = bench('--help')
  t.is(status, 0)
  t.regex(stdout, /about 8 minutes/)
  for (const part of ['xts', 'key-wrap', 'event-loop', 'conversion']) t.true(stdout.includes(part))
})

test('--compare with another machine ends before anything is measured, status 2', (t) => {
  const file = join(folder(t), 'report.json')
  writeFileSync(file, serialize(exampleReport()))
  const { status, stdout, stderr } = bench('--compare', file)
  t.is(status, 2)
  t.is(stdout, '')
  t.regex(stderr, /results of different machines are not compared/)
})

test('one part runs, prints its table and saves a report that compares with itself', (t) => {
  const file = join(folder(t), 'report.json')
  const { status, stdout, stderr } = bench('--quick', '--only', 'event-loop', '--json', file)
  t.is(status, 0, stderr)
  t.regex(stdout, /the event loop during encryptAsync/)
  const report = readReport(file)
  t.is(report.native, null)
  t.is(report.javascript[0]?.node, process.versions.node)
  t.is(report.javascript[0]?.eventLoop?.bytes, 2 ** 28)
  const again = bench('--quick', '--only', 'event-loop', '--json', `${file}.2`, '--compare', file)
  t.is(again.status, 0, again.stderr)
})

function bench(...argv: string[]) {
  return spawnSync(process.execPath, ['--import=tsx', 'bench/run.ts', ...argv], {
    cwd: root,
    encoding: 'utf8',
  })
}

function folder(t: ExecutionContext): string {
  const made = mkdtempSync(join(tmpdir(), 'vmseal-bench-test-'))
  t.teardown(() => rmSync(made, { recursive: true }))
  return made
}
