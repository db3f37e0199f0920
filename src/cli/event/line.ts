/** An event in one line. */
import type { VCenterEvent } from '../../vcenter/events.js'
import { printable } from '../printable.js'

/** `41  2026-01-01T00:00:00.000Z  anna  com.vmware.vc.crypto.Operation  operation=recrypt vm=db01 …` */
export function eventLine({ sequence, time, actor, id, details }: VCenterEvent): string {
  return printable([String(sequence), time, actor, id, detailText(details)].join('  '))
}

export function detailText(details: object): string {
  return Object.entries(details)
    .map(([name, value]) => `${name}=${valueText(value)}`)
    .join(' ')
}

/** Keys as `provider/id`, as everywhere. */
function valueText(value: unknown): string {
  if (typeof value === 'string') return value
  if (Array.isArray(value)) return value.map(valueText).join(',')
  const { keyId, providerId, ...rest } = (value ?? {}) as Record<string, unknown>
  if (typeof keyId === 'string' && typeof providerId === 'string' && Object.keys(rest).length === 0)
    return `${providerId}/${keyId}`
  return JSON.stringify(value)
}
