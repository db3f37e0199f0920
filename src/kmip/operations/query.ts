/** Query (KMIP 1.4, section 4.25). What is not listed here of a server's answer is ignored. */
import { kmipFailure } from '../failure.js'
import { enumerations, enumerationSymbol } from '../ttlv/enumerations.js'
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import { enumeration, textString } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
import type { OperationCodec } from './operation.js'

export type QueryFunction = EnumerationSymbol<'QueryFunction'>

export interface QueryRequest {
  /** Functions without a symbol are numbers; a server ignores them. */
  readonly functions: readonly (QueryFunction | number)[]
}

export interface QueryResponse {
  readonly operations: readonly (EnumerationSymbol<'Operation'> | number)[]
  readonly objectTypes: readonly (EnumerationSymbol<'ObjectType'> | number)[]
  readonly vendorIdentification?: string
  readonly applicationNamespaces: readonly string[]
}

export const query: OperationCodec<QueryRequest, QueryResponse> = {
  name: 'Query',
  since: '1.0',
  encodeRequest: ({ functions }) =>
    functions.map((name) =>
      enumeration(tags.QueryFunction, typeof name === 'number' ? name : enumerations.QueryFunction[name]),
    ),
  decodeRequest(payload) {
    const functions = payload
      .all('QueryFunction', 'Enumeration')
      .map((value) => enumerationSymbol('QueryFunction', value))
    if (functions.length === 0) throw kmipFailure('InvalidField', 'Query names no query function')
    return { functions }
  },
  encodeResponse: ({ operations, objectTypes, vendorIdentification, applicationNamespaces }) => [
    ...operations.map((name) =>
      enumeration(tags.Operation, typeof name === 'number' ? name : enumerations.Operation[name]),
    ),
    ...objectTypes.map((name) =>
      enumeration(tags.ObjectType, typeof name === 'number' ? name : enumerations.ObjectType[name]),
    ),
    ...(vendorIdentification === undefined
      ? []
      : [textString(tags.VendorIdentification, vendorIdentification)]),
    ...applicationNamespaces.map((name) => textString(tags.ApplicationNamespace, name)),
  ],
  decodeResponse(payload) {
    const vendorIdentification = payload.optional('VendorIdentification', 'TextString')
    return {
      operations: payload
        .all('Operation', 'Enumeration')
        .map((value) => enumerationSymbol('Operation', value)),
      objectTypes: payload
        .all('ObjectType', 'Enumeration')
        .map((value) => enumerationSymbol('ObjectType', value)),
      applicationNamespaces: payload.all('ApplicationNamespace', 'TextString'),
      ...(vendorIdentification === undefined ? {} : { vendorIdentification }),
    }
  },
}
