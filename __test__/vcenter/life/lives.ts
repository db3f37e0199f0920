/** Runs sequences of a range of seeds and tells of each, as text: `npm run lives`. */
import { parseArgs } from 'node:util'
import { runSequence } from './sequence.js'

const { values } = parseArgs({
  options: {
    from: { type: 'string', default: '1' },
    seeds: { type: 'string', default: '150' },
    trace: { type: 'boolean', default: false },
  },
})
const [from, seeds] = [values.from, values.seeds].map(Number) as [number, number]
if (![from, seeds].every((number) => Number.isSafeInteger(number) && number > 0)) {
  process.stderr.write('--from and --seeds are positive whole numbers\n')
  process.exit(2)
}
const seen = new Map<string, number>()
let failed = 0
for (let seed = from; seed < from + seeds; seed += 1)
  try {
    const trace = values.trace ? (text: string) => process.stdout.write(`${text}\n`) : undefined
    const { outcomes } = await runSequence(seed, trace)
    for (const outcome of outcomes) seen.set(outcome, (seen.get(outcome) ?? 0) + 1)
    process.stdout.write(`seed ${seed}: all agrees\n`)
  } catch (error) {
    failed += 1
    process.stdout.write(`${error instanceof Error ? error.message : String(error)}\n`)
  }
for (const [outcome, count] of [...seen].toSorted()) process.stdout.write(`${count} ${outcome}\n`)
process.stdout.write(`${seeds - failed} of ${seeds} sequences agree\n`)
process.exit(failed === 0 ? 0 : 1)
