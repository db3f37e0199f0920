/** A report as titled tables, for the terminal and for the page alike. */
import type { JavaScriptResults, NativeResults, Report, SectorResult, Spread } from './report.js'
import { chosenKernel, reached, targets } from './targets.js'

export interface Section {
  readonly title: string
  /** Sentences above the table: what is compared and how it was called. */
  readonly notes: readonly string[]
  readonly head: readonly string[]
  readonly rows: readonly (readonly string[])[]
}

/** Every section that the report has figures for. */
export function sections(report: Report): Section[] {
  const { native, javascript, conversion } = report
  const all = [
    targetSection(report),
    ...(native ? nativeSections(native) : []),
    ...javascript.flatMap(javascriptSections),
    ...(conversion ? [conversionSection(conversion)] : []),
  ]
  return all.filter(({ rows }) => rows.length > 0)
}

function targetSection(report: Report): Section {
  const words = { true: 'yes', false: 'NO', undefined: 'not measured' }
  return {
    title: 'Targets',
    notes: ['The measured figure is the worst median of the cases that the row names.'],
    head: ['work', 'target', 'measured', 'reached', 'how'],
    rows: targets(report).map((target) => [
      target.work,
      `${target.unit === 'ms' ? '<' : '>='} ${target.wanted} ${target.unit}`,
      target.measured === undefined ? '-' : target.measured.toPrecision(3),
      words[`${reached(target)}`],
      target.measured === undefined
        ? (target.missing ?? 'not part of this run')
        : [target.measure, ...(target.machine === undefined ? [] : [target.machine])].join('; '),
    ]),
  }
}

function nativeSections(native: NativeResults): Section[] {
  const sectorSizes = [...new Set(native.sectors.map(({ sectorSize }) => sectorSize))]
  return [
    {
      title: 'Limits of this machine',
      notes: [
        'AES-256 rounds on registers alone, and memory traffic without a cipher. XTS cannot be faster than the AES units:',
        'a share of 1.00 in the tables below is that limit, the encryption of one tweak per sector counted as work.',
      ],
      head: ['limit', 'threads', 'GB/s', 'quartiles'],
      rows: [
        ...native.limits.map((one) => [`AES units, ${one.width}`, `${one.threads}`, ...rate(one.gbps)]),
        ...native.memory.map((one) => [
          `${one.traffic}, ${bytes(one.bytes)}`,
          `${one.threads}`,
          ...rate(one.gbps),
        ]),
      ],
    },
    {
      title: 'Who takes part',
      notes: native.absent.map(({ name, reason }) => `Absent: ${name} (${reason}).`),
      head: ['implementation', 'version', 'call path'],
      rows: native.implementations.map((one) => [one.name, one.version, one.callPath]),
    },
    ...sectorSizes.map((sectorSize) => comparisonSection(native, sectorSize)),
    ownSection(native, 1),
    ownSection(native, Math.max(1, ...native.sectors.map(({ threads }) => threads))),
    {
      title: 'Key wrap, native',
      notes: ['RFC 3394, a 64-byte key under a 32-byte KEK, one thread; nanoseconds per key.'],
      head: ['implementation', 'operation', 'keys per call', 'ns per key', 'quartiles', 'vmseal is'],
      rows: native.keyWrap.map((one) => [
        one.implementation,
        one.operation,
        `${one.batch}`,
        one.nsPerKey.median.toFixed(0),
        `${one.nsPerKey.q1.toFixed(0)}-${one.nsPerKey.q3.toFixed(0)}`,
        times(one.ours),
      ]),
    },
  ]
}

function comparisonSection(native: NativeResults, sectorSize: number): Section {
  const rows = native.sectors.filter(
    (one) => one.sectorSize === sectorSize && one.threads === 1 && one.inPlace && one.operation === 'encrypt',
  )
  const sizes = [...new Set(rows.map(({ callBytes }) => callBytes))]
  const cell = (name: string, callBytes: number) => {
    const found = rows.find((one) => one.implementation === name && one.callBytes === callBytes)
    if (!found) return '-'
    const ratio = found.ours ? `, ${times(found.ours)}` : ''
    return `${found.gbps.median.toFixed(2)} (${share(found.share)}${ratio})`
  }
  return {
    title: `XTS, ${sectorSize}-byte sectors: encrypt in place, one thread`,
    notes: ['GB/s (share of the AES-unit limit, how many times as fast vmseal is), by bytes per call.'],
    head: ['implementation', ...sizes.map((size) => (size === sectorSize ? 'one sector' : bytes(size)))],
    rows: native.implementations.map(({ name }) => [name, ...sizes.map((size) => cell(name, size))]),
  }
}

