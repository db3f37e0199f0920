/** An event in one line. */
import type { VCenterEvent } from '../../vcenter/events.js'
import { printable } from '../printable.js'

/** `41  2026-01-01T00:00:00.000Z  anna  com.vmware.vc.crypto.Operation  operation=recrypt vm=db01 …` */
export function eventLine({ sequence, time, actor, id, details }: VCenterEvent): string {
  return printable([String(sequence), time, actor, id, detailText(details)].join('  '))
}

export function detailText(details: object): string {
  return Object.entries(details)
    .map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(' ')
}
