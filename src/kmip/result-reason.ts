/** Result reasons across the versions (KMIP 1.4, section 9.1.3.2; KMIP 2.1, section 11). */
import { enumerations } from './ttlv/enumerations.js'
import type { EnumerationSymbol } from './ttlv/enumerations.js'
import { isSince } from './version.js'
import type { ProtocolVersion } from './version.js'

export type ResultReason = EnumerationSymbol<'ResultReason'>

/** Reasons that are later than 1.0, and what stands for them before. */
const later: Readonly<
  Partial<Record<ResultReason, readonly [since: ProtocolVersion, before: ResultReason]>>
> = {
  EncodingOptionError: ['1.1', 'InvalidField'],
  KeyValueNotPresent: ['1.2', 'ItemNotFound'],
  AttestationRequired: ['1.2', 'PermissionDenied'],
  AttestationFailed: ['1.2', 'PermissionDenied'],
  Sensitive: ['1.4', 'PermissionDenied'],
  NotExtractable: ['1.4', 'PermissionDenied'],
  ObjectAlreadyExists: ['1.4', 'IllegalOperation'],
  InvalidTicket: ['2.0', 'AuthenticationNotSuccessful'],
  UsageLimitExceeded: ['2.0', 'PermissionDenied'],
  NumericRange: ['2.0', 'InvalidField'],
  InvalidDataType: ['2.0', 'InvalidField'],
  ReadOnlyAttribute: ['2.0', 'PermissionDenied'],
  MultiValuedAttribute: ['2.0', 'InvalidField'],
  UnsupportedAttribute: ['2.0', 'InvalidField'],
  AttributeInstanceNotFound: ['2.0', 'ItemNotFound'],
  AttributeNotFound: ['2.0', 'ItemNotFound'],
  AttributeReadOnly: ['2.0', 'PermissionDenied'],
  AttributeSingleValued: ['2.0', 'IllegalOperation'],
  BadCryptographicParameters: ['2.0', 'InvalidField'],
  BadPassword: ['2.0', 'AuthenticationNotSuccessful'],
  CodecError: ['2.0', 'InvalidMessage'],
  IllegalObjectType: ['2.0', 'InvalidField'],
  IncompatibleCryptographicUsageMask: ['2.0', 'PermissionDenied'],
  InternalServerError: ['2.0', 'GeneralFailure'],
  InvalidAsynchronousCorrelationValue: ['2.0', 'InvalidField'],
  InvalidAttribute: ['2.0', 'InvalidField'],
  InvalidAttributeValue: ['2.0', 'InvalidField'],
  InvalidCorrelationValue: ['2.0', 'InvalidField'],
  InvalidCSR: ['2.0', 'InvalidField'],
  InvalidObjectType: ['2.0', 'InvalidField'],
  KeyWrapTypeNotSupported: ['2.0', 'FeatureNotSupported'],
  MissingInitializationVector: ['2.0', 'MissingData'],
  NonUniqueNameAttribute: ['2.0', 'InvalidField'],
  ObjectDestroyed: ['2.0', 'ItemNotFound'],
  ObjectNotFound: ['2.0', 'ItemNotFound'],
  NotAuthorised: ['2.0', 'PermissionDenied'],
  ServerLimitExceeded: ['2.0', 'GeneralFailure'],
  UnknownEnumeration: ['2.0', 'InvalidField'],
  UnknownMessageExtension: ['2.0', 'FeatureNotSupported'],
  UnknownTag: ['2.0', 'InvalidMessage'],
  UnsupportedCryptographicParameters: ['2.0', 'FeatureNotSupported'],
  UnsupportedProtocolVersion: ['2.0', 'InvalidMessage'],
  WrappingObjectArchived: ['2.0', 'ObjectArchived'],
  WrappingObjectDestroyed: ['2.0', 'ItemNotFound'],
  WrappingObjectNotFound: ['2.0', 'ItemNotFound'],
  WrongKeyLifecycleState: ['2.0', 'PermissionDenied'],
  ProtectionStorageUnavailable: ['2.0', 'GeneralFailure'],
}

/** The reason as `version` can say it. */
export function reasonIn(version: ProtocolVersion, reason: ResultReason): ResultReason {
  const gate = later[reason]
  return gate && !isSince(version, gate[0]) ? gate[1] : reason
}

/** The reason in the terms of 1.4, whatever version a server speaks: what programs branch on. */
export function commonReason(reason: ResultReason): ResultReason {
  return reasonIn('1.4', reason)
}

export function isResultReason(value: string | undefined): value is ResultReason {
  return value !== undefined && Object.hasOwn(enumerations.ResultReason, value)
}