function ownSection(native: NativeResults, threads: number): Section {
  const own = native.sectors.filter(
    (one) => one.implementation === chosenKernel(native) && one.threads === threads,
  )
  const cases = own.filter((one) => one.operation === 'encrypt' && one.inPlace)
  const cell = (row: SectorResult, operation: string, inPlace: boolean) => {
    const found = own.find(
      (one) =>
        one.sectorSize === row.sectorSize &&
        one.callBytes === row.callBytes &&
        one.operation === operation &&
        one.inPlace === inPlace,
    )
    return found ? `${found.gbps.median.toFixed(2)} (${share(found.share)})` : '-'
  }
  return {
    title: `${chosenKernel(native)}: every operation, ${threads === 1 ? 'one thread' : `${threads} threads`}`,
    notes: ['GB/s (share of the AES-unit limit of as many threads).'],
    head: ['sectors', 'bytes per call', 'encrypt', 'decrypt', 'encrypt, copy', 'decrypt, copy'],
    rows: cases.map((row) => [
      `${row.sectorSize} B`,
      bytes(row.callBytes),
      cell(row, 'encrypt', true),
      cell(row, 'decrypt', true),
      cell(row, 'encrypt', false),
      cell(row, 'decrypt', false),
    ]),
  }
}

function javascriptSections(found: JavaScriptResults): Section[] {
  const runtime = `Node ${found.node}`
  const own = `vmseal (${found.kernel})`
  return [
    {
      title: `From JavaScript, ${runtime}: XTS`,
      notes: [
        `XtsCipher in place, one synchronous call; node:crypto (OpenSSL ${found.openssl}) with a cipher object for each sector.`,
      ],
      head: ['implementation', 'operation', 'sectors', 'bytes per call', 'GB/s', 'quartiles', 'vmseal is'],
      rows: found.xts.flatMap((one) => {
        const what = [one.operation, `${one.sectorSize} B`, bytes(one.callBytes)]
        const peers = one.peers.map((peer) => [peer.name, ...what, ...rate(peer.figure), times(peer.ours)])
        const native = one.native
          ? [['vmseal, native calls', ...what, ...rate(one.native.gbps), times(one.native.share)]]
          : []
        return [[own, ...what, ...rate(one.gbps), ''], ...native, ...peers]
      }),
    },
    {
      title: `From JavaScript, ${runtime}: key wrap`,
      notes: [
        'A 64-byte key under a 32-byte KEK. vmseal keeps keys in locked memory, and unwrapping includes wiping them.',
      ],
      head: ['implementation', 'operation', 'keys per call', 'ns per key', 'quartiles', 'vmseal is'],
      rows: found.keyWrap.flatMap((one) => {
        const row = (name: string, figure: Spread, ours: Spread | null) => [
          name,
          one.operation,
          `${one.batch}`,
          figure.median.toFixed(0),
          `${figure.q1.toFixed(0)}-${figure.q3.toFixed(0)}`,
          times(ours),
        ]
        return [
          row('vmseal', one.nsPerKey, null),
          ...one.peers.map((peer) => row(peer.name, peer.figure, peer.ours)),
        ]
      }),
    },
    {
      title: `${runtime}: the event loop during encryptAsync`,
      notes: ['Delay of a 1 ms timer, that millisecond included.'],
      head: ['bytes per call', 'calls', 'GB/s', 'samples', 'p50 ms', 'p99 ms', 'max ms', 'idle p99 ms'],
      rows: (found.eventLoop ? [found.eventLoop] : []).map((one) => [
        bytes(one.bytes),
        `${one.calls}`,
        one.gbps.toFixed(2),
        `${one.samples}`,
        one.p50Ms.toFixed(2),
        one.p99Ms.toFixed(2),
        one.maxMs.toFixed(2),
        one.idleP99Ms.toFixed(2),
      ]),
    },
  ]
}

function conversionSection(found: NonNullable<Report['conversion']>): Section {
  return {
    title: `Encrypting a disk of ${bytes(found.bytes)} into a new one`,
    notes: [
      `New file to new file, ${found.sectorSize}-byte sectors, source in the page cache, order alternating. vmseal's new disk`,
      'is on stable storage when the task is done, so the fair peer is the durable cp. How fast a new file takes data',
      'swings much more between runs than anything above.',
    ],
    head: ['way', 'GB/s', 'quartiles', 'vmseal is'],
    rows: found.ways.map((one) => [one.name, ...rate(one.gbps), times(one.ours)]),
  }
}

export function bytes(count: number): string {
  if (count >= 2 ** 30 && count % 2 ** 30 === 0) return `${count / 2 ** 30} GiB`
  if (count >= 2 ** 20) return `${count / 2 ** 20} MiB`
  return count >= 1024 ? `${count / 1024} KiB` : `${count} B`
}

function rate(spread: Spread): [string, string] {
  return [decimals(spread.median), `${decimals(spread.q1)}-${decimals(spread.q3)}`]
}

function decimals(value: number): string {
  return value.toFixed(value >= 1 ? 2 : 3)
}

function share(spread: Spread | null): string {
  return spread ? spread.median.toFixed(2) : 'no limit known'
}

function times(spread: Spread | null): string {
  return spread ? `${spread.median.toFixed(2)} x` : ''
}
