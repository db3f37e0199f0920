/**
 * docs/kms-performance.md from three measurements, each the JSON of its program:
 *
 *   node --import=tsx bench/kms.bench.ts --json > kms.json
 *   node --import=tsx bench/key-provider-bulk.ts > provider.json
 *   node --import=tsx bench/key-provider-faults.ts > faults.json
 *   node --import=tsx bench/kms-page.ts kms.json provider.json faults.json
 */
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ProviderBulkResult } from './key-provider-bulk.js'
import type { KmsRate, KmsResult } from './kms.bench.js'
import { describeMachine, root } from './machine.js'
import { markdownTable } from './table.js'

interface FaultResult {
  readonly faults: number
  readonly seconds: number
  readonly created: number
  readonly fetched: number
  readonly orphans: number
  readonly duplicates: number
  readonly late: number
  readonly longestMs: number
}

interface Measured {
  readonly date: string
  readonly machine: string
  readonly cpus: number
  readonly kms: KmsResult
  readonly provider: ProviderBulkResult
  readonly faults: FaultResult
}

/** What is wanted, what was found, and whether that is enough. */
export function targetRows({
  kms,
  provider,
  faults,
}: Measured): [target: string, found: string, met: boolean][] {
  const best = (server: KmsRate['server'], operation: KmsRate['operation']) =>
    Math.max(
      0,
      ...kms.rates.filter((rate) => rate.server === server && rate.operation === operation).map(perSecond),
    )
  const get = best('vmseal', 'Get')
  const peer = best('PyKMIP', 'Get')
  const create = perSecond(
    kms.rates.find(
      ({ server, operation, connections }) =>
        server === 'vmseal' && operation === 'Create' && connections === 16,
    ),
  )
  const growth = (kms.memory.after - kms.memory.before) / kms.memory.before
  return [
    ['Get over kept connections: 8,000/s', `${number(get)}/s`, get >= 8000],
    [
      "Get: 10 times PyKMIP's rate",
      peer > 0
        ? `${(get / peer).toFixed(1)} times (${number(get)}/s and ${number(peer)}/s)`
        : 'PyKMIP is not installed',
      peer > 0 && get >= 10 * peer,
    ],
    ['Durable Create, 16 connections: 1,500/s', `${number(create)}/s`, create >= 1500],
    [
      '40,000 keys fetched by a provider: under 30 s',
      `${number(provider.bulk.keys)} in ${provider.bulk.seconds} s, ${provider.failed} failed`,
      provider.bulk.keys >= 40_000 && provider.bulk.seconds < 30 && provider.failed === 0,
    ],
    [
      `Memory flat over ${number(kms.memory.requests)} requests`,
      `${mebibytes(kms.memory.before)} before, ${mebibytes(kms.memory.after)} after`,
      kms.memory.requests >= 200_000 && growth < 0.1,
    ],
    [
      '10,000 faults: no orphan, no duplicate, no call past its deadline',
      `${number(faults.faults)} faults: ${faults.orphans} orphans, ${faults.duplicates} duplicates, ${faults.late} late`,
      faults.faults >= 10_000 && faults.orphans + faults.duplicates + faults.late === 0,
    ],
    ['The audit log of the whole run is unbroken', `${number(kms.audit.records)} records`, kms.audit.ok],
  ]
}

export function page(measured: Measured): string {
  const { date, machine, kms, provider, faults } = measured
  return `# Speed of KMS and key provider

Made by \`bench/kms-page.ts\` from a run on ${date}. Machine: ${machine}. Load average before and after: ${kms.load.before.toFixed(1)} and ${kms.load.after.toFixed(1)}.

${busy(measured)}The KMS is a process of its own; whoever asks runs beside it on the same processors, over loopback and mutual TLS. Every
operation is in the audit log before its answer leaves; Create is on the disk (fsync) before its answer leaves. Requests are
encoded beforehand, so the server is measured and not our client; PyKMIP's server is asked by the same program.

## What is wanted

${markdownTable(
  ['Wanted', 'Measured', 'Met'],
  targetRows(measured).map(([target, found, met]) => [target, found, met ? 'yes' : 'no']),
)}

## Rates

${markdownTable(
  [
    'Server',
    'Operation',
    'Connections',
    'Per second',
    'p50, ms',
    'p99, ms',
    'CPU, us: server',
    'CPU, us: client',
  ],
  kms.rates.map(({ server, operation, connections, perSecond: rate, p50, p99, cpu }) => [
    server,
    operation,
    String(connections),
    number(rate),
    p50.toFixed(2),
    p99.toFixed(2),
    cpu ? number(cpu.server) : '',
    cpu ? number(cpu.client) : '',
  ]),
)}

CPU is the time of all threads of a process for one request. The two processes share the processors, so their sum says how many
requests a machine of this kind can answer at most while it also asks them.

Our client in batches of 100 over four connections gets ${number(kms.batched.perSecond)} keys per second from it. A key provider
fetches ${number(provider.bulk.keys)} different keys in ${provider.bulk.seconds} s (${number(provider.bulk.perSecond)}/s) in bulk, and one by one, 16 calls at once,
${number(provider.oneByOne.perSecond)}/s.

## Faults

${number(faults.faults)} faults (delay, cut before, in and after the answer, half-close, garbage, wrong certificate) in ${faults.seconds} s between a
provider and its servers while ${number(faults.created)} keys were made and ${number(faults.fetched)} fetched: ${faults.orphans} orphans, ${faults.duplicates} duplicates, ${faults.late} calls past
their deadline; the longest call took ${number(faults.longestMs)} ms.
`
}

/** A run beside other work says so: its rates are what was left of the machine. */
function busy({ kms: { load }, cpus }: Measured): string {
  if (load.before <= cpus / 2) return ''
  return `**The machine was busy with other work while this was measured: the rates are lower bounds, and rows that say
"no" have to be measured again on a machine at rest.**

`
}

function perSecond(rate: KmsRate | undefined): number {
  return rate?.perSecond ?? 0
}

function number(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [kms, provider, faults] = process.argv.slice(2)
  if (kms === undefined || provider === undefined || faults === undefined)
    throw new Error('usage: kms-page.ts KMS.json PROVIDER.json FAULTS.json')
  const read = (file: string): unknown => JSON.parse(readFileSync(file, 'utf8'))
  const { cpu, cpus, kernel } = describeMachine()
  writeFileSync(
    join(root, 'docs/kms-performance.md'),
    page({
      date: statSync(kms).mtime.toISOString().slice(0, 10),
      machine: `${cpu}, ${cpus} processors, ${kernel}`,
      cpus,
      kms: read(kms) as KmsResult,
      provider: read(provider) as ProviderBulkResult,
      faults: read(faults) as FaultResult,
    }),
  )
}
