/** Protocol versions. The one list that the version gates of messages, operations and attributes compare with. */
import { integer, structure } from './ttlv/node.js'
import type { TtlvNode } from './ttlv/node.js'
import type { StructureReader } from './ttlv/reader.js'
import { tags } from './ttlv/tags.js'

/** In ascending order. */
export const protocolVersions = ['1.0', '1.1', '1.2', '1.3', '1.4', '2.0', '2.1'] as const

export type ProtocolVersion = (typeof protocolVersions)[number]

/** A version as a message names it: also one that this package does not speak. */
export interface VersionNumber {
  readonly major: number
  readonly minor: number
}

/** What a client speaks unless it is told otherwise. */
export const defaultVersions = ['1.0', '1.1', '1.2', '1.3', '1.4'] as const satisfies ProtocolVersion[]

/** The highest of the default ones. */
export const highestVersion: ProtocolVersion = '1.4'

/** The highest version of a major version that is spoken here, or undefined. */
export function highestOf(major: number): ProtocolVersion | undefined {
  return protocolVersions.findLast((version) => versionNumber(version).major === major)
}

/** True if `version` is `since` or later. */
export function isSince(version: ProtocolVersion, since: ProtocolVersion): boolean {
  return protocolVersions.indexOf(version) >= protocolVersions.indexOf(since)
}

/** The version that is spoken here, or undefined. */
export function knownVersion({ major, minor }: VersionNumber): ProtocolVersion | undefined {
  return protocolVersions.find((version) => version === `${major}.${minor}`)
}

export function versionNumber(version: ProtocolVersion): VersionNumber {
  const [major, minor] = version.split('.').map(Number) as [number, number]
  return { major, minor }
}

export function encodeVersion(version: ProtocolVersion | VersionNumber): TtlvNode {
  const { major, minor } = typeof version === 'string' ? versionNumber(version) : version
  return structure(tags.ProtocolVersion, [
    integer(tags.ProtocolVersionMajor, major),
    integer(tags.ProtocolVersionMinor, minor),
  ])
}

export function decodeVersion(reader: StructureReader): VersionNumber {
  return {
    major: reader.required('ProtocolVersionMajor', 'Integer'),
    minor: reader.required('ProtocolVersionMinor', 'Integer'),
  }
}
