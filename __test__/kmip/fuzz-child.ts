/** Reads damaged messages: fuzz-child.ts COUNT SEED. Ends with 1 at the first that does worse than a refusal. */
import { protocolVersions } from '../../src/kmip/version.js'
import type { ProtocolVersion } from '../../src/kmip/version.js'
import { damaged, dice, readRequest, readResponse, requestSeeds, responseSeeds } from './damage.js'

const count = Number(process.argv[2] ?? 1_000_000)
const seed = Number(process.argv[3] ?? 1)
const roll = dice(seed)
const begin = Date.now()
let read = 0
for (let n = 0; n < count; n++) {
  const request = roll(2) === 0
  const bytes = damaged(request ? requestSeeds : responseSeeds, roll)
  try {
    read += request
      ? readRequest(bytes)
      : readResponse(bytes, protocolVersions[roll(protocolVersions.length)] as ProtocolVersion)
  } catch (error) {
    process.stderr.write(`message ${n} of seed ${seed}: ${bytes.toString('hex')}\n`)
    throw error
  }
}
const seconds = (Date.now() - begin) / 1000
const heap = Math.round(process.memoryUsage().heapUsed / 2 ** 20)
process.stdout.write(
  `TypeScript codec: ${count} damaged messages (seed ${seed}), ${read} payloads were readable, ` +
    `0 crashes, ${seconds.toFixed(1)} s, ${heap} MiB heap\n`,
)
