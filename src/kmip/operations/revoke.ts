/** Revoke (KMIP 1.4, section 4.20). */
import { kmipFailure } from '../failure.js'
import { enumerations } from '../ttlv/enumerations.js'
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import { dateTime, enumeration, structure, textString } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
import { decodeIdentifier, decodeRequiredIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectRequest, ObjectResponse, OperationCodec } from './operation.js'

export type RevocationReasonCode = EnumerationSymbol<'RevocationReasonCode'>

export interface RevokeRequest extends ObjectRequest {
  readonly reason: RevocationReasonCode | number
  readonly message?: string
  readonly compromiseOccurrenceDate?: Date
}

export const revoke: OperationCodec<RevokeRequest, ObjectResponse> = {
  name: 'Revoke',
  since: '1.0',
  encodeRequest: (request) => [
    ...encodeIdentifier(request),
    structure(tags.RevocationReason, [
      enumeration(
        tags.RevocationReasonCode,
        typeof request.reason === 'number'
          ? request.reason
          : enumerations.RevocationReasonCode[request.reason],
      ),
      ...(request.message === undefined ? [] : [textString(tags.RevocationMessage, request.message)]),
    ]),
    ...(request.compromiseOccurrenceDate === undefined
      ? []
      : [dateTime(tags.CompromiseOccurrenceDate, request.compromiseOccurrenceDate)]),
  ],
  decodeRequest(payload, version) {
    const request = decodeIdentifier(payload, version)
    const revocation = payload.structure('RevocationReason')
    const reason = revocation.requiredSymbol('RevocationReasonCode', 'RevocationReasonCode')
    const message = revocation.optional('RevocationMessage', 'TextString')
    revocation.end()
    const occurred = payload.optional('CompromiseOccurrenceDate', 'DateTime')
    return {
      ...request,
      reason,
      ...(message === undefined ? {} : { message }),
      ...(occurred === undefined ? {} : { compromiseOccurrenceDate: toDate(occurred) }),
    }
  },
  encodeResponse: encodeIdentifier,
  decodeResponse: decodeRequiredIdentifier,
}

function toDate(seconds: bigint): Date {
  const date = new Date(Number(seconds) * 1000)
  if (Number.isNaN(date.getTime()))
    throw kmipFailure('InvalidField', 'the Compromise Occurrence Date is out of range')
  return date
}
