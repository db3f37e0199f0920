/** What the engine is meant to reach, each with the figure of a report. Every figure is the worst of its cases. */
import type { JavaScriptResults, NativeResults, Report, SectorResult, Spread } from './report.js'

export interface Target {
  readonly work: string
  /** What was compared with what. */
  readonly measure: string
  readonly wanted: number
  readonly unit: 'of the limit' | 'x' | 'ms'
  /** Absent: not measured, and `missing` says why. */
  readonly measured?: number | undefined
  readonly missing?: string | undefined
  /** What the machine itself gave in the same rounds: says whether a missed figure is its or ours. */
  readonly machine?: string | undefined
}

const KiB = 1024
const MiB = 1024 * KiB
const inCache = [64 * KiB, MiB]

/** Whether it was reached; undefined when it was not measured. Delays are to be below the figure, all else above. */
export function reached({ measured, wanted, unit }: Target): boolean | undefined {
  if (measured === undefined) return undefined
  return unit === 'ms' ? measured < wanted : measured >= wanted
}

export function targets(report: Report): Target[] {
  return [
    ...(report.native ? nativeTargets(report.native) : []),
    ...report.javascript.flatMap((node) => javascriptTargets(node)),
  ]
}

/** The kernel that vmseal takes by itself on the machine of the report: listed first. */
export function chosenKernel(native: NativeResults): string {
  return native.implementations.find((one) => !one.peer)?.name ?? 'vmseal'
}

function nativeTargets(native: NativeResults): Target[] {
  const chosen = chosenKernel(native)
  const one = (filter: Filter) => select(native, { threads: 1, ...filter })
  const peers = native.implementations.filter(({ peer }) => peer).map(({ name }) => name)
  const share = (filter: Filter) => lowest(one(filter).map((found) => found.share))
  const both = [512, 4096]
  const cached = { sectorSize: both, callBytes: inCache, inPlace: true }
  const best = (sectorSize: number, callBytes: number[], names: string[]) =>
    lowest(
      one({ implementation: names, sectorSize: [sectorSize], callBytes, inPlace: true }).map(
        (row) => row.ours,
      ),
    )
  const isal = peers.filter((name) => name.startsWith('ISA-L'))
  const noIsal = isal.length === 0 ? 'ISA-L crypto is not on this machine' : undefined
  const forced = (kernel: string): Target => ({
    work: `fallback kernel ${kernel} forced`,
    measure: '64 KiB and 1 MiB in place, 512 and 4096-byte sectors, limit of its register width',
    wanted: kernel === 'aesni' ? 0.9 : 0.85,
    unit: 'of the limit',
    measured: share({ ...cached, implementation: [`vmseal ${kernel}`] }),
    missing: `this CPU has no ${kernel}`,
  })
  const wide = (inPlace: boolean): Target => ({
    work: `64 MiB, one core, ${inPlace ? 'in place' : 'to another buffer'}`,
    measure: 'both directions, 512 and 4096-byte sectors',
    wanted: inPlace ? 0.9 : 0.85,
    unit: 'of the limit',
    measured: share({ implementation: [chosen], sectorSize: both, callBytes: [64 * MiB], inPlace }),
    missing: 'a --quick run leaves large buffers out',
    machine: memoryBound(one({ implementation: [chosen], sectorSize: both, callBytes: [64 * MiB], inPlace })),
  })
  const pairs = one({ ...cached, implementation: [chosen] }).flatMap((row) => {
    const all = native.sectors.find((other) => other.threads > 1 && sameCase(row, other))
    return all ? [{ row, all }] : []
  })
  return [
    {
      work: 'XTS, 64 KiB to 1 MiB in place, one core, both directions',
      measure: '512 and 4096-byte sectors',
      wanted: 0.95,
      unit: 'of the limit',
      measured: share({ ...cached, implementation: [chosen] }),
    },
    ...[512, 4096].map((sectorSize): Target => ({
      work: `the same against the best peer of the run, ${sectorSize}-byte sectors`,
      measure: `peers: ${peers.join(', ')}`,
      wanted: sectorSize === 512 ? 2 : 1.2,
      unit: 'x',
      measured: best(sectorSize, inCache, peers),
      missing: 'no peer on this machine',
    })),
    wide(true),
    wide(false),
    ...[4096, 512].map((sectorSize): Target => ({
      work: `one sector per native call, ${sectorSize} bytes, against ISA-L crypto`,
      measure: 'in place, both directions',
      wanted: sectorSize === 512 ? 1.15 : 1,
      unit: 'x',
      measured: best(sectorSize, [sectorSize], isal),
      missing: noIsal,
    })),
    ...[4096, 512].map((sectorSize): Target => ({
      work: `one sector per native call, ${sectorSize} bytes, against the best peer there is`,
      measure: 'in place, both directions',
      wanted: sectorSize === 512 ? 1.15 : 1,
      unit: 'x',
      measured: best(sectorSize, [sectorSize], peers),
      missing: 'no peer on this machine',
    })),
    forced('vaes256'),
    forced('aesni'),
    {
      work: 'all cores, in cache, against one',
      measure: 'per core, 64 KiB and 1 MiB in place (1.85 x on two cores)',
      wanted: 0.925,
      unit: 'x',
      measured: minimum(pairs.map(({ row, all }) => all.gbps.median / row.gbps.median / all.threads)),
      missing: 'this machine has one CPU',
      machine: unitScaling(pairs),
    },
  ]
}

