/**
 * The attributes of KMIP as data (KMIP 1.4, section 3; KMIP 2.1, section 4). The key is the name that 1.x puts on the
 * wire; `tag` is how 2.x names the same attribute.
 */
import type { EnumerationName } from './ttlv/enumerations.js'
import type { ItemType } from './ttlv/node.js'
import { tags } from './ttlv/tags.js'
import type { TagName } from './ttlv/tags.js'
import { isSince } from './version.js'
import type { ProtocolVersion } from './version.js'

/** How a value stands on the wire. */
export interface ValueForm {
  readonly type: ItemType
  /** For an Enumeration: its table. */
  readonly symbols?: EnumerationName
  /** For a Structure: its fields in order. Without it the structure is kept as it is. */
  readonly fields?: readonly FieldForm[]
}

export interface FieldForm extends ValueForm {
  readonly tag: TagName
  readonly optional?: true
}

export interface AttributeDefinition extends ValueForm {
  readonly tag: TagName
  readonly since: ProtocolVersion
  /** The last version that has it; absent: it still exists. */
  readonly until?: ProtocolVersion
  /** May have several instances, told apart by their index. */
  readonly multiple?: true
  /** When a client may give it a value. */
  readonly settable: 'never' | 'at-creation' | 'always'
}

const text = { type: 'TextString' } as const
const date = { type: 'DateTime' } as const
const flag = { type: 'Boolean' } as const

export const attributeTable = {
  'Unique Identifier': { tag: 'UniqueIdentifier', ...text, since: '1.0', settable: 'never' },
  Name: {
    tag: 'Name',
    type: 'Structure',
    fields: [
      { tag: 'NameValue', ...text },
      { tag: 'NameType', type: 'Enumeration', symbols: 'NameType' },
    ],
    since: '1.0',
    multiple: true,
    settable: 'always',
  },
  'Object Type': {
    tag: 'ObjectType',
    type: 'Enumeration',
    symbols: 'ObjectType',
    since: '1.0',
    settable: 'never',
  },
  'Cryptographic Algorithm': {
    tag: 'CryptographicAlgorithm',
    type: 'Enumeration',
    symbols: 'CryptographicAlgorithm',
    since: '1.0',
    settable: 'at-creation',
  },
  'Cryptographic Length': {
    tag: 'CryptographicLength',
    type: 'Integer',
    since: '1.0',
    settable: 'at-creation',
  },
  'Cryptographic Parameters': {
    tag: 'CryptographicParameters',
    type: 'Structure',
    since: '1.0',
    multiple: true,
    settable: 'always',
  },
  'Cryptographic Usage Mask': {
    tag: 'CryptographicUsageMask',
    type: 'Integer',
    since: '1.0',
    settable: 'at-creation',
  },
  Digest: {
    tag: 'Digest',
    type: 'Structure',
    fields: [
      { tag: 'HashingAlgorithm', type: 'Enumeration', symbols: 'HashingAlgorithm' },
      { tag: 'DigestValue', type: 'ByteString' },
      { tag: 'KeyFormatType', type: 'Enumeration', symbols: 'KeyFormatType', optional: true },
    ],
    since: '1.0',
    multiple: true,
    settable: 'never',
  },
  'Operation Policy Name': {
    tag: 'OperationPolicyName',
    ...text,
    since: '1.0',
    until: '1.4',
    settable: 'at-creation',
  },
  'Lease Time': { tag: 'LeaseTime', type: 'Interval', since: '1.0', settable: 'never' },
  'Usage Limits': { tag: 'UsageLimits', type: 'Structure', since: '1.0', settable: 'at-creation' },
  State: { tag: 'State', type: 'Enumeration', symbols: 'State', since: '1.0', settable: 'never' },
  'Initial Date': { tag: 'InitialDate', ...date, since: '1.0', settable: 'never' },
  'Activation Date': { tag: 'ActivationDate', ...date, since: '1.0', settable: 'always' },
  'Process Start Date': { tag: 'ProcessStartDate', ...date, since: '1.0', settable: 'always' },
  'Protect Stop Date': { tag: 'ProtectStopDate', ...date, since: '1.0', settable: 'always' },
  'Deactivation Date': { tag: 'DeactivationDate', ...date, since: '1.0', settable: 'always' },
  'Destroy Date': { tag: 'DestroyDate', ...date, since: '1.0', settable: 'never' },
  'Compromise Occurrence Date': {
    tag: 'CompromiseOccurrenceDate',
    ...date,
    since: '1.0',
    settable: 'never',
  },
  'Compromise Date': { tag: 'CompromiseDate', ...date, since: '1.0', settable: 'never' },
  'Revocation Reason': {
    tag: 'RevocationReason',
    type: 'Structure',
    fields: [
      { tag: 'RevocationReasonCode', type: 'Enumeration', symbols: 'RevocationReasonCode' },
      { tag: 'RevocationMessage', ...text, optional: true },
    ],
    since: '1.0',
    settable: 'never',
  },
  'Archive Date': { tag: 'ArchiveDate', ...date, since: '1.0', settable: 'never' },
  'Object Group': { tag: 'ObjectGroup', ...text, since: '1.0', multiple: true, settable: 'always' },
  Fresh: { tag: 'Fresh', ...flag, since: '1.1', settable: 'never' },
  Link: {
    tag: 'Link',
    type: 'Structure',
    fields: [
      { tag: 'LinkType', type: 'Enumeration', symbols: 'LinkType' },
      { tag: 'LinkedObjectIdentifier', ...text },
    ],
    since: '1.0',
    multiple: true,
    settable: 'always',
  },
  'Application Specific Information': {
    tag: 'ApplicationSpecificInformation',
    type: 'Structure',
    fields: [
      { tag: 'ApplicationNamespace', ...text },
      { tag: 'ApplicationData', ...text, optional: true },
    ],
    since: '1.0',
    multiple: true,
    settable: 'always',
  },
  'Contact Information': { tag: 'ContactInformation', ...text, since: '1.0', settable: 'always' },
  'Last Change Date': { tag: 'LastChangeDate', ...date, since: '1.0', settable: 'never' },
  'Alternative Name': {
    tag: 'AlternativeName',
    type: 'Structure',
    fields: [
      { tag: 'AlternativeNameValue', ...text },
      { tag: 'AlternativeNameType', type: 'Enumeration', symbols: 'AlternativeNameType' },
    ],
    since: '1.2',
    multiple: true,
    settable: 'always',
  },
  'Key Value Present': { tag: 'KeyValuePresent', ...flag, since: '1.2', settable: 'never' },
  'Original Creation Date': {
    tag: 'OriginalCreationDate',
    ...date,
    since: '1.2',
    settable: 'at-creation',
  },
  'Random Number Generator': {
    tag: 'RandomNumberGenerator',
    type: 'Structure',
    since: '1.3',
    settable: 'never',
  },
  Description: { tag: 'Description', ...text, since: '1.4', settable: 'always' },
  Comment: { tag: 'Comment', ...text, since: '1.4', settable: 'always' },
  Sensitive: { tag: 'Sensitive', ...flag, since: '1.4', settable: 'always' },
  'Always Sensitive': { tag: 'AlwaysSensitive', ...flag, since: '1.4', settable: 'never' },
  Extractable: { tag: 'Extractable', ...flag, since: '1.4', settable: 'always' },
  'Never Extractable': { tag: 'NeverExtractable', ...flag, since: '1.4', settable: 'never' },
  'Key Format Type': {
    tag: 'KeyFormatType',
    type: 'Enumeration',
    symbols: 'KeyFormatType',
    since: '2.0',
    settable: 'never',
  },
  'Short Unique Identifier': {
    tag: 'ShortUniqueIdentifier',
    type: 'ByteString',
    since: '2.0',
    settable: 'never',
  },
  'Protection Level': {
    tag: 'ProtectionLevel',
    type: 'Enumeration',
    symbols: 'ProtectionLevel',
    since: '2.0',
    settable: 'at-creation',
  },
  'Protection Period': { tag: 'ProtectionPeriod', type: 'Interval', since: '2.0', settable: 'at-creation' },
  'Quantum Safe': { tag: 'QuantumSafe', ...flag, since: '2.0', settable: 'never' },
} as const satisfies Record<string, AttributeDefinition>

