/** `npm run bench`: measures, prints tables, saves the report. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { helpText, parseArguments, usage, type Arguments } from './arguments.js'
import { comparison, requireComparable } from './compare.js'
import { measureConversion } from './conversion.bench.js'
import type { JavaScriptRequest } from './javascript.js'
import { describeMachine, describeVersions, root } from './machine.js'
import { buildNative, measureNative } from './native-part.js'
import { findNodes, type NodeProgram } from './peer-node.js'
import { parseJavaScript, readReport, serialize, type JavaScriptResults, type Report } from './report.js'
import { sections } from './sections.js'
import { table } from './table.js'

try {
  await main(parseArguments(process.argv.slice(2)))
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n${usage}\n`)
  process.exitCode = 2
}

async function main(options: Arguments): Promise<void> {
  if (options.help) {
    process.stdout.write(helpText)
    return
  }
  const machine = describeMachine()
  const before = options.compare === undefined ? undefined : readReport(options.compare)
  if (before) requireComparable(before, { machine })
  const report = await measure(options, machine)
  for (const { title, notes, head, rows } of sections(report))
    process.stdout.write(`\n${title}\n${notes.map((note) => `${note}\n`).join('')}\n${table(head, rows)}\n`)
  if (before) process.stdout.write(`\nCompared with ${options.compare}\n\n${comparison(before, report)}\n`)
  const file = options.json ?? resultFile(report)
  writeFileSync(file, serialize(report))
  process.stdout.write(`\nreport: ${file}\n`)
}

async function measure(options: Arguments, machine: Report['machine']): Promise<Report> {
  const { quick, only } = options
  const nodes = findNodes(options.withNode)
  const load = { before: currentLoad(), after: 0 }
  const newest = nodes.at(-1)!
  const wantsNative = only.includes('xts') || only.includes('key-wrap')
  const library = wantsNative ? buildNative() : ''
  const native = wantsNative ? measureNative(library, newest, quick, only) : null
  const wantsJavaScript = wantsNative || only.includes('event-loop')
  const javascript = wantsJavaScript ? nodes.map((node) => measureJavaScript(node, library, options)) : []
  if (only.includes('conversion')) process.stderr.write('disk conversion ...\n')
  const conversion = only.includes('conversion')
    ? await measureConversion(quick ? 2 ** 27 : 2 ** 30, quick ? 2 : 7, join(root, 'build'))
    : null
  load.after = currentLoad()
  const date = new Date().toISOString()
  const versions = describeVersions()
  return { schema: 1, date, quick, machine, load, versions, native, javascript, conversion }
}

function measureJavaScript(
  node: NodeProgram,
  library: string,
  { quick, only }: Arguments,
): JavaScriptResults {
  process.stderr.write(`JavaScript, Node ${node.version} ...\n`)
  const output = join(tmpdir(), `vmseal-bench-${process.pid}-javascript.json`)
  const request: JavaScriptRequest = { output, quick, only, library }
  const argv = ['--import=tsx', join(root, 'bench/javascript.ts'), JSON.stringify(request)]
  const { status, signal } = spawnSync(node.path, argv, { cwd: root, stdio: ['ignore', 2, 2] })
  if (status !== 0) throw new Error(`the JavaScript part ended with ${signal ?? `status ${status}`}`)
  const found = parseJavaScript(readFileSync(output, 'utf8'))
  rmSync(output)
  return found
}

function resultFile({ date, machine, quick }: Report): string {
  const folder = join(root, 'bench/results')
  mkdirSync(folder, { recursive: true })
  const name = machine.cpu
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')
  const time = date.slice(0, 16).replace(':', '')
  return join(folder, `${time}-${name}${quick ? '-quick' : ''}.json`)
}

function currentLoad(): number {
  return Math.round((loadavg()[0] ?? 0) * 100) / 100
}
