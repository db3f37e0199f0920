/** KMS, vCenter and hosts over a simulated clock, network and disk: what must hold, under many seeds. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { plantedFaults, type PlantedFault } from './host-requests.js'
import type { RunResult } from './run.js'

const program = fileURLToPath(new URL('simulate.ts', import.meta.url))
const seedsInAll = 2000
const parts = 4
/** Processes that run the seeds of a part at the same time. */
const atOnce = 2

/** Results of seeds, run in a process of its own: it changes clock, disk and network of everything in it. */
async function runSeeds(
  t: ExecutionContext,
  from: number,
  count: number,
  plant?: PlantedFault,
): Promise<RunResult[]> {
  const argv = [
    '--json',
    '--from',
    String(from),
    '--seeds',
    String(count),
    ...(plant ? ['--plant', plant] : []),
  ]
  const child = spawn(process.execPath, ['--import=tsx', '--expose-gc', program, ...argv], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => void child.kill('SIGTERM'))
  const ended = once(child, 'close')
  const results: RunResult[] = []
  for await (const line of createInterface({ input: child.stdout }))
    results.push(JSON.parse(line) as RunResult)
  await ended
  t.is(results.length, count, 'every seed came to an end')
  return results
}

function failuresOf(results: readonly RunResult[]): string[] {
  return results.flatMap(({ seed, violations }) => violations.map((text) => `seed ${seed}: ${text}`))
}

for (let part = 0; part < parts; part += 1) {
  const count = seedsInAll / parts
  const from = part * count + 1
  test.serial(
    `no byte lost, no key astray, no VM locked and running, every task ended, every record before its act: seeds ${from} to ${from + count - 1}`,
    async (t) => {
      t.timeout(20 * 60_000)
      const share = count / atOnce
      const shares = Array.from({ length: atOnce }, (_, index) => runSeeds(t, from + index * share, share))
      const results = (await Promise.all(shares)).flat()
      t.deepEqual(failuresOf(results), [], 'npm run simulate -- --seeds 1 --from SEED --trace')
      const done = results.reduce((sum, { operations }) => sum + operations.done, 0)
      const refused = results.reduce((sum, { operations }) => sum + operations.refused, 0)
      t.true(done > count && refused > count / 4, `${done} operations done, ${refused} refused`)
    },
  )
}

test.serial('a seed gives the same run in every process', async (t) => {
  const [first, second] = [await runSeeds(t, 1, 8), await runSeeds(t, 1, 8)]
  t.deepEqual(
    first.map(({ trace }) => trace),
    second.map(({ trace }) => trace),
  )
  t.is(new Set(first.map(({ trace }) => trace)).size, first.length, 'and another seed another one')
})

for (const fault of plantedFaults)
  test.serial(`a planted fault is found: ${fault}`, async (t) => {
    // A push that was lost is made good by whoever restarts next, so that most seeds show nothing of it in the end.
    const failures = failuresOf(await runSeeds(t, 1, fault === 'lost push' ? 40 : 12, fault))
    const expected = fault === 'lost push' ? /lacks key|is invalid|lacks \d+ keys/ : /acted twice/
    t.true(failures.some((text) => expected.test(text)), failures.join('\n')) // prettier-ignore
  })
