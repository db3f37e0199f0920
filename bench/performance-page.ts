/** docs/performance.md from a report. */
import { notAhead } from './not-ahead.js'
import type { Report } from './report.js'
import { sections, type Section } from './sections.js'
import { markdownTable } from './table.js'
import { reached, targets } from './targets.js'

/** Markdown, before any formatter. */
export function performancePage(report: Report): string {
  const [first, ...others] = sections(report)
  return [
    '# Performance',
    'This page is generated from a report of `npm run bench` by `node scripts/performance-page.mjs`. Do not edit it.',
    ...origin(report),
    '## How to read it',
    ...reading,
    ...(first ? section(first) : []),
    '## Where we are not ahead',
    ...weaknesses(report),
    ...others.flatMap(section),
    '## Measure it yourself',
    '```sh\nnpm run bench                            # everything, about 8 minutes\nnpm run bench -- --quick --only xts        # one part, only to see that it works\nnpm run bench -- --with-node 22.23.3       # a newer Node and its OpenSSL take part, too\nnpm run bench -- --compare bench/results/EARLIER.json\n```',
    'Libraries are found at run time: libcrypto.so.3, libgcrypt.so.20 and libisal_crypto.so.2 (no Debian 12 package has ISA-L crypto: build it and name its folder in LD_LIBRARY_PATH). AWS-LC is built from its crate, which takes a C compiler.',
    'A comparison with results of another machine is refused: absolute rates of two machines say nothing about the code.',
  ].join('\n\n')
}

function origin({ date, machine, versions, load, quick, native, javascript }: Report): string[] {
  const nodes = javascript.map((one) => `Node ${one.node} (OpenSSL ${one.openssl})`)
  const host = native ? [`native part inside Node ${native.host.node} (OpenSSL ${native.host.openssl})`] : []
  return [
    [
      `* Measured: ${date}; load average ${load.before} before, ${load.after} after.`,
      `* Machine: ${machine.cpu}, ${machine.cpus} CPUs, ${machine.memoryGiB} GiB, ${machine.kernel}; flags: ${machine.flags.join(' ')}.`,
      `* Versions: vmseal ${versions.vmseal}, commit ${versions.commit}; ${versions.rustc}; ${[...nodes, ...host].join(', ')}.`,
    ].join('\n'),
    ...(quick ? ['**A --quick run: the figures only show that everything works.**'] : []),
    ...(load.before > 1 || load.after > machine.cpus + 0.5
      ? ['**Other work was running when this was measured: ratios are sounder than rates.**']
      : []),
  ]
}

const reading = [
  [
    '* All who are compared work on the same buffers in interleaved rounds, nobody always first. A figure is the median',
    '  over the rounds; a ratio is the median of the ratios within a round.',
    '* GB/s are 10^9 bytes of payload per second.',
    '* Before anything is timed, every peer must give our bytes, in both directions; who does not is left out.',
    '* A peer is called as its own documentation says, its key set once. Its name, version and call path are in',
    '  "Who takes part". In JavaScript the peer is what anyone would write: a cipher object for each sector.',
  ].join('\n'),
]

function weaknesses(report: Report): string[] {
  const missed = targets(report)
    .filter((target) => reached(target) === false)
    .map(
      ({ work, measured, wanted, unit, machine }) =>
        `Target missed: ${work}: ${measured?.toPrecision(3)} ${unit}, wanted ${wanted}${machine ? ` (${machine})` : ''}.`,
    )
  const unmeasured = targets(report)
    .filter((target) => reached(target) === undefined)
    .map(({ work, missing }) => `Not measured: ${work} (${missing ?? 'not part of this run'}).`)
  const all = [...missed, ...notAhead(report), ...unmeasured]
  const found = all.length === 0 ? 'Nowhere in this report.' : all.map((line) => `* ${line}`).join('\n')
  return [found, ...limitsOfTheClaim(report)]
}

/** What no figure of this report can show. */
function limitsOfTheClaim({ native, javascript }: Report): string[] {
  const versions = native?.implementations.map(({ version }) => version) ?? []
  const strong = versions.some((version) => /^OpenSSL (3\.([5-9]|\d\d)|[4-9])/.test(version))
  const opensslNote =
    'OpenSSL before 3.5 has no VAES code for XTS, so it is not the strongest peer, and Node before 22 has such an OpenSSL.'
  return [
    ...(native && !strong ? [`${opensslNote} None newer took part in the native tables here.`] : []),
    ...(native && strong
      ? [`${opensslNote} The native tables therefore have the OpenSSL inside Node ${native.host.node}, too.`]
      : []),
    ...(javascript.some(({ node }) => Number.parseInt(node, 10) < 22)
      ? ['Ratios over node:crypto of a Node before 22 are partly owed to its older OpenSSL.']
      : []),
    'Ratios over node:crypto are mostly the cost of an object for each sector, not of AES: they are a claim about that call path only. ' +
      'In native code nobody can be faster than the AES units, and the best peers already use most of them on large sectors.',
    'Measured on one kind of CPU. The kernels for others (VAES-256, AES-NI, portable) were forced on it; Arm was not measured.',
  ]
}

function section({ title, notes, head, rows }: Section): string[] {
  return [`## ${title}`, ...(notes.length > 0 ? [notes.join('\n')] : []), markdownTable(head, rows)]
}
