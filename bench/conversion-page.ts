/** `npm run bench:conversion [-- RESULT.json]`: measures conversion, or takes a saved result, and writes docs/conversion-performance.md. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  build,
  diskFolder,
  measureGroup,
  measurePeak,
  memoryFolder,
  type GroupTimes,
  type Peak,
} from './conversion-groups.js'
import { conversionNotes } from './conversion-notes.js'
import { describeMachine, root } from './machine.js'
import { markdownTable } from './table.js'

export interface Measured {
  readonly date: string
  readonly machine: string
  readonly cpus: number
  readonly load: { readonly before: number; readonly after: number }
  readonly groups: readonly GroupTimes[]
  readonly peaks: readonly Peak[]
}

const MiB = 2 ** 20

/** What is wanted, what was found, and whether that is enough. A peer that is not installed meets nothing. */
export function targetRows({ groups, peaks }: Measured): [target: string, found: string, met: boolean][] {
  const against = (group: string, peers: string, least: number): [string, boolean] => {
    const found = groups.filter(({ name }) => name === group).map((one) => foundAgainst(one, peers))
    const ratios = found.flatMap(({ ratio }) => ratio ?? [])
    if (ratios.length === 0) return ['not measured', false]
    return [found.flatMap(({ text }) => text ?? []).join('; '), Math.min(...ratios) >= least]
  }
  const peak = Math.max(...peaks.map(({ peakBytes }) => peakBytes))
  return [
    [
      'Copy over a file: 0.80 of the pipeline with the cipher off',
      ...against('copy over', 'cipher off', 0.8),
    ],
    ['Copy over a file: 1.1 times `dd bs=1M conv=notrunc`', ...against('copy over', 'dd', 1.1)],
    [
      'In place without journal: 0.70 of the pipeline with the cipher off',
      ...against('in place without journal', 'cipher off', 0.7),
    ],
    [
      'In place with journal and barriers: 5 times `cryptsetup reencrypt --resilience journal`',
      ...against('in place with journal', 'cryptsetup', 5),
    ],
    [
      'To a new file, left in the page cache by both: 8 times `qemu-img convert` to LUKS',
      ...against('new file', 'qemu-img', 8),
    ],
    [
      'To a new file, synced by both: 8 times `qemu-img convert` to LUKS',
      ...against('new file, durable', 'qemu-img', 8),
    ],
    [
      'Direct I/O on a cold disk: 0.92 of the pipeline with the cipher off',
      ...against('cold, direct', 'cipher off', 0.92),
    ],
    [
      'Peak memory, a disk of any size: below 160 MiB',
      peaks.map((one) => `${one.way}: ${mebibytes(one.peakBytes)} for ${one.bytes / 2 ** 40} TiB`).join(', '),
      peaks.length > 0 && peak < 160 * MiB,
    ],
  ]
}

export function page(measured: Measured): string {
  const { date, machine, load, groups } = measured
  return `# Speed of conversion

Made by \`npm run bench:conversion\` from a run on ${date}. Machine: ${machine}. Load average before and after: ${load.before.toFixed(1)} and ${load.after.toFixed(1)}.

${busy(measured)}The ways of a group take turns in one process, nobody always first, and everything is synced before each. Ratios are medians of the
ratios within a round. Against several ways of a peer, its fastest counts. A group on tmpfs is the page cache alone, without a disk
behind it; its barriers cost nothing for either side.

## What is wanted

${markdownTable(
  ['Wanted', 'Measured', 'Met'],
  targetRows(measured).map(([target, found, met]) => [target, found, met ? 'yes' : 'no']),
)}

## What was measured

${markdownTable(
  ['Group', 'File system', 'Way', 'GB/s', 'Lowest', 'Highest', 'Ours is'],
  groups.flatMap((group) =>
    group.ways.map(({ name, seconds }, index) => [
      group.name,
      group.fileSystem,
      name,
      rate(group.bytes, median(seconds)),
      rate(group.bytes, Math.max(...seconds)),
      rate(group.bytes, Math.min(...seconds)),
      index === 0 ? '' : `${ratioTo(group, index).toFixed(2)} x`,
    ]),
  ),
)}

${conversionNotes}`
}

