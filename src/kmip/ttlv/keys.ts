/**
 * Where keys stand in a message. The native channel cuts the content of every secret byte string out of what it
 * receives and splices handles into what it sends, both in order of appearance. Secret are Key Material, the byte
 * strings in a Key Material structure, and Key Value and Key byte strings; one that is wrapped is not cut out, so
 * it is never empty.
 */
import { VmsealError } from '../../errors.js'
import type { KeyHandle } from '../../native/load.js'
import type { ByteStringNode, TtlvNode } from './node.js'
import { tags } from './tags.js'

/**
 * Gives each key its place in a received message, in a copy. When their numbers differ the keys are
 * disposed of and VMSEAL_KMIP_MALFORMED is thrown.
 */
export function attachKeys(message: TtlvNode, keys: readonly KeyHandle[]): TtlvNode {
  let used = 0
  const attach = (node: TtlvNode, inMaterial: boolean): TtlvNode => {
    if (node.type === 'Structure') {
      const within = inMaterial || node.tag === tags.KeyMaterial
      return { ...node, value: node.value.map((child) => attach(child, within)) }
    }
    if (!isKeyPlace(node, inMaterial)) return node
    const key = keys[used++]
    return key === undefined ? node : { ...node, key }
  }
  const attached = attach(message, false)
  if (used === keys.length) return attached
  for (const key of keys) key.dispose()
  throw new VmsealError(
    'VMSEAL_KMIP_MALFORMED',
    `a message has ${used} places for key material and ${keys.length} keys`,
  )
}

/** The keys of a message in order of appearance. */
export function collectKeys(message: TtlvNode): KeyHandle[] {
  if (message.type === 'Structure') return message.value.flatMap(collectKeys)
  return message.type === 'ByteString' && message.key !== undefined ? [message.key] : []
}

/** Wipes every key of a message. */
export function disposeKeys(message: TtlvNode): void {
  for (const key of collectKeys(message)) key.dispose()
}

const secretTags: ReadonlySet<number> = new Set([tags.KeyMaterial, tags.KeyValue, tags.Key])

function isKeyPlace(node: TtlvNode, inMaterial: boolean): node is ByteStringNode {
  return node.type === 'ByteString' && node.value.byteLength === 0 && (inMaterial || secretTags.has(node.tag))
}
