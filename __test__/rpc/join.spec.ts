/** The one time when a host and a vCenter meet: each knows the other before it trusts a certificate. */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect, type TLSSocket } from 'node:tls'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { native } from '../../src/native/load.js'
import { HttpsListener } from '../../src/rpc/https-listener.js'
import { joinHost } from '../../src/rpc/join-client.js'
import { JoinServer, type JoinServerOptions } from '../../src/rpc/join-server.js'
import {
  makeJoinSecret,
  proveJoin,
  readJoinToken,
  writeJoinToken,
  type JoinGrant,
} from '../../src/rpc/join-token.js'
import { joinPath } from '../../src/rpc/wire.js'
import { startLinkProxy } from './link-proxy.js'

const grant: JoinGrant = {
  caCertificate: 'a CA',
  certificate: 'a certificate',
  vcenterKeyHash: 'ab'.repeat(32),
}

async function waitingHost(t: ExecutionContext, change: Partial<JoinServerOptions> = {}) {
  const directory = await mkdtemp(join(tmpdir(), 'vmseal-join-'))
  const privateKeyFile = join(directory, 'join.key')
  const certificate = native.createSelfSignedClient('a host that waits', privateKeyFile)
  const listener = await HttpsListener.open({ host: '127.0.0.1', port: 0 }, () => {})
  t.teardown(async () => {
    await listener.close()
    await rm(directory, { recursive: true, force: true })
  })
  const accepted: JoinGrant[] = []
  let joined = 0
  const server = new JoinServer({
    offer: { hostId: randomUUID(), name: 'esx-1', request: 'a request' },
    keyHash: native.describeCertificate(certificate).keyHash,
    lifetimeMs: 60_000,
    accept: async (given) => void accepted.push(given),
    joined: () => (joined += 1),
    ...change,
  })
  listener.serve({ certificate, privateKeyFile }, server.answer)
  const address = { host: '127.0.0.1', port: listener.port }
  return { address, token: server.token, accepted, joined: () => joined }
}

/** Sends a grant over a connection of its own, with a proof that is made for it or brought along. */
async function post(
  address: { host: string; port: number },
  prove: (socket: TLSSocket) => string,
  given: JoinGrant = grant,
): Promise<string> {
  const socket = connect({ ...address, rejectUnauthorized: false })
  await once(socket, 'secureConnect')
  const body = JSON.stringify({ ...given, proof: prove(socket) })
  const request = httpRequest({ createConnection: () => socket, path: joinPath, method: 'POST' })
  request.end(body)
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  let text = ''
  for await (const part of response.setEncoding('utf8') as AsyncIterable<string>) text += part
  socket.destroy()
  return text
}

test('a host joins by its token: the grant arrives as it was given, once', async (t) => {
  const host = await waitingHost(t)
  const offer = await joinHost(host.address, host.token, async () => grant)
  t.like(offer, { name: 'esx-1', request: 'a request' })
  t.deepEqual(host.accepted, [grant])
  t.is(host.joined(), 1)
  await t.throwsAsync(
    joinHost(host.address, host.token, async () => grant),
    { code: 'VMSEAL_JOIN_REFUSED' },
  )
  t.is(host.accepted.length, 1)
})

test('a token with another secret is refused, and leaves the right one as it was', async (t) => {
  const host = await waitingHost(t)
  const { keyHash } = readJoinToken(host.token)
  const guessed = writeJoinToken({ keyHash, secret: makeJoinSecret() })
  await t.throwsAsync(
    joinHost(host.address, guessed, async () => grant),
    { code: 'VMSEAL_JOIN_REFUSED' },
  )
  t.deepEqual(host.accepted, [])
  await joinHost(host.address, host.token, async () => grant)
})

test('another key answers: vCenter sends nothing, not even a question', async (t) => {
  const host = await waitingHost(t)
  const impostor = await waitingHost(t)
  let asked = false
  const given = joinHost(impostor.address, host.token, async () => {
    asked = true
    return grant
  })
  await t.throwsAsync(given, { code: 'VMSEAL_HOST_NOT_TRUSTED' })
  t.false(asked)
  t.deepEqual(impostor.accepted, [])
})

