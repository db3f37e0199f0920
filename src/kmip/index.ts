/** KMIP 1.0 to 2.1 for other programs: the public sub-path `vmseal/kmip`. */
export { KmipClient } from './client.js'
export type {
  CreateOptions,
  GetOptions,
  KmipClientOptions,
  LocateFilters,
  ManagedKey,
  ReKeyOptions,
  WrapOptions,
} from './client.js'
export type { KmipCredential } from './credential.js'
export type { BatchRequest, BatchResults } from './batch.js'
export { attributeValue, nameValue, OpaqueValue } from './attributes.js'
export type { Attribute, AttributeValue } from './attributes.js'
export { attributeTable } from './attribute-table.js'
export type { StandardAttributeName } from './attribute-table.js'
export { kmipFailure } from './failure.js'
export type { ResultReason } from './result-reason.js'
export type { KeyWrapping } from './operations/key-wrapping.js'
export type { WrappedKey } from './operations/get.js'
export { KmipServer } from './server.js'
export type {
  KmipCaller,
  KmipServerOptions,
  KmipService,
  OperationContext,
  OperationRecord,
} from './server.js'
export type { KmipReply } from './reply.js'
export { KmipListening } from './listener.js'
export type { RejectedConnection } from './listener.js'
export type { KeyHandle, KmipListenerOptions } from '../native/load.js'
export { defaultVersions, protocolVersions } from './version.js'
export type { ProtocolVersion, VersionNumber } from './version.js'
export type { QueryFunction, QueryResponse } from './operations/query.js'
export type { RevocationReasonCode } from './operations/revoke.js'
export type { OperationName, RequestOf, ResponseOf } from './operations/table.js'
export { decodeTtlv, encodeTtlv } from './ttlv/codec.js'
export { dumpTtlv } from './ttlv/dump.js'
export { cryptographicUsage, enumerations } from './ttlv/enumerations.js'
export type { TtlvNode } from './ttlv/node.js'
export { tags } from './ttlv/tags.js'
