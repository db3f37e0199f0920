/** The circuit breaker of a server, on a clock of the test. */
import test from 'ava'
import {
  breakerTransitions,
  CircuitBreaker,
  type BreakerSignal,
  type BreakerState,
} from '../../src/vcenter/key-provider/circuit-breaker.js'

function breakerAt(state: BreakerState) {
  const clock = { now: 0 }
  const options = { firstBackoffMs: 1000, longestBackoffMs: 60_000, now: () => clock.now, random: () => 0 }
  const breaker = new CircuitBreaker(options)
  if (state !== 'closed') breaker.fail()
  if (state === 'half-open') {
    clock.now += 1000
    breaker.takeProbe()
  }
  return { breaker, clock }
}

const expected: readonly (readonly [BreakerState, BreakerSignal, BreakerState])[] = [
  ['closed', 'success', 'closed'],
  ['closed', 'failure', 'open'],
  ['closed', 'elapsed', 'closed'],
  ['open', 'success', 'closed'],
  ['open', 'failure', 'open'],
  ['open', 'elapsed', 'half-open'],
  ['half-open', 'success', 'closed'],
  ['half-open', 'failure', 'open'],
  ['half-open', 'elapsed', 'half-open'],
]

for (const [from, signal, to] of expected)
  test(`H5: a breaker that is ${from} is ${to} after ${signal}`, (t) => {
    t.is(breakerTransitions[from][signal], to)
    const { breaker, clock } = breakerAt(from)
    t.is(breaker.state, from)
    if (signal === 'success') breaker.succeed()
    else if (signal === 'failure') breaker.fail()
    else {
      clock.now += 60_000
      breaker.takeProbe()
    }
    t.is(breaker.state, to)
  })

test('H5: the table has every pair and no other', (t) => {
  const pairs = Object.entries(breakerTransitions).flatMap(([from, row]) =>
    Object.entries(row).map(([signal, to]) => [from, signal, to]),
  )
  t.deepEqual(sorted(pairs), sorted(expected))
})

test('H5: the rest doubles from 1 s to 60 s, begins again after a success, and is the same for failures at once', (t) => {
  const { breaker, clock } = breakerAt('closed')
  const rests: number[] = []
  for (let failures = 0; failures < 9; failures += 1) {
    breaker.fail()
    // Calls that failed of the same cause.
    breaker.fail()
    rests.push(breaker.restMs)
    clock.now += breaker.restMs - 1
    t.false(breaker.takeProbe())
    clock.now += 1
    t.true(breaker.takeProbe())
    t.false(breaker.takeProbe())
  }
  t.deepEqual(rests, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000])
  breaker.succeed()
  t.is(breaker.restMs, 0)
  breaker.fail()
  t.is(breaker.restMs, 1000)
})

test('H5: the jitter takes off up to half, and never goes below the first rest', (t) => {
  for (const random of [0, 0.25, 0.5, 0.999]) {
    let now = 0
    const options = { firstBackoffMs: 1000, longestBackoffMs: 60_000, now: () => now, random: () => random }
    const breaker = new CircuitBreaker(options)
    for (let failures = 0; failures < 12; failures += 1) {
      breaker.fail()
      const full = Math.min(60_000, 1000 * 2 ** failures)
      t.true(Math.abs(breaker.restMs - Math.max(1000, full * (1 - random / 2))) < 0.001)
      now += Math.ceil(breaker.restMs)
      t.true(breaker.takeProbe())
    }
  }
})

function sorted(rows: readonly (readonly string[])[]): string[] {
  return rows.map((row) => row.join(' ')).toSorted()
}
