/** Where vmseal is not faster than a peer, in sentences. */
import type { Report, Spread } from './report.js'
import { bytes } from './sections.js'

/** Below this ratio nobody would notice: it counts as not ahead. */
const even = 1.05

export function notAhead(report: Report): string[] {
  return [
    ...nativeSectors(report),
    ...nativeKeyWrap(report),
    ...fromJavaScript(report),
    ...conversions(report),
  ]
}

function nativeSectors({ native }: Report): string[] {
  const peers = new Set(native?.implementations.filter(({ peer }) => peer).map(({ name }) => name))
  const rows = native?.sectors.filter((one) => peers.has(one.implementation) && one.threads === 1) ?? []
  return rows.filter(behind).map((one) => {
    const place = one.inPlace ? 'in place' : 'to another buffer'
    const call = one.callBytes === one.sectorSize ? 'one sector' : bytes(one.callBytes)
    return `Native XTS, ${one.operation} ${place}, ${one.sectorSize}-byte sectors, ${call} per call: ${against(one.implementation, one.ours)}`
  })
}

function nativeKeyWrap({ native }: Report): string[] {
  const rows = native?.keyWrap ?? []
  return rows
    .filter(behind)
    .map(
      (one) => `Native key ${one.operation}, ${one.batch} per call: ${against(one.implementation, one.ours)}`,
    )
}

function fromJavaScript({ javascript }: Report): string[] {
  return javascript.flatMap((node) => [
    ...node.xts.flatMap((one) =>
      one.peers.filter(behind).map((peer) => {
        const call = `${one.sectorSize}-byte sectors, ${bytes(one.callBytes)} per call`
        return `Node ${node.node}, XTS ${one.operation}, ${call}: ${against(peer.name, peer.ours)}`
      }),
    ),
    ...node.keyWrap.flatMap((one) =>
      one.peers
        .filter(behind)
        .map(
          (peer) =>
            `Node ${node.node}, key ${one.operation}, ${one.batch} per call: ${against(peer.name, peer.ours)}`,
        ),
    ),
  ])
}

function conversions({ conversion }: Report): string[] {
  const ways = conversion?.ways ?? []
  return ways.filter(behind).map((one) => `Encrypting a disk into a new one: ${against(one.name, one.ours)}`)
}

function behind({ ours }: { ours: Spread | null }): boolean {
  return ours !== null && ours.median < even
}

function against(peer: string, ours: Spread | null): string {
  const ratio = ours?.median ?? Number.NaN
  const word = ratio < 0.95 ? 'slower than' : 'level with'
  return `${word} ${peer} (${ratio.toFixed(2)} x its speed).`
}