/** A run beside other work says so. */
function busy({ load, cpus }: Measured): string {
  if (Math.max(load.before, load.after) <= cpus) return ''
  return `**The machine was busy with other work while this was measured: rows that say "no" have to be measured again on a machine
at rest.**

`
}

/** Our speed against the fastest of the ways whose name holds `peers`, and beside it what less work than ours would come to. */
function foundAgainst(group: GroupTimes, peers: string): { readonly ratio?: number; readonly text?: string } {
  const indices = indicesOf(group, peers)
  const againstFastest = (to?: number) => Math.min(...indices.map((index) => ratioTo(group, index, to)))
  if (indices.length === 0) return {}
  const limits = [
    ['the same writes', 'the writes alone'],
    ['in one stream', 'one stream of as many bytes'],
  ] as const
  const beside = limits.flatMap(([way, label]) =>
    indicesOf(group, way).map((limit) => `${label}: ${againstFastest(limit).toFixed(2)}`),
  )
  const ratio = againstFastest()
  const aside = beside.length === 0 ? '' : ` (${beside.join(', ')})`
  return { ratio, text: `${ratio.toFixed(2)} times on ${group.fileSystem}${aside}` }
}

function indicesOf({ ways }: GroupTimes, part: string): number[] {
  return ways.flatMap(({ name }, index) => (index > 0 && name.includes(part) ? [index] : []))
}

/** Median of the ratios within a round; `to` is ours by default. */
function ratioTo({ ways }: GroupTimes, index: number, to = 0): number {
  const ours = ways[to]?.seconds ?? []
  return median((ways[index]?.seconds ?? []).map((theirs, round) => theirs / (ours[round] ?? Number.NaN)))
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  const [low = Number.NaN, high = Number.NaN] = [sorted[Math.ceil(sorted.length / 2) - 1], sorted[middle]]
  return (low + high) / 2
}

function rate(bytes: number, seconds: number): string {
  return (bytes / seconds / 1e9).toFixed(2)
}

function mebibytes(bytes: number): string {
  return `${(bytes / MiB).toFixed(1)} MiB`
}

function measure(): Measured {
  build()
  const [before = 0] = loadavg()
  const half = 512 * MiB
  const groups = [
    measureGroup(diskFolder, half, 201, 'copy over'),
    measureGroup(diskFolder, half, 31, 'in place without journal'),
    measureGroup(diskFolder, half, 11, 'in place with journal'),
    measureGroup(memoryFolder, half, 7, 'in place with journal'),
    measureGroup(diskFolder, half, 5, 'new file'),
    measureGroup(memoryFolder, half, 5, 'new file'),
    measureGroup(diskFolder, half, 5, 'new file, durable'),
    measureGroup(diskFolder, half, 3, 'cold, direct'),
  ]
  const peaks = [measurePeak(2 ** 42, 'copy'), measurePeak(2 ** 42, 'in-place')]
  const { cpu, cpus, kernel } = describeMachine()
  return {
    date: new Date().toISOString().slice(0, 10),
    machine: `${cpu}, ${cpus} processors, ${kernel}`,
    cpus,
    load: { before, after: loadavg()[0] ?? 0 },
    groups,
    peaks,
  }
}

function measureAndSave(): Measured {
  const measured = measure()
  const folder = join(root, 'bench/results')
  mkdirSync(folder, { recursive: true })
  const file = join(folder, 'conversion.json')
  writeFileSync(file, `${JSON.stringify(measured, null, 2)}\n`)
  process.stderr.write(`result: ${file}\n`)
  return measured
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [saved] = process.argv.slice(2)
  const measured =
    saved === undefined ? measureAndSave() : (JSON.parse(readFileSync(saved, 'utf8')) as Measured)
  const text = page(measured)
  writeFileSync(join(root, 'docs/conversion-performance.md'), text)
  process.stdout.write(text)
}
