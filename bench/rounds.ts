/**
 * benchmark.js in interleaved rounds. One suite measures its cases one after another, so that a neighbour's burst of
 * work hits some of them only; here every round is a suite of its own in another order, and what counts is the median
 * over the rounds.
 */
import Benchmark from 'benchmark'

export interface Case {
  readonly name: string
  readonly run: () => unknown
}

export interface Pace {
  readonly rounds: number
  /** Seconds that benchmark.js may spend on a case in a round. */
  readonly seconds: number
}

/** Seconds per call of each case in each round. The first round warms up and is dropped. */
export function interleave(cases: readonly Case[], { rounds, seconds }: Pace): number[][] {
  const samples: number[][] = cases.map(() => [])
  for (let round = 0; round <= rounds; round++) {
    const shift = round % cases.length
    const order = [...cases.keys()].map((place) => (place + shift) % cases.length)
    const measured = runSuite(
      order.map((index) => cases[index] as Case),
      seconds,
    )
    if (round > 0) order.forEach((index, place) => samples[index]?.push(measured[place] as number))
  }
  return samples
}

function runSuite(cases: readonly Case[], seconds: number): number[] {
  const suite = new Benchmark.Suite()
  for (const { name, run } of cases)
    suite.add(name, run, { maxTime: seconds, minTime: seconds / 8, minSamples: 5, initCount: 1 })
  let failure: unknown
  // benchmark.js swallows what a case throws.
  suite.on('error', ({ target }: Benchmark.Event) => (failure ??= (target as unknown as Benchmark).error))
  const measured = new Map<string, number>()
  suite.on('cycle', ({ target }: Benchmark.Event) => {
    const { name, stats } = target as unknown as Benchmark & { name: string }
    measured.set(name, median(stats.sample))
  })
  suite.run({ async: false })
  if (failure !== undefined) throw failure
  return cases.map(({ name }) => {
    const found = measured.get(name)
    if (found === undefined || !(found > 0)) throw new Error(`benchmark.js gave no figure for ${name}`)
    return found
  })
}

function median(samples: readonly number[]): number {
  return samples.toSorted((a, b) => a - b)[Math.floor(samples.length / 2)] ?? Number.NaN
}
