/** The page of a large cluster says plainly which target was missed. */
import test from 'ava'
import { page, targetRows } from '../../bench/scale-page.js'
import type { ScaleReport } from '../../bench/scale.bench.js'

const spread = (median: number) => ({ median, q1: median - 1, q3: median + 1, rounds: 9 })
const restart = { vms: 125, keys: 8000, unlockedMs: spread(1999), wholeMs: spread(90_000) }
const measured: ScaleReport = {
  date: '2026-01-01',
  machine: { cpu: 'a machine', flags: [], cpus: 2, memoryGiB: 8, kernel: 'Linux' },
  node: 'v20',
  load: { before: 0, after: 1 },
  hosts: 64,
  small: 800,
  large: 8000,
  operations: [
    { operation: 'create', small: spread(100), large: spread(149) },
    { operation: 'power on', small: spread(10), large: spread(9) },
  ],
  pushes: [
    { way: 'in process', hosts: 64, ms: spread(999) },
    { way: 'network', hosts: 64, ms: spread(500) },
  ],
  restarts: [
    { way: 'in process', ...restart },
    { way: 'network', ...restart },
  ],
  filled: { vms: 8000, seconds: 100 },
  residentMiB: 500,
}

const missed = (report: ScaleReport): string[] =>
  targetRows(report).flatMap(([target, , met]) => (met ? [] : [target]))

test('figures that are just enough meet every target', (t) => {
  t.deepEqual(missed(measured), [])
  t.is(targetRows(measured).length, 5)
  t.false(page(measured).includes('| no'))
  t.true(page(measured).includes('| create'))
})

const [first, second] = measured.restarts
const [push, other] = measured.pushes
for (const [what, less, count] of [
  ['slow to unlock', { restarts: [first, { ...second, unlockedMs: spread(2000) }] }, 1],
  ['a host with few VMs', { restarts: [{ ...first, vms: 124 }, second] }, 1],
  ['a slow push', { pushes: [{ ...push, ms: spread(1000) }, other] }, 1],
  ['a push to few hosts', { pushes: [push, { ...other, hosts: 63 }] }, 1],
  ['a cost that grows', { operations: [{ operation: 'create', small: spread(100), large: spread(150) }] }, 1],
  ['nothing measured', { operations: [] }, 1],
  ['a small inventory', { large: 7999 }, 1],
  ['few hosts', { hosts: 63 }, 1],
] as const)
  test(`missed: ${what}`, (t) => {
    const report = { ...measured, ...less } as ScaleReport
    t.is(missed(report).length, count)
    t.true(page(report).includes('| no'))
  })

test('a run on a busy machine says that it was', (t) => {
  t.false(page(measured).includes('other work: rows'))
  t.true(page({ ...measured, load: { before: 1, after: 2.1 } }).includes('other work: rows'))
})
