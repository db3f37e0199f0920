/** Operations whose request names an object and whose answer names it again, and nothing else. */
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import { decodeIdentifier, decodeRequiredIdentifier, encodeIdentifier } from './identifier.js'
import type { ObjectRequest, ObjectResponse, OperationCodec } from './operation.js'

export function operationOnObject(
  name: EnumerationSymbol<'Operation'>,
): OperationCodec<ObjectRequest, ObjectResponse> {
  return {
    name,
    since: '1.0',
    encodeRequest: encodeIdentifier,
    decodeRequest: decodeIdentifier,
    encodeResponse: encodeIdentifier,
    decodeResponse: decodeRequiredIdentifier,
  }
}