test('a token expires by a clock that cannot be set back', async (t) => {
  let now = 0
  const host = await waitingHost(t, { lifetimeMs: 1000, now: () => now })
  now = 1000
  await t.throwsAsync(
    joinHost(host.address, host.token, async () => grant),
    { code: 'VMSEAL_JOIN_REFUSED' },
  )
  t.deepEqual(host.accepted, [])
})

test('a proof is good in its own TLS session and for its own grant only', async (t) => {
  const host = await waitingHost(t)
  const { secret } = readJoinToken(host.token)
  let stolen = ''
  const wrong = await post(host.address, (socket) => {
    stolen = proveJoin(secret, grant, socket).toString('base64')
    return Buffer.alloc(32, 7).toString('base64')
  })
  t.regex(wrong, /VMSEAL_JOIN_REFUSED/)
  t.regex(await post(host.address, () => stolen), /VMSEAL_JOIN_REFUSED/, 'replayed in another session')
  const changed = { ...grant, vcenterKeyHash: 'cd'.repeat(32) }
  const forOther = (socket: TLSSocket) => proveJoin(secret, grant, socket).toString('base64')
  t.regex(await post(host.address, forOther, changed), /VMSEAL_JOIN_REFUSED/, 'for another vCenter')
  t.deepEqual(host.accepted, [])
  t.regex(await post(host.address, forOther), /"joined":true/)
})

test('two come at once with the same token: one is let in', async (t) => {
  const host = await waitingHost(t)
  const outcomes = await Promise.allSettled(
    Array.from({ length: 6 }, () => joinHost(host.address, host.token, async () => grant)),
  )
  t.is(outcomes.filter(({ status }) => status === 'fulfilled').length, 1)
  t.is(host.accepted.length, 1)
})

test('a grant that the host cannot use spends the token all the same', async (t) => {
  const host = await waitingHost(t, { accept: () => Promise.reject(new Error('no')) })
  await t.throwsAsync(
    joinHost(host.address, host.token, async () => grant),
    { code: 'VMSEAL_INTERNAL' },
  )
  await t.throwsAsync(
    joinHost(host.address, host.token, async () => grant),
    { code: 'VMSEAL_JOIN_REFUSED' },
  )
})

test('vCenter may refuse what it sees of the host: then the token is not spent', async (t) => {
  const host = await waitingHost(t)
  const refuse = () => Promise.reject(new Error('the name is taken'))
  await t.throwsAsync(joinHost(host.address, host.token, refuse))
  await joinHost(host.address, host.token, async () => grant)
})

test('nobody there, or a link that is cut, is told as such', async (t) => {
  const host = await waitingHost(t)
  const proxy = await startLinkProxy(t, host.address)
  proxy.down = true
  await t.throwsAsync(
    joinHost(proxy.address, host.token, async () => grant),
    {
      code: 'VMSEAL_HOST_UNREACHABLE',
    },
  )
  proxy.down = false
  const cut = joinHost(proxy.address, host.token, async () => {
    proxy.cut()
    return grant
  })
  await t.throwsAsync(cut, { code: 'VMSEAL_HOST_UNREACHABLE' })
  t.deepEqual(host.accepted, [])
})

test('what is no token is refused without a connection', (t) => {
  const token = writeJoinToken({ keyHash: 'ab'.repeat(32), secret: Buffer.alloc(32, 1) })
  t.deepEqual(readJoinToken(token), { keyHash: 'ab'.repeat(32), secret: Buffer.alloc(32, 1) })
  for (const bad of [
    undefined,
    null,
    7,
    '',
    token.slice(0, -1),
    `${token}A`,
    ` ${token}`,
    token.replace('1', '2'),
  ])
    t.throws(() => readJoinToken(bad), { code: 'VMSEAL_JOIN_REFUSED' }, String(bad))
  fc.assert(
    fc.property(fc.string(), (text) => {
      t.throws(() => readJoinToken(text), { code: 'VMSEAL_JOIN_REFUSED' })
      t.throws(() => readJoinToken(`vmseal-join-1.${text}`), { code: 'VMSEAL_JOIN_REFUSED' })
    }),
  )
})

test('tokens are never the same, and hold 256 random bits', (t) => {
  const secrets = new Set(Array.from({ length: 1000 }, () => makeJoinSecret().toString('hex')))
  t.is(secrets.size, 1000)
  t.is(makeJoinSecret().length, 32)
})
