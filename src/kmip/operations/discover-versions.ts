/** DiscoverVersions (KMIP 1.4, section 4.26). */
import type { TtlvNode } from '../ttlv/node.js'
import { decodeVersion, encodeVersion } from '../version.js'
import type { VersionNumber } from '../version.js'
import type { OperationCodec } from './operation.js'

/** In the order of preference. A request with none asks for all. */
export interface VersionList {
  readonly versions: readonly VersionNumber[]
}

export const discoverVersions: OperationCodec<VersionList, VersionList> = {
  name: 'DiscoverVersions',
  since: '1.1',
  encodeRequest: encode,
  decodeRequest: (payload) => ({ versions: payload.structures('ProtocolVersion').map(decodeVersion) }),
  encodeResponse: encode,
  decodeResponse: (payload) => ({ versions: payload.structures('ProtocolVersion').map(decodeVersion) }),
}

function encode({ versions }: VersionList): TtlvNode[] {
  return versions.map(encodeVersion)
}