function javascriptTargets(node: JavaScriptResults): Target[] {
  const name = `Node ${node.node}`
  const xts = (sectorSize: number, callBytes: number) =>
    node.xts.filter((one) => one.sectorSize === sectorSize && one.callBytes === callBytes)
  const overKeyObject = (sectorSize: number, callBytes: number, wanted: number): Target => ({
    work: `${name}: ${callBytes === MiB ? '1 MiB' : 'one sector'} per call, ${sectorSize}-byte sectors`,
    measure: `both directions, node:crypto with a KeyObject (OpenSSL ${node.openssl})`,
    wanted,
    unit: 'x',
    measured: lowest(xts(sectorSize, callBytes).map(({ peers }) => keyObject(peers))),
    missing: 'part xts was left out',
  })
  const natively = node.xts.filter(({ callBytes }) => callBytes === MiB).map((one) => one.native?.share)
  const wraps = (batches: (batch: number) => boolean, wanted: number, label: string): Target => ({
    work: `${name}: wrap and unwrap of a 64-byte key, ${label}`,
    measure: 'node:crypto id-aes256-wrap with a KeyObject, per key',
    wanted,
    unit: 'x',
    measured: lowest(node.keyWrap.filter(({ batch }) => batches(batch)).map(({ peers }) => keyObject(peers))),
    missing: 'part key-wrap was left out',
  })
  return [
    overKeyObject(4096, 4096, 8),
    overKeyObject(512, 512, 15),
    overKeyObject(4096, MiB, 9),
    overKeyObject(512, MiB, 60),
    {
      work: `${name}: 1 MiB per call against our own native rate`,
      measure: 'native calls in the same process, on the same buffer, in the same rounds',
      wanted: 0.9,
      unit: 'x',
      measured: lowest(natively),
      missing: 'part xts was left out',
    },
    wraps((batch) => batch === 1, 8, 'one a call'),
    wraps((batch) => batch >= 32, 60, 'in batches of 32 and 1024'),
    {
      work: `${name}: event loop delay during encryptAsync of 1 GiB, p99`,
      measure: 'the timer of 1 ms included',
      wanted: 5,
      unit: 'ms',
      measured: node.eventLoop?.p99Ms,
      missing: 'part event-loop was left out',
    },
  ]
}

/** How near to the memory's own pace the worst of these cases was. */
function memoryBound(rows: readonly SectorResult[]): string | undefined {
  const worst = rows
    .filter((row) => row.memory !== null && row.limit !== null)
    .toSorted((a, b) => (a.share?.median ?? 0) - (b.share?.median ?? 0))[0]
  if (!worst?.memory || !worst.limit) return undefined
  const memory = (worst.memory.median / worst.limit.median).toFixed(2)
  const own = (worst.gbps.median / Math.min(worst.memory.median, worst.limit.median)).toFixed(2)
  return `memory without a cipher moved ${memory} of the limit in the same rounds; of the lower of the two bounds this is ${own}`
}

/** How the AES units alone scaled where XTS scaled worst. */
function unitScaling(pairs: readonly { row: SectorResult; all: SectorResult }[]): string | undefined {
  const scale = ({ row, all }: { row: Spread | null; all: Spread | null }, threads: number) =>
    row && all ? all.median / row.median / threads : undefined
  const worst = pairs.toSorted(
    (a, b) => a.all.gbps.median / a.row.gbps.median - b.all.gbps.median / b.row.gbps.median,
  )[0]
  if (!worst) return undefined
  const units = scale({ row: worst.row.limit, all: worst.all.limit }, worst.all.threads)
  if (units === undefined || !worst.all.share) return undefined
  return `AES rounds on registers alone scaled ${units.toFixed(2)} in the same rounds; of what all cores then had, this is ${worst.all.share.median.toFixed(2)}`
}

interface Filter {
  readonly implementation?: readonly string[]
  readonly sectorSize?: readonly number[]
  readonly callBytes?: readonly number[]
  readonly threads?: number
  readonly inPlace?: boolean
}

function select(native: NativeResults, filter: Filter): SectorResult[] {
  return native.sectors.filter(
    (one) =>
      fits(filter.implementation, one.implementation) &&
      fits(filter.sectorSize, one.sectorSize) &&
      fits(filter.callBytes, one.callBytes) &&
      (filter.threads === undefined || filter.threads === one.threads) &&
      (filter.inPlace === undefined || filter.inPlace === one.inPlace),
  )
}

function fits<T>(wanted: readonly T[] | undefined, value: T): boolean {
  return wanted === undefined || wanted.includes(value)
}

function sameCase(one: SectorResult, other: SectorResult): boolean {
  return (
    one.implementation === other.implementation && one.inPlace === other.inPlace && sameSectors(one, other)
  )
}

type Sectors = Pick<SectorResult, 'sectorSize' | 'callBytes' | 'operation'>

function sameSectors(one: Sectors, other: Sectors): boolean {
  return (
    one.sectorSize === other.sectorSize &&
    one.callBytes === other.callBytes &&
    one.operation === other.operation
  )
}

function keyObject(peers: readonly { name: string; ours: Spread }[]): Spread | undefined {
  return peers.find(({ name }) => name.includes('KeyObject'))?.ours
}

function lowest(spreads: readonly (Spread | null | undefined)[]): number | undefined {
  return minimum(spreads.map((one) => one?.median))
}

function minimum(values: readonly (number | undefined)[]): number | undefined {
  const found = values.filter((one) => one !== undefined)
  return found.length === 0 ? undefined : Math.min(...found)
}
