/**
 * Runs seeds one after another. With `--json` a line for each, for programs; else progress, and what did not hold with
 * the command that shows it again.
 */
import { parseArgs } from 'node:util'
import type { PlantedFault } from './host-requests.js'

const began = performance.now()
const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1' },
    from: { type: 'string', default: '1' },
    plant: { type: 'string' },
    json: { type: 'boolean', default: false },
    trace: { type: 'boolean', default: false },
  },
})
// What the product gets from Node is in place before the product is loaded.
await import('./runtime.js')
await import('./disk.js')
await import('./network.js')
await import('./database.js')
const { makeTemplate, removeTemplate } = await import('./template.js')
await import('./native-work.js')
const { run } = await import('./run.js')

const from = Number(values.from)
const count = Number(values.seeds)
const template = await makeTemplate()
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => void removeTemplate(template).finally(() => process.exit(1)))
let failed = 0
try {
  for (let seed = from; seed < from + count; seed += 1) {
    const plant = values.plant === undefined ? {} : { plant: values.plant as PlantedFault }
    const { lines, ...result } = await run(template, seed, { keepTrace: values.trace, ...plant })
    if (lines) process.stderr.write(`${lines.join('\n')}\n`)
    if (values.json) process.stdout.write(`${JSON.stringify(result)}\n`)
    if (result.violations.length > 0) failed += 1
    // What a run leaves to the collector holds locked memory and open databases.
    if (seed % 25 === 0) globalThis.gc?.()
  }
} finally {
  await removeTemplate(template)
}
if (!values.json)
  process.stdout.write(`${count} seeds, ${failed} failed, ${Math.round(performance.now() - began)} ms\n`)
process.exit(failed === 0 ? 0 : 1)
