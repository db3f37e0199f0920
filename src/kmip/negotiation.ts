/** Which version client and server speak (KMIP 1.4, section 4.26). */
import { VmsealError } from '../errors.js'
import type { KmipCredential } from './credential.js'
import type { RequestMessage, ResponseMessage } from './messages.js'
import { discoverVersions } from './operations/discover-versions.js'
import type { VersionList } from './operations/discover-versions.js'
import { enumerations } from './ttlv/enumerations.js'
import { structure } from './ttlv/node.js'
import { StructureReader } from './ttlv/reader.js'
import { tags } from './ttlv/tags.js'
import { isSince, knownVersion, protocolVersions, versionNumber } from './version.js'
import type { ProtocolVersion, VersionNumber } from './version.js'

/**
 * DiscoverVersions in 1.1, the first version that has it; in the lowest that is wanted where that is later. It is the
 * same in all versions.
 */
export function discoveryRequest(
  versions: readonly VersionNumber[],
  wanted: readonly ProtocolVersion[] = [],
  credential?: KmipCredential,
): RequestMessage {
  const payload = structure(tags.RequestPayload, discoverVersions.encodeRequest({ versions }, '1.1'))
  const lowest = protocolVersions.find((version) => wanted.includes(version)) ?? '1.1'
  return {
    header: { version: isSince(lowest, '1.1') ? lowest : '1.1', ...(credential ? { credential } : {}) },
    items: [{ operation: enumerations.Operation.DiscoverVersions, payload }],
  }
}

/** What the server says it speaks; undefined when it does not know the operation. */
export function discoveredVersions({ items }: ResponseMessage): VersionList | undefined {
  const [item] = items
  if (item?.status !== 'Success' || !item.payload) return undefined
  return discoverVersions.decodeResponse(new StructureReader(item.payload, true), '1.1')
}

/**
 * The highest version of both sides. A server that refuses DiscoverVersions as unknown speaks 1.0; one that refuses
 * the version of the question answers in one that it speaks. Throws VMSEAL_KMIP_VERSION.
 */
export function commonVersion(answer: ResponseMessage, wanted: readonly ProtocolVersion[]): ProtocolVersion {
  const offered = discoveredVersions(answer)?.versions ?? [fallback(answer)]
  const both = protocolVersions.filter(
    (version) => wanted.includes(version) && offered.some((number) => knownVersion(number) === version),
  )
  const highest = both.at(-1)
  if (highest) return highest
  const list = offered.map(({ major, minor }) => `${major}.${minor}`).join(', ') || 'none'
  throw new VmsealError(
    'VMSEAL_KMIP_VERSION',
    `the KMS speaks KMIP ${list}; wanted is one of ${wanted.join(', ')}`,
  )
}

function fallback({ items, version }: ResponseMessage): VersionNumber {
  const reason = items[0]?.reason
  const unknown = reason === 'OperationNotSupported' || (version.major === 1 && version.minor === 1)
  return unknown ? { major: 1, minor: 0 } : version
}

/** What a server answers to DiscoverVersions: all it speaks, or what of it the client named, the highest first. */
export function discover({ versions }: VersionList, spoken: readonly ProtocolVersion[]): VersionList {
  const preferred = spoken.toReversed().map(versionNumber)
  if (versions.length === 0) return { versions: preferred }
  return {
    versions: preferred.filter(({ major, minor }) =>
      versions.some((asked) => asked.major === major && asked.minor === minor),
    ),
  }
}
