/** Messages of every operation and version, damaged in every way that a wire or an enemy can think of. */
import { isVmsealError } from '../../src/errors.js'
import {
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  encodeResponseItem,
} from '../../src/kmip/messages.js'
import { operationCodec, operationName, operationTable } from '../../src/kmip/operations/table.js'
import type { OperationName, RequestOf, ResponseOf } from '../../src/kmip/operations/table.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { enumerations } from '../../src/kmip/ttlv/enumerations.js'
import { structure } from '../../src/kmip/ttlv/node.js'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'
import { StructureReader } from '../../src/kmip/ttlv/reader.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { isSince, protocolVersions } from '../../src/kmip/version.js'
import type { ProtocolVersion } from '../../src/kmip/version.js'

const id = '7f6c0a1e-0000-4000-8000-000000000001'
const name = { name: 'Name', value: { NameValue: 'db01', NameType: 'UninterpretedTextString' } }
const custom = { name: 'x-Vendor', value: 'somebody' }
const wrapping = {
  method: 'Encrypt',
  wrappingKeyId: id,
  blockCipherMode: 'NISTKeyWrap',
  encodingOption: 'NoEncoding',
} as const

const requests: { [O in OperationName]?: RequestOf<O> } = {
  DiscoverVersions: { versions: [{ major: 1, minor: 4 }] },
  Query: { functions: ['QueryOperations', 'QueryObjects'] },
  Create: {
    objectType: 'SymmetricKey',
    attributes: [
      { name: 'Cryptographic Algorithm', value: 'AES' },
      { name: 'Cryptographic Length', value: 256 },
      { name: 'Cryptographic Usage Mask', value: 12 },
      name,
      custom,
    ],
  },
  ReKey: { id, offset: 5, attributes: [custom] },
  Locate: { maximumItems: 3, attributes: [name, { name: 'State', value: 'Active' }] },
  Check: { id, usageMask: 12, leaseTime: 60 },
  Get: { id, keyFormatType: 'Raw', wrapping },
  GetAttributes: { id, names: ['State', 'x-Name'] },
  GetAttributeList: { id },
  AddAttribute: { id, attribute: custom },
  ModifyAttribute: { id, attribute: { ...custom, index: 1 }, current: 'before' },
  DeleteAttribute: { id, name: 'x-Vendor', index: 0 },
  SetAttribute: { id, attribute: { name: 'Description', value: 'key' } },
  AdjustAttribute: { id, name: 'Cryptographic Length', type: 'Increment', value: 2 },
  Activate: { id },
  Revoke: { id, reason: 'KeyCompromise', message: 'lost', compromiseOccurrenceDate: new Date(0) },
  Destroy: { id },
  Archive: {},
  Recover: { id },
}

const responses: { [O in OperationName]?: ResponseOf<O> } = {
  Create: { id, objectType: 'SymmetricKey' },
  Locate: { ids: [id, id], locatedItems: 2 },
  Get: { id, wrapped: new Uint8Array(40).fill(7), wrapping, algorithm: 'AES', length: 256 },
  GetAttributes: { id, attributes: [name, custom, { name: 'State', value: 'Active' }] },
  GetAttributeList: { id, names: ['State', 'x-Name'] },
  AddAttribute: { id, attribute: { ...custom, index: 0 } },
  Query: {
    operations: ['Get'],
    objectTypes: ['SymmetricKey'],
    vendorIdentification: 'v',
    applicationNamespaces: ['n'],
  },
  DiscoverVersions: { versions: [{ major: 1, minor: 4 }] },
}

/** Whole requests: for each version one message of all its operations, and each operation alone in the oldest. */
export const requestSeeds: readonly Buffer[] = protocolVersions.flatMap((version) => {
  const items = eachOf(requests, version).map(([operation, content]) => ({
    operation: enumerations.Operation[operation],
    uniqueBatchItemId: Uint8Array.of(1, 2),
    payload: structure(tags.RequestPayload, operationCodec(operation).encodeRequest(content, version)),
  }))
  const header = { version, clientCorrelationValue: 'c', credential: { username: 'u', password: 'p' } }
  const single = version === '1.0' || version === '2.0' ? items.map((item) => [item]) : []
  return [items, ...single].map((some) => encodeTtlv(encodeRequest({ header, items: some })))
})

