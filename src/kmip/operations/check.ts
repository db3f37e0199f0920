/**
 * Check (KMIP 1.4, section 4.10): may the client use the object so? The answer repeats what the object does not allow,
 * and nothing when all is allowed.
 */
import { integer, textString } from '../ttlv/node.js'
import type { TtlvNode } from '../ttlv/node.js'
import type { StructureReader } from '../ttlv/reader.js'
import { tags } from '../ttlv/tags.js'
import { decodeIdentifier, decodeRequiredIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectRequest, ObjectResponse, OperationCodec } from './operation.js'

export interface CheckedUse {
  readonly usageLimitsCount?: bigint
  /** Bits of `cryptographicUsage`. */
  readonly usageMask?: number
  /** Seconds. */
  readonly leaseTime?: number
}

export const check: OperationCodec<ObjectRequest & CheckedUse, ObjectResponse & CheckedUse> = {
  name: 'Check',
  since: '1.0',
  encodeRequest: (request) => [...encodeIdentifier(request), ...encodeUse(request)],
  decodeRequest: (payload, version) => ({ ...decodeIdentifier(payload, version), ...decodeUse(payload) }),
  encodeResponse: (response) => [textString(tags.UniqueIdentifier, response.id), ...encodeUse(response)],
  decodeResponse: (payload) => ({ ...decodeRequiredIdentifier(payload), ...decodeUse(payload) }),
}

function encodeUse({ usageLimitsCount, usageMask, leaseTime }: CheckedUse): TtlvNode[] {
  const fields: TtlvNode[] = []
  if (usageLimitsCount !== undefined)
    fields.push({ tag: tags.UsageLimitsCount, type: 'LongInteger', value: usageLimitsCount })
  if (usageMask !== undefined) fields.push(integer(tags.CryptographicUsageMask, usageMask))
  if (leaseTime !== undefined) fields.push({ tag: tags.LeaseTime, type: 'Interval', value: leaseTime })
  return fields
}

function decodeUse(payload: StructureReader): CheckedUse {
  const usageLimitsCount = payload.optional('UsageLimitsCount', 'LongInteger')
  const usageMask = payload.optional('CryptographicUsageMask', 'Integer')
  const leaseTime = payload.optional('LeaseTime', 'Interval')
  return {
    ...(usageLimitsCount === undefined ? {} : { usageLimitsCount }),
    ...(usageMask === undefined ? {} : { usageMask }),
    ...(leaseTime === undefined ? {} : { leaseTime }),
  }
}
