/** The page of KMS figures says plainly which target was missed. */
import test from 'ava'
import { page, targetRows } from '../../bench/kms-page.js'
import type { KmsRate } from '../../bench/kms.bench.js'

const rate = { connections: 16, p50: 1, p99: 2 }
const rates: readonly KmsRate[] = [
  { ...rate, server: 'vmseal', operation: 'Create', perSecond: 1500 },
  { ...rate, server: 'vmseal', operation: 'Create', connections: 64, perSecond: 9000 },
  { ...rate, server: 'vmseal', operation: 'Get', perSecond: 8000 },
  { ...rate, server: 'PyKMIP', operation: 'Get', perSecond: 800 },
]
/** The same with another rate at one place. */
const changed = (index: number, perSecond: number) =>
  rates.map((one, at) => (at === index ? { ...one, perSecond } : one))
const measured = {
  date: '2026-01-01',
  machine: 'a machine',
  cpus: 2,
  kms: {
    rates,
    batched: { keys: 40_000, perSecond: 20_000 },
    memory: { requests: 200_000, before: 1000, after: 1099 },
    audit: { records: 1, ok: true },
    load: { before: 0, after: 1 },
  },
  provider: {
    bulk: { keys: 40_000, seconds: 29.9, perSecond: 1337 },
    oneByOne: { keys: 4000, seconds: 1, perSecond: 4000 },
    failed: 0,
    load: { before: 0, after: 1 },
  },
  faults: {
    faults: 10_000,
    seconds: 1,
    created: 5,
    fetched: 6,
    orphans: 0,
    duplicates: 0,
    late: 0,
    longestMs: 7,
  },
} as const

test('figures that are just enough meet every target', (t) => {
  t.deepEqual(
    targetRows(measured).filter(([, , met]) => !met),
    [],
  )
  t.false(page(measured).includes('| no |'))
})

const { kms, provider, faults } = measured
for (const [what, less] of [
  ['Get', { kms: { ...kms, rates: changed(2, 7999) } }],
  ['Create at another number of connections', { kms: { ...kms, rates: rates.slice(1) } }],
  ['a faster peer', { kms: { ...kms, rates: changed(3, 801) } }],
  ['no peer', { kms: { ...kms, rates: rates.slice(0, 3) } }],
  ['memory', { kms: { ...kms, memory: { ...kms.memory, after: 1100 } } }],
  ['too few requests', { kms: { ...kms, memory: { ...kms.memory, requests: 199_999 } } }],
  ['the audit log', { kms: { ...kms, audit: { records: 1, ok: false } } }],
  ['slow keys', { provider: { ...provider, bulk: { ...provider.bulk, seconds: 30 } } }],
  ['few keys', { provider: { ...provider, bulk: { ...provider.bulk, keys: 4000 } } }],
  ['a key that failed', { provider: { ...provider, failed: 1 } }],
  ['an orphan', { faults: { ...faults, orphans: 1 } }],
  ['a duplicate', { faults: { ...faults, duplicates: 1 } }],
  ['a late call', { faults: { ...faults, late: 1 } }],
  ['few faults', { faults: { ...faults, faults: 2000 } }],
] as const)
  test(`missed: ${what}`, (t) => {
    const rows = targetRows({ ...measured, ...less }).filter(([, , met]) => !met)
    t.true(rows.length > 0)
    t.true(page({ ...measured, ...less }).includes('| no'))
  })

test('a run on a busy machine says that it was', (t) => {
  t.false(page(measured).includes('busy with other work'))
  t.true(
    page({ ...measured, kms: { ...kms, load: { before: 1.1, after: 2 } } }).includes('busy with other work'),
  )
})
