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
 * Gives each key its place in a received message, in a copy if there are any. When their numbers differ the keys are
 * disposed of and VMSEAL_KMIP_MALFORMED is thrown.
 */
export function attachKeys(message: TtlvNode, keys: readonly KeyHandle[]): TtlvNode {
  if (keys.length === 0 && !hasKeyPlace(message, false)) return message
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
  const keys: KeyHandle[] = []
  forEachKey(message, (key) => keys.push(key))
  return keys
}

export function forEachKey(message: TtlvNode, visit: (key: KeyHandle) => void): void {
  if (message.type === 'Structure') for (const child of message.value) forEachKey(child, visit)
  else if (message.type === 'ByteString' && message.key !== undefined) visit(message.key)
}

/** Wipes every key of a message. */
export function disposeKeys(message: TtlvNode): void {
  forEachKey(message, (key) => key.dispose())
}

const secretTags: ReadonlySet<number> = new Set([tags.KeyMaterial, tags.KeyValue, tags.Key])

function isKeyPlace(node: TtlvNode, inMaterial: boolean): node is ByteStringNode {
  return node.type === 'ByteString' && node.value.byteLength === 0 && (inMaterial || secretTags.has(node.tag))
}

function hasKeyPlace(node: TtlvNode, inMaterial: boolean): boolean {
  if (node.type !== 'Structure') return isKeyPlace(node, inMaterial)
  const within = inMaterial || node.tag === tags.KeyMaterial
  return node.value.some((child) => hasKeyPlace(child, within))
}
