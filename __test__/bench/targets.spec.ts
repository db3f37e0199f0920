import test from 'ava'
import { reached, targets } from '../../bench/targets.js'
import type { Report } from '../../bench/report.js'
import { exampleReport, spread } from './fixture.js'

test('shares, ratios and delays are judged by the worst case', (t) => {
  const report = exampleReport()
  const slow = report.native!.sectors.find(
    (one) =>
      one.implementation === 'vmseal vaes512' && one.callBytes === 65536 && one.operation === 'decrypt',
  )!
  slow.share = { ...slow.share!, median: 0.9 }
  const judged = find(report, /64 KiB to 1 MiB in place, one core/)
  t.is(judged.measured, 0.9)
  t.false(reached(judged))
  t.true(reached(find(report, /best peer of the run, 512/)))
  t.true(reached(find(report, /best peer of the run, 4096/)))
  t.true(reached(find(report, /p99/)))
})

test('what JavaScript has of the native rate is judged by the worst case of a mebibyte a call', (t) => {
  const report = exampleReport()
  const { xts } = report.javascript[0]!
  t.is(reached(find(report, /own native rate/)), undefined)
  const figures = (share: number) => ({ gbps: spread(15), share: spread(share) })
  for (const share of [0.97, 0.88, 0.95])
    xts.push({ ...xts[0]!, callBytes: 2 ** 20, native: figures(share), peers: [] })
  t.is(find(report, /own native rate/).measured, 0.88)
  t.false(reached(find(report, /own native rate/)))
  xts.push({ ...xts[0]!, callBytes: 2 ** 26, native: figures(0.5), peers: [] })
  t.is(find(report, /own native rate/).measured, 0.88)
})

test('a slower delay is not a better one', (t) => {
  const report = exampleReport()
  report.javascript[0]!.eventLoop!.p99Ms = 7
  t.false(reached(find(report, /p99/)))
})

test('what was not measured is neither reached nor missed, and says why', (t) => {
  const isal = find(exampleReport(), /4096 bytes, against ISA-L/)
  t.is(reached(isal), undefined)
  t.is(isal.missing, 'ISA-L crypto is not on this machine')
  const scripts = exampleReport()
  scripts.javascript[0]!.eventLoop = null
  t.is(reached(find(scripts, /p99/)), undefined)
})

test('own kernels are no peers', (t) => {
  const report = exampleReport({ peerRatio: 3 })
  t.is(find(report, /best peer of the run, 512/).measured, 3)
})

test('without a native part and without a Node there is nothing to judge', (t) => {
  t.deepEqual(targets({ ...exampleReport(), native: null, javascript: [] }), [])
})

test('a miss says what the machine itself gave in the same rounds', (t) => {
  const report = exampleReport()
  const of = (callBytes: number, threads: number) =>
    report.native!.sectors.filter((one) => one.callBytes === callBytes && one.threads === threads)
  for (const one of of(2 ** 16, 2)) {
    one.gbps = { ...one.gbps, median: one.gbps.median * 0.8 }
    one.limit = { ...one.limit!, median: 16 * 2 * 0.8 }
  }
  t.regex(find(report, /all cores/).machine!, /registers alone scaled 0\.80 in the same rounds/)
  const [large] = of(2 ** 16, 1)
  const slow = { ...large!, callBytes: 2 ** 26, share: { ...large!.share!, median: 0.5 } }
  const gbps = { ...large!.gbps, median: 8 }
  report.native!.sectors.push({ ...slow, gbps, memory: { ...gbps, median: 10 } })
  const wide = find(report, /64 MiB, one core, in place/)
  t.false(reached(wide))
  t.regex(wide.machine!, /moved 0\.6[0-9] of the limit.* this is 0\.80$/)
})

function find(report: Report, work: RegExp) {
  return targets(report).find((target) => work.test(target.work))!
}
