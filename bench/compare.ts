/** Two reports of the same machine side by side. */
import { differenceBetween } from './machine.js'
import type { Report, Spread } from './report.js'
import { table } from './table.js'

/** Throws an Error for people when figures of these two say nothing about each other. */
export function requireComparable(before: Pick<Report, 'machine'>, after: Pick<Report, 'machine'>): void {
  const difference = differenceBetween(before.machine, after.machine)
  if (difference !== undefined) throw new Error(difference)
}

/** Every figure that both have, with its change; those whose quartiles do not overlap are marked. */
export function comparison(before: Report, after: Report): string {
  requireComparable(before, after)
  const earlier = new Map(figuresOf(before).map((figure) => [figure.name, figure.spread]))
  const rows = figuresOf(after).flatMap(({ name, spread, unit }) => {
    const old = earlier.get(name)
    if (!old) return []
    const change = (spread.median / old.median - 1) * 100
    const apart = spread.q1 > old.q3 || spread.q3 < old.q1
    const sign = change > 0 ? '+' : ''
    return [
      [
        name,
        digits(old.median),
        digits(spread.median),
        unit,
        `${sign}${change.toFixed(1)} %`,
        apart ? '*' : '',
      ],
    ]
  })
  const caution = before.quick || after.quick ? '\nAt least one of them was a --quick run: expect noise.' : ''
  const head = ['case', 'before', 'now', 'unit', 'change', '']
  return `${table(head, rows)}\n* = the quartiles of the two runs do not overlap${caution}`
}

/** What is vmseal's own: peers are not compared with themselves. */
function figuresOf(report: Report): { name: string; spread: Spread; unit: string }[] {
  const peers = new Set(report.native?.implementations.filter((one) => one.peer).map((one) => one.name))
  const sectors = (report.native?.sectors ?? [])
    .filter((one) => !peers.has(one.implementation))
    .map((one) => {
      const place = one.inPlace ? 'in place' : 'copy'
      const what = `${one.implementation} ${one.operation} ${place}, ${one.sectorSize} B sectors`
      return {
        name: `${what}, ${one.callBytes} B a call, ${one.threads} threads`,
        spread: one.gbps,
        unit: 'GB/s',
      }
    })
  const wraps = (report.native?.keyWrap ?? [])
    .filter((one) => one.ours === null)
    .map((one) => ({
      name: `native ${one.operation}, batch of ${one.batch}`,
      spread: one.nsPerKey,
      unit: 'ns',
    }))
  const scripts = report.javascript.flatMap((node) => [
    ...node.xts.map((one) => ({
      name: `Node ${node.node} ${one.operation}, ${one.sectorSize} B sectors, ${one.callBytes} B a call`,
      spread: one.gbps,
      unit: 'GB/s',
    })),
    ...node.keyWrap.map((one) => ({
      name: `Node ${node.node} ${one.operation}, batch of ${one.batch}`,
      spread: one.nsPerKey,
      unit: 'ns',
    })),
  ])
  const ways = (report.conversion?.ways ?? [])
    .filter((one) => one.ours === null)
    .map((one) => ({ name: `conversion: ${one.name}`, spread: one.gbps, unit: 'GB/s' }))
  return [...sectors, ...wraps, ...scripts, ...ways]
}

function digits(value: number): string {
  return value >= 1000 ? value.toFixed(0) : value.toPrecision(3)
}
