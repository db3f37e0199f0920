import test from 'ava'
import { comparison, requireComparable } from '../../bench/compare.js'
import { exampleReport, spread } from './fixture.js'

test('results of different machines are refused, and the message says what differs', (t) => {
  const [one, other] = [exampleReport(), exampleReport({ cpu: 'Another CPU' })]
  const expected = {
    message: 'results of different machines are not compared (cpu: Example CPU / Another CPU)',
  }
  t.throws(() => requireComparable(one, other), expected)
  t.throws(() => comparison(one, other), expected)
})

test('another kernel or number of CPUs is another machine', (t) => {
  const one = exampleReport()
  const kernel = { machine: { ...one.machine, kernel: 'Linux 6.19.0' } }
  t.throws(() => requireComparable(one, kernel), { message: /kernel: Linux 6\.18\.0 \/ Linux 6\.19\.0/ })
  t.throws(() => requireComparable(one, { machine: { ...one.machine, cpus: 64 } }), {
    message: /cpus: 2 \/ 64/,
  })
  t.notThrows(() => requireComparable(one, { machine: { ...one.machine, memoryGiB: 48 } }))
})

test('changes are shown, and marked when the quartiles lie apart', (t) => {
  const [before, after] = [exampleReport(), exampleReport()]
  const wrap = after.javascript[0]!.keyWrap[0]!
  after.javascript[0]!.keyWrap[0] = { ...wrap, nsPerKey: spread(80) }
  const lines = comparison(before, after).split('\n')
  t.regex(lines.find((line) => line.includes('wrap, batch of 32')) ?? '', /100 +80\.0 +ns +-20\.0 % +\*$/)
  t.regex(lines.find((line) => line.includes('wrap, batch of 1')) ?? '', /700 +700 +ns +0\.0 %$/)
})

test('peers are not compared with themselves', (t) => {
  t.notRegex(comparison(exampleReport(), exampleReport()), /OpenSSL|AWS-LC|node:crypto|cp,/)
})

test('a quick run is called one', (t) => {
  const quick = { ...exampleReport(), quick: true }
  t.regex(comparison(exampleReport(), quick), /--quick/)
  t.notRegex(comparison(exampleReport(), exampleReport()), /--quick/)
})
