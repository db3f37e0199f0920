// npm run simulate -- [--seeds N] [--from S] [--jobs J]: KMS, vCenter and hosts over a simulated clock, network and disk.
// npm run simulate -- --seeds 1 --from S --trace: everything that happened under one seed, in its order.
import { spawn } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { root, setUp } from './setup.mjs'

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '100000' },
    from: { type: 'string', default: '1' },
    jobs: { type: 'string', default: String(availableParallelism()) },
    plant: { type: 'string' },
    trace: { type: 'boolean', default: false },
  },
})
const [seeds, from, jobs] = [values.seeds, values.from, values.jobs].map(Number)
if (![seeds, from, jobs].every((number) => Number.isSafeInteger(number) && number > 0)) {
  process.stderr.write('--seeds, --from and --jobs are positive whole numbers\n')
  process.exit(2)
}
setUp()

/** Small enough that the memory of a process never matters. */
const seedsOfAProcess = 500
const began = performance.now()
const failures = []
const children = new Set()
for (const signal of ['SIGINT', 'SIGTERM'])
  process.once(signal, () => {
    for (const child of children) child.kill(signal)
    process.exit(1)
  })
let next = from
let done = 0

const progress = setInterval(tell, 5000)
await Promise.all(Array.from({ length: Math.min(jobs, Math.ceil(seeds / seedsOfAProcess)) }, work))
clearInterval(progress)
tell()
process.exit(failures.length === 0 ? 0 : 1)

async function work() {
  while (next < from + seeds) {
    const first = next
    next = Math.min(first + seedsOfAProcess, from + seeds)
    await runSeeds(first, next - first)
  }
}

function runSeeds(first, count) {
  const more = [...(values.trace ? ['--trace'] : []), ...(values.plant ? ['--plant', values.plant] : [])]
  const file = join(root, '__test__/simulation/simulate.ts')
  const argv = ['--import=tsx', '--expose-gc', file, '--json', '--from', first, '--seeds', count, ...more]
  const child = spawn(process.execPath, argv.map(String), { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] })
  children.add(child)
  let seen = 0
  createInterface({ input: child.stdout }).on('line', (line) => {
    const result = JSON.parse(line)
    seen += 1
    done += 1
    if (result.violations.length > 0) fail(result.seed, result.violations)
  })
  return new Promise((resolve) =>
    child.on('close', (status, signal) => {
      children.delete(child)
      if (seen < count) fail(first + seen, [`the process ended with ${status ?? signal}`])
      resolve()
    }),
  )
}

function fail(seed, violations) {
  failures.push(seed)
  process.stdout.write(`seed ${seed} failed:\n${violations.map((text) => `  ${text}\n`).join('')}`)
  process.stdout.write(`  see it again: npm run simulate -- --seeds 1 --from ${seed} --trace\n`)
}

function tell() {
  const rate = done / ((performance.now() - began) / 1000)
  const left = rate > 0 ? `, ${Math.ceil((seeds - done) / rate)} s left` : ''
  process.stdout.write(
    `${done} of ${seeds} seeds, ${failures.length} failed, ${rate.toFixed(1)} a second${left}\n`,
  )
}
