import test from 'ava'
import { reached, targets } from '../../bench/targets.js'
import type { Report } from '../../bench/report.js'
import { exampleReport } from './fixture.js'

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

function find(report: Report, work: RegExp) {
  return targets(report).find((target) => work.test(target.work))!
}
