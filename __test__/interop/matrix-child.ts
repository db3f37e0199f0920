/**
 * Runs every peer that is here and writes the matrix as Markdown: matrix-child.ts FILE [LABEL=PYTHON ...]. A label says
 * which PyKMIP an interpreter has.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import type { ExecutionContext } from 'ava'
import type { KmipClientOptions } from '../../src/kmip/client.js'
import { defaultVersions, protocolVersions } from '../../src/kmip/version.js'
import type { ProtocolVersion } from '../../src/kmip/version.js'
import { Kms } from '../../src/kms/kms.js'
import { startPyKmip } from '../kmip/pykmip.js'
import { temporaryDirectory } from '../kms/running-kms.js'
import { kmipGo, startKmipGo } from './kmip-go.js'
import { operations, tryOurClient } from './our-client.js'
import type { Outcome } from './our-client.js'
import { tryKmipGo, tryPyKmip } from './their-clients.js'

interface Row {
  readonly peer: string
  readonly version: ProtocolVersion
  readonly outcome: Outcome
}

const pyKmipVersions = [...defaultVersions, '2.0'] as const

async function main(file: string, pythons: readonly string[]): Promise<void> {
  const interpreters = pythons.map((pair) => pair.split('=') as [string, string])
  const servers: Row[] = [...(await ourClientAt('vmseal', protocolVersions, startOurs))]
  const clients: Row[] = []
  for (const [label, python] of interpreters) {
    servers.push(...(await ourClientAt(label, pyKmipVersions, (t) => startPyKmip(t, python))))
    clients.push(...(await atOurServer(label, pyKmipVersions, tryPyKmip.bind(undefined, python))))
  }
  if (existsSync(kmipGo)) {
    const label = `ovh/kmip-go ${goVersion()}`
    servers.push(...(await ourClientAt(label, defaultVersions, startKmipGo)))
    clients.push(...(await atOurServer(label, defaultVersions, tryKmipGo)))
  }
  writeFileSync(file, page(servers, clients))
}

type Scope = Pick<ExecutionContext, 'teardown'>

/** Ends what was begun in it, the last first, as the context of a test does. */
async function scoped<T>(work: (scope: Scope) => Promise<T>): Promise<T> {
  const ends: (() => unknown)[] = []
  try {
    return await work({ teardown: (end: () => unknown) => void ends.push(end) })
  } finally {
    for (const end of ends.toReversed()) await end()
  }
}

async function startOurs(scope: Scope): Promise<KmipClientOptions> {
  const kms = await Kms.start({ directory: temporaryDirectory(scope as ExecutionContext) })
  scope.teardown(() => kms.stop())
  return { ...kms.endpoint, ...(await kms.enrol('client')) }
}

async function ourClientAt(
  peer: string,
  versions: readonly ProtocolVersion[],
  start: (scope: Scope) => Promise<KmipClientOptions>,
): Promise<Row[]> {
  return scoped(async (scope) => {
    const options = await start(scope)
    const rows: Row[] = []
    for (const version of versions)
      rows.push(told({ peer, version, outcome: await tryOurClient(options, version) }))
    return rows
  })
}

async function atOurServer(
  peer: string,
  versions: readonly ProtocolVersion[],
  run: (
    kms: Kms,
    credentials: Awaited<ReturnType<Kms['enrol']>>,
    version: ProtocolVersion,
  ) => Promise<Outcome>,
): Promise<Row[]> {
  const rows: Row[] = []
  for (const version of versions)
    rows.push(
      await scoped(async (scope) => {
        const kms = await Kms.start({ directory: temporaryDirectory(scope as ExecutionContext) })
        scope.teardown(() => kms.stop())
        return told({ peer, version, outcome: await run(kms, await kms.enrol('client'), version) })
      }),
    )
  return rows
}

function told(row: Row): Row {
  const results = Object.values(row.outcome)
  const good = results.filter((result) => result === 'ok').length
  process.stdout.write(`${row.peer}, KMIP ${row.version}: ${good} of ${results.length} operations\n`)
  return row
}

