import test from 'ava'
import { performancePage } from '../../bench/performance-page.js'
import { exampleReport } from './fixture.js'

test('the page names machine, versions, peers and their call paths', (t) => {
  const page = performancePage(exampleReport())
  for (const text of [
    'Example CPU, 2 CPUs, 24 GiB, Linux 6.18.0',
    'commit 0123456789ab',
    'Node 20.20.2 (OpenSSL 3.0.19)',
    '| OpenSSL (system) | OpenSSL 3.0.19 | EVP_CipherUpdate |',
    'Absent: ISA-L crypto (not on this machine).',
  ])
    t.true(page.includes(text), text)
})

test('where others are faster or level is said', (t) => {
  const weak = weaknesses(performancePage(exampleReport({ peerRatio: 0.9 })))
  t.true(weak.includes('Native key wrap, 1 per call: slower than AWS-LC (0.50 x its speed).'))
  t.true(weak.includes('slower than cp, left in the page cache (0.50 x its speed).'))
  t.true(weak.includes('4096-byte sectors, 1 MiB per call: slower than OpenSSL (system) (0.90 x its speed).'))
  t.true(
    weak.includes('Target missed: the same against the best peer of the run, 4096-byte sectors: 0.900 x'),
  )
  t.true(
    weaknesses(performancePage(exampleReport({ peerRatio: 1.01 }))).includes('level with OpenSSL (system)'),
  )
  t.false(weaknesses(performancePage(exampleReport({ peerRatio: 2 }))).includes('OpenSSL (system)'))
})

test('what was not measured is listed', (t) => {
  t.regex(weaknesses(performancePage(exampleReport())), /Not measured: .*ISA-L crypto is not on this machine/)
})

test('a weak OpenSSL is not passed off as the strongest peer', (t) => {
  const report = exampleReport()
  t.regex(performancePage(report), /not the strongest peer.*None newer took part/s)
  report.native!.implementations[2]!.version = 'OpenSSL 3.5.8 25 Aug 2026'
  t.notRegex(performancePage(report), /None newer took part/)
})

test('a quick or a disturbed run is called one', (t) => {
  const report = exampleReport()
  t.notRegex(performancePage(report), /--quick run: the figures|Other work was running/)
  t.regex(performancePage({ ...report, quick: true }), /--quick run: the figures only show/)
  for (const load of [
    { before: 3, after: 0 },
    { before: 0, after: 3 },
  ])
    t.regex(performancePage({ ...report, load }), /Other work was running/)
})

test('parts that were left out leave no empty tables', (t) => {
  const page = performancePage({ ...exampleReport(), native: null, conversion: null })
  t.notRegex(page, /Limits of this machine|Encrypting a disk/)
  t.regex(page, /From JavaScript, Node 20\.20\.2: XTS/)
})

function weaknesses(page: string): string {
  return page.slice(page.indexOf('## Where we are not ahead'), page.indexOf('## Limits of this machine'))
}
