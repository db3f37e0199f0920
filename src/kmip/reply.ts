/** Encoded responses with the keys that go into them. */
import { isVmsealError } from '../errors.js'
import type { KeyHandle } from '../native/load.js'
import { kmipFailure } from './failure.js'
import { encodedLength, encodeTtlv } from './ttlv/codec.js'
import { collectKeys, forEachKey } from './ttlv/keys.js'
import type { TtlvNode } from './ttlv/node.js'

export interface KmipReply {
  readonly message: Buffer
  /** For the empty key materials of `message`; to be disposed of once sent. */
  readonly keys: KeyHandle[]
}

/** Refused items may carry an answer beyond the limit that the others kept. */
export function toReply(message: TtlvNode): KmipReply {
  const keys = collectKeys(message)
  try {
    return { message: encodeTtlv(message), keys }
  } catch (error) {
    for (const key of keys) key.dispose()
    throw isVmsealError(error, 'VMSEAL_KMIP_TOO_LARGE')
      ? kmipFailure('ResponseTooLarge', 'the answer is larger than a message may be')
      : error
  }
}

/** Bytes of an item once its keys are spliced in. */
export function wireLength(node: TtlvNode): number {
  let length = encodedLength(node)
  forEachKey(node, (key) => (length += Math.ceil(key.length / 8) * 8))
  return length
}
