/** Who is let in: one vCenter, one host, TLS 1.3, and no patience with strangers. */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect as connectTcp } from 'node:net'
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls'
import test from 'ava'
import { hostCertificateName } from '../../src/rpc/wire.js'
import { makeAuthority, partialHost, serveHost } from './network.js'

const host = partialHost({ listKeys: async () => [] })

/** True if the host answers; a handshake of TLS 1.3 is over before the host has looked at the client. */
async function isAnswered(
  address: { host: string; port: number },
  options: ConnectionOptions,
): Promise<boolean> {
  const socket: TLSSocket = connect({ ...address, rejectUnauthorized: false, ...options })
  let answered = false
  socket.on('data', () => (answered = true))
  socket.on('error', () => {})
  socket.write('GET /vmseal HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
  await new Promise((resolve) => socket.on('close', resolve))
  return answered
}

test('only the certificate of its vCenter opens a host', async (t) => {
  const served = await serveHost(t, host)
  const { credentials, authority, address } = served
  const shown = ({ certificate, privateKeyFile }: { certificate: string; privateKeyFile: string }) => ({
    cert: certificate,
    key: readFileSync(privateKeyFile),
  })
  const stranger = await makeAuthority(t)
  t.true(await isAnswered(address, shown(credentials)), 'the test asks rightly')
  t.false(await isAnswered(address, {}), 'no certificate')
  t.false(await isAnswered(address, shown(stranger.client())), 'of another CA')
  t.false(await isAnswered(address, shown(authority.client())), 'of the same CA and name, another key')
  t.false(await isAnswered(address, shown(authority.host(randomUUID()))), 'another host of the same vCenter')
  t.false(await isAnswered(address, { ...shown(credentials), maxVersion: 'TLSv1.2' }), 'an older TLS')
  t.is(served.turnedAway.length, 5)
  t.true(
    served.turnedAway.some(({ reason }) => reason.includes('not of the vCenter that this host belongs to')),
  )
})

test('vCenter talks to the host that was added, and to nobody who is like it', async (t) => {
  const served = await serveHost(t, host)
  t.deepEqual(await served.connect().api.listKeys(), [])
  for (const [change, why] of [
    [{ hostId: randomUUID() }, 'a certificate for another host id'],
    [{ keyHash: 'ab'.repeat(32) }, 'another public key'],
    [{ credentials: (await makeAuthority(t)).client() }, 'certificates of another CA'],
  ] as const)
    await t.throwsAsync(served.connect(change).api.listKeys(), { code: 'VMSEAL_HOST_NOT_TRUSTED' }, why)
  const other = served.authority.client()
  const refused = await t.throwsAsync(served.connect({ credentials: other }).api.listKeys())
  t.regex((refused as { code?: string }).code ?? '', /^VMSEAL_HOST_(UNREACHABLE|NOT_TRUSTED)$/)
})

test('a host that answers under another id than its certificate says is not trusted', async (t) => {
  const served = await serveHost(t, host)
  const lying = await serveHost(t, host)
  const client = served.connect({ address: lying.address })
  await t.throwsAsync(client.api.listKeys(), { code: 'VMSEAL_HOST_NOT_TRUSTED' })
})

test('who only opens connections, or sends a head byte by byte, keeps nobody out', async (t) => {
  const served = await serveHost(t, host, {
    listener: { pending: 4, handshakeMs: 60_000, requestMs: 1000 },
  })
  const idle = Array.from({ length: 12 }, () => connectTcp(served.address).on('error', () => {}))
  await Promise.all(idle.map((socket) => once(socket, 'connect')))
  t.deepEqual(await served.connect().api.listKeys(), [])
  const { certificate, privateKeyFile } = served.credentials
  const slow = connect({
    ...served.address,
    cert: certificate,
    key: readFileSync(privateKeyFile),
    ca: served.authority.caCertificate,
    servername: hostCertificateName(served.hostId),
  })
  slow.on('error', () => {})
  await once(slow, 'secureConnect')
  const drip = setInterval(() => slow.write('x'), 100)
  await new Promise((resolve) => slow.resume().on('close', resolve))
  clearInterval(drip)
  t.true(served.turnedAway.filter(({ reason }) => reason === 'too many unfinished handshakes').length >= 8)
  for (const socket of idle) socket.destroy()
})

test('the connections of vCenter itself are bounded', async (t) => {
  const served = await serveHost(t, host, { listener: { connections: 2 } })
  const { certificate, privateKeyFile } = served.credentials
  const open = async (): Promise<TLSSocket> => {
    const socket = connect({
      ...served.address,
      cert: certificate,
      key: readFileSync(privateKeyFile),
      rejectUnauthorized: false,
    })
    socket.on('error', () => {})
    await once(socket, 'secureConnect')
    return socket
  }
  const [first] = [await open(), await open()]
  const third = await open()
  await new Promise((resolve) => third.resume().on('close', resolve))
  first.destroy()
  await once(first, 'close')
  t.deepEqual(served.turnedAway.map(({ reason }) => reason), ['too many connections']) // prettier-ignore
})
