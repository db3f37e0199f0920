/** The page of conversion figures says plainly which target was missed. */
import test from 'ava'
import { page, targetRows, type Measured } from '../../bench/conversion-page.js'

const group = (name: string, ways: Record<string, number[]>) => ({
  name,
  bytes: 1e9,
  fileSystem: 'ext4',
  ways: Object.entries(ways).map(([way, seconds]) => ({ name: way, seconds })),
})

const measured: Measured = {
  date: '2026-01-01',
  machine: 'a machine',
  cpus: 2,
  load: { before: 0, after: 1 },
  groups: [
    group('copy over', { ours: [1, 1, 1], 'cipher off': [0.8, 0.8, 0.8], dd: [1.1, 1.1, 1.1] }),
    group('in place without journal', { ours: [1, 1, 1], 'cipher off': [0.7, 0.1, 0.9] }),
    group('in place with journal', { ours: [1], 'cryptsetup reencrypt': [5] }),
    group('new file', { ours: [1], 'qemu-img convert': [20], 'qemu-img convert -W': [8] }),
    group('new file, durable', { ours: [1], 'qemu-img convert': [8], 'qemu-img convert -W': [9] }),
    group('cold, direct', { ours: [1], 'cipher off': [0.92] }),
  ],
  peaks: [{ way: 'copy', bytes: 2 ** 42, peakBytes: 160 * 2 ** 20 - 1 }],
}

const met = (one: Measured) => targetRows(one).map(([, , enough]) => enough)

test('figures that are just enough meet every target', (t) => {
  t.deepEqual(met(measured), [true, true, true, true, true, true, true, true])
})

test('a figure that is just not enough, or that nobody measured, is a miss', (t) => {
  const { groups } = measured
  t.deepEqual(
    groups.map(
      (missing) =>
        met({ ...measured, groups: groups.filter((one) => one !== missing) }).filter((one) => !one).length,
    ),
    [2, 1, 1, 1, 1, 1],
  )
  const slower = groups.map((one) => ({
    ...one,
    ways: one.ways.map((way, index) =>
      index > 0 ? way : { ...way, seconds: way.seconds.map((time) => time * 1.01) },
    ),
  }))
  t.deepEqual(met({ ...measured, groups: slower }), [false, false, false, false, false, false, false, true])
  t.false(met({ ...measured, peaks: [{ way: 'copy', bytes: 1, peakBytes: 160 * 2 ** 20 }] }).at(-1))
  t.false(met({ ...measured, peaks: [] }).at(-1))
})

test("of a peer's ways the fastest counts, and of two file systems the slower", (t) => {
  const [, slow] = [measured.groups, group('in place with journal', { ours: [1], cryptsetup: [4.9] })]
  t.false(met({ ...measured, groups: [...measured.groups, slow] })[3])
  t.true(targetRows(measured)[4]?.[1].startsWith('8.00 times'))
})

test('the page shows every way, says no, and says when the machine was busy', (t) => {
  const text = page({ ...measured, load: { before: 9, after: 1 }, peaks: [] })
  t.true(text.includes('The machine was busy'))
  t.true(text.includes('| no '))
  t.true(text.includes('cipher off'))
  t.false(page(measured).includes('The machine was busy'))
})

test('what less work than ours would come to stands beside a figure, and decides nothing', (t) => {
  const bounded = group('new file', {
    ours: [2],
    'the same writes alone': [1.6],
    'as many bytes in one stream': [1],
    'qemu-img convert': [8],
  })
  const [, found, enough] = targetRows({ ...measured, groups: [bounded] })[4] ?? []
  t.is(found, '4.00 times on ext4 (the writes alone: 5.00, one stream of as many bytes: 8.00)')
  t.false(enough)
})