export type StandardAttributeName = keyof typeof attributeTable

/** The definition of a standard attribute that `version` has; undefined for custom and unknown names. */
export function attributeDefinition(name: string, version: ProtocolVersion): AttributeDefinition | undefined {
  if (!Object.hasOwn(attributeTable, name)) return undefined
  const definition: AttributeDefinition = attributeTable[name as StandardAttributeName]
  return isWithin(version, definition) ? definition : undefined
}

/** The 1.x name of the standard attribute that 2.x names by this tag, if `version` has it. */
export function attributeNameOf(tag: number, version: ProtocolVersion): StandardAttributeName | undefined {
  const name = namesByTag.get(tag)
  return name !== undefined && attributeDefinition(name, version) ? name : undefined
}

/** True if `version` has an attribute of this name; custom ones always exist. */
export function hasAttribute(name: string, version: ProtocolVersion): boolean {
  return isCustomAttribute(name) || attributeDefinition(name, version) !== undefined
}

/** A custom attribute: `x-` is the client's, `y-` the server's (KMIP 1.4, section 3). */
export function isCustomAttribute(name: string): boolean {
  return /^[xy]-/.test(name)
}

const namesByTag: ReadonlyMap<number, StandardAttributeName> = new Map(
  Object.entries(attributeTable).map(([name, { tag }]) => [tags[tag], name as StandardAttributeName]),
)

function isWithin(version: ProtocolVersion, { since, until }: AttributeDefinition): boolean {
  return isSince(version, since) && (until === undefined || !isSince(version, until) || version === until)
}
