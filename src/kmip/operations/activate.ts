/** Activate (KMIP 1.4, section 4.19). */
import { decodeIdentifier, decodeRequiredIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectRequest, ObjectResponse, OperationCodec } from './operation.js'

export const activate: OperationCodec<ObjectRequest, ObjectResponse> = {
  name: 'Activate',
  since: '1.0',
  encodeRequest: encodeIdentifier,
  decodeRequest: decodeIdentifier,
  encodeResponse: encodeIdentifier,
  decodeResponse: decodeRequiredIdentifier,
}