export const responseSeeds: readonly Buffer[] = protocolVersions.map((version) => {
  const items = eachOf(responses, version).map(([operation, content]) =>
    encodeResponseItem({
      operation: enumerations.Operation[operation],
      uniqueBatchItemId: Uint8Array.of(1, 2),
      status: 'Success',
      payload: structure(tags.ResponsePayload, operationCodec(operation).encodeResponse(content, version)),
    }),
  )
  const failed = encodeResponseItem({
    operation: 10,
    status: 'OperationFailed',
    reason: 'ItemNotFound',
    message: 'no',
  })
  return encodeTtlv(encodeResponse({ version, timeStamp: new Date(0) }, [...items, failed]))
})

function eachOf(
  contents: Partial<Record<OperationName, unknown>>,
  version: ProtocolVersion,
): [OperationName, unknown][] {
  const entries = Object.entries(contents) as [OperationName, unknown][]
  return entries.filter(([operation]) => isSince(version, operationTable[operation].since))
}

/** Numbers below `limit`, the same ones for the same seed (xorshift32). */
export function dice(seed: number): (limit: number) => number {
  let state = seed | 0 || 1
  return (limit) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % limit
  }
}

const edges = [0, 1, 4, 7, 8, 9, 0x0b, 0x42, 0x54, 0x7f, 0x80, 0xff]

/** One of `seeds` with one to four changes. */
export function damaged(seeds: readonly Buffer[], roll: (limit: number) => number): Buffer {
  let bytes = Buffer.from(seeds[roll(seeds.length)] as Buffer)
  for (let changes = 1 + roll(4); changes > 0 && bytes.length > 0; changes--) {
    const place = roll(bytes.length)
    const aligned = place & ~7
    const length = 1 + roll(24)
    const byte = roll(2) === 0 ? (edges[roll(edges.length)] as number) : roll(256)
    const before = bytes.subarray(0, place)
    switch (roll(8)) {
      case 0:
        bytes[place] = byte
        break
      case 1:
        bytes[place] = (bytes[place] as number) ^ (1 << (byte & 7))
        break
      case 2:
        bytes = Buffer.concat([before, bytes.subarray(place + length)])
        break
      case 3:
        bytes = Buffer.concat([before, bytes.subarray(place, place + length), bytes.subarray(place)])
        break
      case 4:
        bytes = Buffer.concat([before, Buffer.alloc(length, byte), bytes.subarray(place)])
        break
      case 5:
        // The type or the lowest byte of the length of what may be an item.
        bytes[Math.min(aligned + (roll(2) === 0 ? 3 : 7), bytes.length - 1)] = byte
        break
      case 6: {
        const other = seeds[roll(seeds.length)] as Buffer
        const from = roll(other.length) & ~7
        bytes = Buffer.concat([bytes.subarray(0, aligned), other.subarray(from, from + 8 * length)])
        break
      }
      default:
        if (bytes.length >= aligned + 8)
          bytes.writeUInt32BE(roll(2) === 0 ? byte : roll(2 ** 32), aligned + 4)
    }
  }
  return bytes
}

/** Reads a damaged request as a server does. Returns how many payloads could be read. */
export function readRequest(bytes: Uint8Array): number {
  const node = readNode(bytes)
  const message = node && orRefused(() => decodeRequest(node))
  let read = 0
  for (const { operation, payload } of message?.items ?? []) {
    const codec = operationName(operation)
    const done =
      codec &&
      orRefused(() => {
        const reader = new StructureReader(payload, message?.lenient)
        operationCodec(codec).decodeRequest(reader, message?.header.version ?? '1.0')
        reader.end()
        return true
      })
    if (done) read++
  }
  return read
}

/** Reads a damaged response as a client does. Returns how many payloads could be read. */
export function readResponse(bytes: Uint8Array, version: ProtocolVersion): number {
  const node = readNode(bytes)
  let read = 0
  for (const { operation, payload } of (node && orRefused(() => decodeResponse(node)))?.items ?? []) {
    const codec = operation === undefined ? undefined : operationName(operation)
    if (!codec || !payload) continue
    const done = orRefused(() => {
      operationCodec(codec).decodeResponse(new StructureReader(payload, true), version)
      return true
    })
    if (done) read++
  }
  return read
}

/** What was decoded encodes to bytes that decode to the same. */
function readNode(bytes: Uint8Array): TtlvNode | undefined {
  const node = orRefused(() => decodeTtlv(bytes))
  if (!node) return undefined
  const encoded = encodeTtlv(node)
  if (!encodeTtlv(decodeTtlv(encoded)).equals(encoded)) throw new Error('encode(decode(x)) is not stable')
  return node
}

/** Undefined for a VmsealError; anything else is thrown on. */
function orRefused<T>(work: () => T): T | undefined {
  try {
    return work()
  } catch (error) {
    if (isVmsealError(error)) return undefined
    throw error
  }
}
