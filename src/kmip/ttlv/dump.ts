/** A message as indented text, for diagnosis. */
import type { TtlvNode } from './node.js'
import { tagName } from './tags.js'

/**
 * One line an item. The content of byte strings is never shown, only its length: they are where keys,
 * passwords and wrapped keys travel. Text Strings below Credential Value are left out for the same reason.
 */
export function dumpTtlv(node: TtlvNode): string {
  return lines(node, 0, false).join('\n')
}

const longestText = 200

function lines(node: TtlvNode, depth: number, secret: boolean): string[] {
  const name = tagName(node.tag)
  const start = `${'  '.repeat(depth)}${name} (${node.type})`
  if (node.type === 'Structure') {
    const hidden = secret || name === 'CredentialValue'
    return [start, ...node.value.flatMap((child) => lines(child, depth + 1, hidden))]
  }
  return [`${start}: ${secret || name === 'Password' ? '(not shown)' : shown(node)}`]
}

function shown(node: Exclude<TtlvNode, { type: 'Structure' }>): string {
  switch (node.type) {
    case 'ByteString':
      return node.key
        ? `(key, ${node.key.disposed ? 'disposed' : `${node.key.length} bytes`})`
        : `(${node.value.byteLength} bytes)`
    case 'TextString':
      return JSON.stringify(
        node.value.length > longestText ? `${node.value.slice(0, longestText)}...` : node.value,
      )
    case 'DateTime': {
      const time = new Date(Number(node.value) * 1000)
      return Number.isNaN(time.getTime()) ? `${node.value}` : time.toISOString()
    }
    case 'Enumeration':
      return `0x${node.value.toString(16).padStart(8, '0')}`
    default:
      return String(node.value)
  }
}
