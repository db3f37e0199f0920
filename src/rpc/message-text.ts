/** JSON that comes over a network: bounded in size and depth before anything is made of it. */
import type { IncomingMessage } from 'node:http'
import { VmsealError } from '../errors.js'

/** Of one request or one line of an answer, in bytes. */
export const longestMessage = 4 * 1024 * 1024
const deepest = 32

/** VMSEAL_RPC_MALFORMED for what is no JSON, or nested deeper than any message is. */
export function parseMessage(text: string): unknown {
  if (depthOf(text) > deepest) throw malformed(`it is nested deeper than ${deepest}`)
  try {
    return JSON.parse(text)
  } catch {
    throw malformed('it is no JSON')
  }
}

/** VMSEAL_RPC_MALFORMED as soon as there are more bytes. */
export async function readBody(message: IncomingMessage, most: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of message as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > most) throw malformed(`it is longer than ${most} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

export function malformed(reason: string): VmsealError {
  return new VmsealError('VMSEAL_RPC_MALFORMED', `a message cannot be read: ${reason}`)
}

/** Counts brackets outside of strings, and stops at the first one that is too deep. */
function depthOf(text: string): number {
  let depth = 0
  let inString = false
  for (let index = 0; index < text.length; index += 1) {
    const unit = text.charCodeAt(index)
    if (inString) {
      if (unit === backslash) index += 1
      else if (unit === quote) inString = false
    } else if (unit === quote) inString = true
    else if (unit === openList || unit === openObject) {
      depth += 1
      if (depth > deepest) return depth
    } else if (unit === closeList || unit === closeObject) depth -= 1
  }
  return depth
}

const quote = 0x22
const openList = 0x5b
const backslash = 0x5c
const closeList = 0x5d
const openObject = 0x7b
const closeObject = 0x7d
