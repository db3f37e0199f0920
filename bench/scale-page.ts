/**
 * `npm run bench:scale [-- RESULT.json]`: measures a cluster of 64 hosts and 8,000 VMs, or takes a saved result, and writes
 * docs/scale-performance.md.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { format, resolveConfig } from 'prettier'
import { root } from './machine.js'
import { measureScale, type ScaleReport } from './scale.bench.js'
import { markdownTable } from './table.js'

/** In milliseconds. */
const wanted = { unlocked: 2000, push: 1000 }
/** A median of a few runs is no better than this; what grows with the inventory would be ten times as dear. */
const flat = 1.5

/** What is wanted, what was found, and whether that is enough. */
export function targetRows(report: ScaleReport): [target: string, found: string, met: boolean][] {
  const { hosts, small, large, operations, pushes, restarts } = report
  const ratios = operations.map((one) => ({ ...one, ratio: one.large.median / one.small.median }))
  const steepest = ratios.toSorted((a, b) => b.ratio - a.ratio)[0]
  return [
    ...restarts.map(({ way, vms, unlockedMs }): [string, string, boolean] => [
      `A restarted host with 125 encrypted VMs is unlocked in under 2 s (${way})`,
      `${count(vms)} VMs in ${milliseconds(unlockedMs.median)}`,
      vms >= 125 && unlockedMs.median < wanted.unlocked,
    ]),
    ...pushes.map((push): [string, string, boolean] => [
      `A KEK is pushed to all 64 hosts in under 1 s (${push.way})`,
      `to ${push.hosts} in ${milliseconds(push.ms.median)}`,
      push.hosts >= 64 && push.ms.median < wanted.push,
    ]),
    [
      'The cost of an operation is flat as the inventory grows tenfold',
      steepest
        ? `${count(small)} to ${count(large)} VMs on ${hosts} hosts: at most ${steepest.ratio.toFixed(2)} times (${steepest.operation})`
        : 'not measured',
      steepest !== undefined && large >= 8000 && hosts >= 64 && steepest.ratio < flat,
    ],
  ]
}

export function page(report: ScaleReport): string {
  const { date, machine, node, load, hosts, small, large, operations, restarts, filled, residentMiB } = report
  return `# Speed of a large cluster

Made by \`npm run bench:scale\` from a run on ${date}. Machine: ${machine.cpu}, ${machine.cpus} processors, ${machine.kernel}, Node
${node}; load average before and after: ${load.before.toFixed(1)} and ${load.after.toFixed(1)}.

${busy(report)}KMS, vCenter and ${hosts} hosts in one process, all of it the product's own code: every VM (one disk of 64 KiB) was made by
vCenter and has a KEK of its own, which every host of the cluster has. vCenter's and the KMS's files are on the disk of the machine and
synced; the datastore is in memory. _in process_: hosts behind the JSON wall of one process. _network_: a second cluster of as many
host agents, each with its port, over HTTPS with mutual TLS on loopback; both ends of each connection and all hosts then share one
thread with vCenter, so the times are upper bounds.

${(report.notes ?? []).map((note) => `${note}\n\n`).join('')}## What is wanted

${markdownTable(
  ['Wanted', 'Measured', 'Met'],
  targetRows(report).map(([target, found, met]) => [target, found, met ? 'yes' : 'no']),
)}

## Operations as the inventory grows

Medians of ${operations[0]?.small.rounds ?? 0} runs in milliseconds, with the quartiles. What makes a key pushes it to all ${hosts} hosts.

${markdownTable(
  ['Operation', `${count(small)} VMs`, 'Quartiles', `${count(large)} VMs`, 'Quartiles', 'Ratio'],
  operations.map(({ operation, small: few, large: many }) => [
    operation,
    few.median.toFixed(1),
    `${few.q1.toFixed(1)} to ${few.q3.toFixed(1)}`,
    many.median.toFixed(1),
    `${many.q1.toFixed(1)} to ${many.q3.toFixed(1)}`,
    (many.median / few.median).toFixed(2),
  ]),
)}

## A host that restarted

Times begin when vCenter looks at the host again. Its own VMs come first: they do not wait for the keys of all others.

${markdownTable(
  ['Way', 'VMs of the host', 'Keys of the cluster', 'Last VM unlocked, ms', 'All keys there, ms'],
  restarts.map(({ way, vms, keys, unlockedMs, wholeMs }) => [
    way,
    count(vms),
    count(keys),
    unlockedMs.median.toFixed(0),
    wholeMs.median.toFixed(0),
  ]),
)}

Making ${count(filled.vms)} VMs, 8 at once, with ${count(filled.vms * hosts)} pushes, took ${filled.seconds.toFixed(0)} s beside other work. In the end the process, with
the keys of all hosts, had ${residentMiB.toFixed(0)} MiB of resident memory.
`
}

/** A run beside other work says so. */
function busy({ load, machine }: ScaleReport): string {
  if (Math.max(load.before, load.after) <= machine.cpus) return ''
  return `**The load average is that of the filling, and of other work: rows that say "no" have to be measured again on a machine at
rest.**

`
}

function count(value: number): string {
  return value.toLocaleString('en-US')
}

function milliseconds(value: number): string {
  return `${value.toFixed(0)} ms`
}

async function measureAndSave(): Promise<ScaleReport> {
  const report = await measureScale({ hosts: 64, vms: 8000 })
  const folder = join(root, 'bench/results')
  mkdirSync(folder, { recursive: true })
  const file = join(folder, 'scale.json')
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`)
  process.stderr.write(`result: ${file}\n`)
  return report
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [saved] = process.argv.slice(2)
  const report =
    saved === undefined ? await measureAndSave() : (JSON.parse(readFileSync(saved, 'utf8')) as ScaleReport)
  const file = join(root, 'docs/scale-performance.md')
  const text = await format(page(report), { ...(await resolveConfig(file)), parser: 'markdown' })
  writeFileSync(file, text)
  process.stdout.write(text)
  process.exit(0)
}
