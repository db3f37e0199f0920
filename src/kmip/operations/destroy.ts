/** Destroy (KMIP 1.4, section 4.21). */
import { decodeIdentifier, decodeRequiredIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectRequest, ObjectResponse, OperationCodec } from './operation.js'

export const destroy: OperationCodec<ObjectRequest, ObjectResponse> = {
  name: 'Destroy',
  since: '1.0',
  encodeRequest: encodeIdentifier,
  decodeRequest: decodeIdentifier,
  encodeResponse: encodeIdentifier,
  decodeResponse: decodeRequiredIdentifier,
}
