/**
 * A large inventory: how long a list and searches take, and how much memory the process has. Alone: `node --import=tsx
 * bench/inventory.bench.ts [--vms N] [--json FILE] [--page FILE]`. No host and no KMS: what is measured is vCenter.
 */
import { randomUUID } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { format, resolveConfig } from 'prettier'
import { VCenter } from '../src/index.js'
import { openSqliteStore } from '../src/store/sqlite-store.js'
import { describeMachine } from './machine.js'
import type { Machine } from './report.js'
import { markdownTable } from './table.js'

interface Figure {
  readonly operation: string
  readonly found: number
  /** Of several runs, in milliseconds. */
  readonly median: number
  readonly slowest: number
}

export interface InventoryReport {
  readonly version: 1
  readonly date: string
  readonly machine: Machine
  readonly node: string
  /** Load average while it was measured. */
  readonly load: number
  readonly virtualMachines: number
  readonly disks: number
  readonly figures: readonly Figure[]
  readonly residentMiB: number
}

const wantedMs = 500
const wantedMiB = 400
const runs = 7

const { values } = parseArgs({
  options: { vms: { type: 'string', default: '40000' }, json: { type: 'string' }, page: { type: 'string' } },
})
const report = await measure(Number(values.vms))
if (values.json) await writeFile(values.json, `${JSON.stringify(report, undefined, 1)}\n`)
if (values.page) {
  const settings = await resolveConfig(values.page)
  await writeFile(values.page, await format(pageOf(report), { ...settings, parser: 'markdown' }))
}
process.stdout.write(pageOf(report))
const missed = report.residentMiB >= wantedMiB || report.figures.some(({ slowest }) => slowest >= wantedMs)
process.exit(missed ? 1 : 0)

async function measure(vms: number): Promise<InventoryReport> {
  const directory = await mkdtemp(path.join(tmpdir(), 'vmseal-inventory-'))
  try {
    const keyOfOne = await fill(directory, vms)
    const vcenter = await VCenter.open({ directory })
    const { virtualMachines, keyProviders } = vcenter
    const figures = [
      await time('list', () => virtualMachines.list()),
      await time('search: all of it', () => virtualMachines.search()),
      await time('search: a page of 100', () => virtualMachines.search({ after: 'vm-020000', limit: 100 })),
      await time('search: part of a name', () => virtualMachines.search({ name: '-01234' })),
      await time('search: a key', () => virtualMachines.search({ key: keyOfOne })),
      await time('search: a key provider', () => virtualMachines.search({ keyProvider: 'kms-2' })),
      await time('search: a policy', () => virtualMachines.search({ policy: 'gold' })),
      await time('search: what is locked', () => virtualMachines.search({ cryptoState: 'locked' })),
      await time('get one by name', async () => [await virtualMachines.get('vm-020000')]),
      await time('all keys in use', () => keyProviders.keys.list()),
      await time('who uses a key', async () => (await keyProviders.keys.usage([keyOfOne]))[0]?.parts ?? []),
    ]
    const residentMiB = process.memoryUsage().rss / 2 ** 20
    await vcenter.close()
    return {
      version: 1,
      date: new Date().toISOString().slice(0, 10),
      machine: describeMachine(),
      node: process.version,
      load: loadavg()[0] ?? 0,
      virtualMachines: vms,
      disks: vms * 2,
      figures,
      residentMiB,
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

/** Two disks each; three of four VMs are encrypted, under keys that four VMs share. Made through the store: no host could. */
async function fill(directory: string, vms: number) {
  await (await VCenter.open({ directory })).close()
  const store = openSqliteStore(path.join(directory, 'vcenter.db'))
  const clusterId = randomUUID()
  const gold = randomUUID()
  await store.clusters.insert({ id: clusterId, name: 'prod', createdAt: '' })
  const policy = { encryption: true, filtersBeforeEncryption: false, bundled: false, version: 1 }
  await store.storagePolicies.insert({ id: gold, name: 'gold', ...policy })
  const [plain, encrypting] = await store.storagePolicies.list()
  const keyOf = (group: number) => ({
    providerId: group % 10 === 0 ? 'kms-2' : 'kms-1',
    keyId: `00000000-0000-4000-8000-${String(group).padStart(12, '0')}`,
  })
  for (let n = 0; n < vms; n += 1) {
    const key = n % 4 === 3 ? null : keyOf(Math.floor(n / 4))
    const policyId = (key ? (n % 100 === 0 ? gold : encrypting?.id) : plain?.id) ?? ''
    const name = `vm-${String(n).padStart(6, '0')}`
    await store.virtualMachines.insert({
      id: randomUUID(), revision: 1, name, clusterId, hostId: null, datastore: `ds${n % 40}`, vmx: `${name}/${name}.vmx`,
      homePolicyId: policyId, homeKey: key, homeGeneration: key && 1, formerKeys: [],
      cryptoState: n % 1000 === 1 ? 'locked' : 'unlocked', powerState: n % 2 ? 'poweredOn' : 'poweredOff',
      disks: [0, 1].map((unit) => ({
        diskId: randomUUID(), device: `scsi0:${unit}`, file: `${name}_${unit}.vmdk`, capacityBytes: 2 ** 36, policyId, key,
        generation: key && 1,
      })),
    }) // prettier-ignore
  }
  await store.close()
  return keyOf(5)
}

async function time(operation: string, act: () => Promise<readonly unknown[]>): Promise<Figure> {
  const times: number[] = []
  let found = 0
  for (let run = 0; run < runs; run += 1) {
    const begin = performance.now()
    found = (await act()).length
    times.push(performance.now() - begin)
  }
  const sorted = times.toSorted((one, other) => one - other)
  return { operation, found, median: sorted[Math.floor(runs / 2)] ?? 0, slowest: sorted.at(-1) ?? 0 }
}

function pageOf(one: InventoryReport): string {
  const count = (value: number) => value.toLocaleString('en')
  const rows = one.figures.map(({ operation, found, median, slowest }) => [
    operation,
    count(found),
    median.toFixed(1),
    slowest.toFixed(1),
    slowest < wantedMs ? 'yes' : 'no',
  ])
  const { cpu, cpus, kernel } = one.machine
  return `# A large inventory

Made by \`bench/inventory.bench.ts\` on ${one.date}. Machine: ${cpu}, ${cpus} processors, ${kernel}, Node ${one.node}; load
average ${one.load.toFixed(1)}.

vCenter with ${count(one.virtualMachines)} VMs and ${count(one.disks)} disks, three of four encrypted; ${runs} runs of each operation in one process, the first
of them cold. Wanted: each under ${wantedMs} ms, the process under ${wantedMiB} MiB.

${markdownTable(['operation', 'found', 'median, ms', 'slowest, ms', 'met'], rows)}

The process then has ${one.residentMiB.toFixed(0)} MiB of resident memory (wanted: under ${wantedMiB} MiB: ${one.residentMiB < wantedMiB ? 'met' : 'not met'}). A list holds names and ids,
a search one line for each VM that it finds; both come from indexes of the store, and no host is asked.
`
}