function goVersion(): string {
  const text = execFileSync('go', ['version', '-m', kmipGo]).toString()
  return /github\.com\/ovh\/kmip-go\s+v?(\S+)/.exec(text)?.[1] ?? ''
}

const today = new Date().toISOString().slice(0, 10)

function page(servers: readonly Row[], clients: readonly Row[]): string {
  return [
    '# Interoperability',
    '',
    `What works between vmseal's KMIP and other people's, operation by operation: \`npm run interop\`, ${today}. Every`,
    'cell was run and its outcome checked: the key is the same on both sides, the attribute changed, the wrapped key opens',
    'to the key, what was destroyed is gone.',
    '',
    '`ok`: done and checked. A reason: what the server answered. An empty cell: the version has no such operation, the',
    'client of the peer does not offer it, or it was not reached. `batch` is 100 keys in as few messages as the server takes',
    '(two in one with the client of kmip-go).',
    '',
    '## What to know',
    '',
    '* Keys are wrapped without encoding (RFC 3394 and RFC 5649 over the bytes of the key), which 1.0 cannot ask for.',
    '* PyKMIP has no AddAttribute, Archive and Recover: it cannot read the message and answers `InvalidMessage`, for a batch',
    '  as a whole. `KmipClient.tryAddAttributes` takes that as what it is.',
    "* PyKMIP's client reads a wrapped key only where Key Value stays a structure. The specification makes it a Byte String,",
    '  which is what our server sends; our client reads both.',
    "* PyKMIP's client sends ReKey of 2.0 with a Template-Attribute, which 2.x does not have.",
    "* PyKMIP's server stumbles in 2.0 over the deletion of a Name (`GeneralFailure`) and knows no Contact Information to set.",
    '* PyKMIP ends the session when a GetAttributes of 2.0 names nothing that the object has, instead of answering with',
    '  nothing. Name `State` along.',
    '* PyKMIP offers TLS 1.2 with CBC suites only for RSA certificates; with an ECDSA certificate there are suites in common.',
    '',
    "## Our client at other people's servers",
    '',
    ...table(servers),
    '## Their clients at our server',
    '',
    ...table(clients),
  ].join('\n')
}

/** Operations down, versions across: one table for each peer. */
function table(rows: readonly Row[]): string[] {
  const peers = [...new Set(rows.map(({ peer }) => peer))]
  return peers.flatMap((peer) => {
    const columns = rows.filter((row) => row.peer === peer)
    const lines = operations
      .map((operation) => [operation, ...columns.map(({ outcome }) => cell(outcome[operation]))])
      .filter(([, ...cells]) => cells.some((text) => text !== ''))
    const head = ['Operation', ...columns.map(({ version }) => version)]
    const widths = head.map((text, place) =>
      Math.max(...[head, ...lines].map((line) => line[place]?.length ?? 0), text.length),
    )
    const line = (cells: readonly string[]) =>
      `| ${cells.map((text, place) => text.padEnd(widths[place] ?? 0)).join(' | ')} |`
    return [
      `### ${peer}`,
      '',
      line(head),
      line(widths.map((width) => '-'.repeat(width))),
      ...lines.map(line),
      '',
    ]
  })
}

/** `ok`, or the reason in the words of the specification: each library writes it in its own way. */
function cell(result = ''): string {
  const quoted = /reason="(\w+)"/.exec(result)?.[1] ?? result
  const plain = /^[A-Z_]+$/.test(quoted)
    ? quoted.replaceAll(/_?([A-Z])([A-Z]*)/g, (_, first: string, rest: string) => first + rest.toLowerCase())
    : quoted
  return plain.replaceAll('|', '/').replaceAll('\n', ' ').slice(0, 60)
}

const [file, ...pythons] = process.argv.slice(2)
if (file === undefined) throw new Error('matrix-child.ts FILE [LABEL=PYTHON ...]')
await main(file, pythons)
