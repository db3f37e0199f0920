/** What one run of the benchmark found: the JSON file for machines, from which tables and the page are made. */
import { readFileSync } from 'node:fs'
import {
  ShapeError,
  exactly,
  flag,
  list,
  nullable,
  number,
  object,
  oneOf,
  text,
  type TypeOf,
} from './schema.js'

/** Median and quartiles over interleaved rounds. */
const spread = object({ median: number, q1: number, q3: number, rounds: number })

const machine = object({
  cpu: text,
  /** Of the flags of /proc/cpuinfo those that matter to AES. */
  flags: list(text),
  cpus: number,
  memoryGiB: number,
  kernel: text,
})

const native = object({
  /** The Node whose process the measurement ran in: its OpenSSL is one of the peers. */
  host: object({ node: text, openssl: text }),
  clockGhz: nullable(spread),
  limits: list(object({ width: text, threads: number, gbps: spread })),
  memory: list(object({ traffic: text, bytes: number, threads: number, gbps: spread })),
  implementations: list(object({ name: text, version: text, callPath: text, peer: flag })),
  absent: list(object({ name: text, reason: text })),
  sectors: list(
    object({
      implementation: text,
      sectorSize: number,
      callBytes: number,
      threads: number,
      operation: oneOf('encrypt', 'decrypt'),
      inPlace: flag,
      gbps: spread,
      /** Share of the AES-unit limit. */
      share: nullable(spread),
      /** That limit in GB/s, for as many threads, in the same rounds. */
      limit: nullable(spread),
      /** Memory traffic without a cipher in the same rounds, in GB/s: vmseal's own kernel, calls larger than the caches. */
      memory: nullable(spread),
      /** vmseal's own choice of kernel is this many times as fast; absent for itself. */
      ours: nullable(spread),
    }),
  ),
  keyWrap: list(
    object({
      implementation: text,
      operation: oneOf('wrap', 'unwrap'),
      batch: number,
      nsPerKey: spread,
      ours: nullable(spread),
    }),
  ),
})

/** A peer inside a JavaScript case: its figure, and how many times as fast vmseal was in the same round. */
const javascriptPeer = object({ name: text, figure: spread, ours: spread })

const eventLoop = object({
  bytes: number,
  calls: number,
  gbps: number,
  samples: number,
  p50Ms: number,
  p99Ms: number,
  maxMs: number,
  idleP99Ms: number,
})

/** What one Node measured. */
const javascript = object({
  node: text,
  openssl: text,
  kernel: text,
  xts: list(
    object({
      sectorSize: number,
      callBytes: number,
      operation: oneOf('encrypt', 'decrypt'),
      gbps: spread,
      nsPerCall: spread,
      /** Native calls on the same buffer in the same rounds, and what share of their rate JavaScript had. */
      native: nullable(object({ gbps: spread, share: spread })),
      /** Figures in GB/s. */
      peers: list(javascriptPeer),
    }),
  ),
  keyWrap: list(
    object({
      operation: oneOf('wrap', 'unwrap'),
      batch: number,
      nsPerKey: spread,
      /** Figures in nanoseconds per key. */
      peers: list(javascriptPeer),
    }),
  ),
  eventLoop: nullable(eventLoop),
})

/** A new file made of a file; the first way is vmseal's. */
const conversion = object({
  bytes: number,
  sectorSize: number,
  ways: list(object({ name: text, gbps: spread, ours: nullable(spread) })),
})

const report = object({
  schema: exactly(1),
  date: text,
  quick: flag,
  machine,
  /** Load average of the last minute at the start and at the end: above 1 others were working, too. */
  load: object({ before: number, after: number }),
  versions: object({ vmseal: text, commit: text, rustc: text }),
  native: nullable(native),
  javascript: list(javascript),
  conversion: nullable(conversion),
})

export type Spread = TypeOf<typeof spread>
export type Machine = TypeOf<typeof machine>
export type NativeResults = TypeOf<typeof native>
export type SectorResult = NativeResults['sectors'][number]
export type JavaScriptResults = TypeOf<typeof javascript>
export type EventLoopResult = TypeOf<typeof eventLoop>
export type ConversionResults = TypeOf<typeof conversion>
export type Report = TypeOf<typeof report>

/** The parts of a run; `--only` chooses among them. */
export const parts = ['xts', 'key-wrap', 'event-loop', 'conversion'] as const
export type Part = (typeof parts)[number]

/** A report from JSON text; throws an Error that says where it is wrong. */
export function parseReport(json: string): Report {
  return report(parseJson(json), 'report')
}

/** What the native part wrote, with the Node that it ran in. */
export function parseNative(json: string, host: NativeResults['host']): NativeResults {
  return native({ ...(parseJson(json) as object), host }, 'native')
}

/** What the JavaScript part of one Node wrote. */
export function parseJavaScript(json: string): JavaScriptResults {
  return javascript(parseJson(json), 'javascript')
}

export function serialize(value: Report): string {
  return `${JSON.stringify(value, (_, member: unknown) => rounded(member), 1)}\n`
}

export function readReport(file: string): Report {
  try {
    return parseReport(readFileSync(file, 'utf8'))
  } catch (cause) {
    throw new Error(`${file} is not a report of this benchmark: ${(cause as Error).message}`, { cause })
  }
}

/** Median and quartiles of what the rounds gave. */
export function spreadOf(samples: readonly number[]): Spread {
  const sorted = samples.toSorted((a, b) => a - b)
  return { median: at(sorted, 0.5), q1: at(sorted, 0.25), q3: at(sorted, 0.75), rounds: sorted.length }
}

function at(sorted: readonly number[], share: number): number {
  const place = share * (sorted.length - 1)
  const [below, above] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]]
  if (below === undefined || above === undefined) throw new Error('no samples')
  return below + (above - below) * (place % 1)
}

function parseJson(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch (cause) {
    throw new ShapeError('the file', `JSON (${(cause as Error).message})`, json.slice(0, 20))
  }
}

/** Six digits are more than any measurement has. */
function rounded(value: unknown): unknown {
  return typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value
}
