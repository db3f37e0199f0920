/** Messages that were damaged on the way: a KMIP answer or a VmsealError, nothing worse. */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { decodeResponse } from '../../src/kmip/messages.js'
import { KmipServer } from '../../src/kmip/server.js'
import type { KmipService } from '../../src/kmip/server.js'
import { decodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { dumpTtlv } from '../../src/kmip/ttlv/dump.js'
import { protocolVersions } from '../../src/kmip/version.js'
import { native } from '../../src/native/load.js'
import { connect, startKms } from '../kms/running-kms.js'
import { damaged, dice, readRequest, readResponse, requestSeeds, responseSeeds } from './damage.js'
import { openRaw } from './raw-connection.js'

test('the messages to be damaged can all be read while they are whole', (t) => {
  for (const seed of requestSeeds) t.true(readRequest(seed) > 0, dumpTtlv(decodeTtlv(seed)))
  for (const [index, seed] of responseSeeds.entries())
    t.true(readResponse(seed, protocolVersions[index] ?? '1.0') > 0)
})

test('100,000 damaged requests and responses through codec, messages and payloads', (t) => {
  const roll = dice(Date.now())
  const seed = roll(2 ** 31)
  const program = fileURLToPath(new URL('fuzz-child.ts', import.meta.url))
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--import=tsx', '--max-old-space-size=128', program, '100000', `${seed}`],
    { encoding: 'utf8' },
  )
  t.is(status, 0, stderr)
  t.log(stdout.trim())
  const read = Number(/(\d+) payloads were readable/.exec(stdout)?.[1])
  t.true(read > 10_000, 'many were readable')
})

/** Does what every operation asks and answers with as little as it may. */
const service: KmipService = {
  Create: () => ({ id: '1', objectType: 'SymmetricKey' }),
  Register: () => ({ id: '1' }),
  ReKey: () => ({ id: '2' }),
  Locate: ({ attributes }) => ({ ids: attributes.map(({ name }) => name), locatedItems: 1 }),
  Check: (request) => request,
  Get: ({ id, wrapping }) =>
    wrapping
      ? { id, wrapped: new Uint8Array(40).fill(1), wrapping }
      : { id, key: native.KeyHandle.generate(32), algorithm: 'AES', length: 256 },
  GetAttributes: ({ id, names }) => ({ id, attributes: names.map((name) => ({ name, value: name })) }),
  GetAttributeList: ({ id }) => ({ id, names: ['State'] }),
  AddAttribute: (request) => request,
  ModifyAttribute: (request) => request,
  DeleteAttribute: ({ id }) => ({ id }),
  SetAttribute: ({ id }) => ({ id }),
  AdjustAttribute: ({ id }) => ({ id }),
  Activate: ({ id }) => ({ id }),
  Revoke: ({ id }) => ({ id }),
  Destroy: ({ id }) => ({ id }),
  Archive: ({ id }) => ({ id }),
  Recover: ({ id }) => ({ id }),
}

test.serial('10,000 damaged requests at the protocol side of the server: each has an answer', async (t) => {
  const server = new KmipServer(service)
  const roll = dice(Date.now())
  const before = native.keyMemoryStatus().allocations
  let done = 0
  for (let n = 0; n < 10_000; n++) {
    const bytes = damaged(requestSeeds, roll)
    const reply = await server.process(bytes, [], { connectionId: 1, clientKeyHash: 'hash' })
    for (const key of reply.keys) key.dispose()
    const { items } = decodeResponse(decodeTtlv(reply.message))
    t.true(items.length > 0, bytes.toString('hex'))
    done += items.filter(({ status }) => status === 'Success').length
  }
  t.true(done > 1000, 'many were done')
  t.is(native.keyMemoryStatus().allocations, before, 'no key is left behind')
})

test.serial('2,000 damaged requests at the KMS over TLS: it answers or hangs up, and goes on', async (t) => {
  const kms = await startKms(t)
  const credentials = await kms.enrol('client')
  const roll = dice(Date.now())
  let connection = await openRaw(t, kms, credentials)
  let [answered, refused] = [0, 0]
  for (let n = 0; n < 2000; n++) {
    if (connection.closed) connection = await openRaw(t, kms, credentials)
    try {
      // Its header must announce its length: what does not is refused before it is read.
      const bytes = damaged(requestSeeds, roll)
      if (bytes.length % 8 !== 0 || bytes.length < 16) continue
      bytes.writeUInt32BE(0x42_0078_01, 0)
      bytes.writeUInt32BE(bytes.length - 8, 4)
      const { message, keys } = await connection.request(bytes, [])
      for (const key of keys) key.dispose()
      t.true(decodeResponse(decodeTtlv(message)).items.length > 0)
      answered++
    } catch {
      // Our own side may refuse to send it; then the connection goes on.
      refused++
    }
  }
  t.true(answered > 100, `${answered} answers, ${refused} refused`)
  const client = await connect(t, kms, credentials)
  const { id } = await client.create()
  const { key } = await client.get(id)
  t.is(key.length, 32)
  key.dispose()
})
