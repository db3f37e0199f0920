/** Rows H1 and H3 on the TLS side: which servers are spoken to at all, and what a new connection costs. */
import test, { type ExecutionContext } from 'ava'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer as createPlainServer, type AddressInfo, type Server } from 'node:net'
import path from 'node:path'
import { createServer, type TlsOptions } from 'node:tls'
import { native } from '../../src/native/load.js'
import { Deadline } from '../../src/vcenter/key-provider/deadline.js'
import { Dialer } from '../../src/vcenter/key-provider/dialer.js'
import { defaultTiming } from '../../src/vcenter/key-provider/timing.js'
import { temporaryDirectory } from '../kms/running-kms.js'
import { openReplicas } from './replicated-kms.js'

const purpose = { name: 'db01', identifier: '00000000-0000-4000-8000-000000000001' }

/** Somebody else's TLS server. It never gets as far as a KMIP message that it would understand. */
async function openTlsServer(t: ExecutionContext, options: TlsOptions) {
  const directory = temporaryDirectory(t)
  const file = (name: string): string => path.join(directory, name)
  const authority = native.createAuthority('peer authority', file('ca.key'))
  const certificate = native.issueServerCertificate(
    authority,
    file('ca.key'),
    ['127.0.0.1'],
    file('server.key'),
  )
  const client = native.issueClientCertificate(authority, file('ca.key'), 'vcenter', file('client.key'))
  const seen = { bytes: 0, resumed: [] as boolean[] }
  const server = createServer(
    {
      cert: certificate,
      key: await readFile(file('server.key')),
      ca: authority,
      requestCert: true,
      ...options,
    },
    (socket) => {
      seen.resumed.push(socket.isSessionReused())
      socket.on('data', (bytes: Buffer) => (seen.bytes += bytes.length)).on('error', () => {})
    },
  )
  const address = await listen(t, server)
  const credentials = { caCertificate: authority, certificate: client, privateKeyFile: file('client.key') }
  return { address, seen, credentials }
}

async function listen(t: ExecutionContext, server: Server) {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => void server.close())
  return { host: '127.0.0.1', port: (server.address() as AddressInfo).port }
}

for (const [name, options] of [
  ['CBC suites', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA384' }],
  ['CBC with SHA-1', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES256-SHA' }],
  ['CCM suites', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES256-CCM' }],
] as const)
  test(`H3: a server with nothing but ${name} is refused by an error that says which suites are wanted`, async (t) => {
    const { address, seen, credentials } = await openTlsServer(t, options)
    const { servers, provider, events } = await openReplicas(t)
    const record = { id: 'kms-1', servers: [address], ...credentials, addedAt: '' }
    const alone = provider([address], { record, privateKeyFile: credentials.privateKeyFile })
    const wanted = /trust: .*TLS 1\.3, or TLS 1\.2 with ECDHE and AES-GCM or ChaCha20-Poly1305/
    for (const call of [() => alone.createKey(purpose), () => alone.fetchKey('k')]) {
      const error = await t.throwsAsync(call(), {
        code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE',
        message: wanted,
      })
      t.like(error?.cause, { code: 'VMSEAL_KMIP_TLS' })
    }
    t.is(events.filter(({ kind }) => kind === 'distrust').length, 1)
    t.deepEqual(seen, { bytes: 0, resumed: [] })
    // It stands in nobody's way.
    const both = provider([address, servers[0].endpoint])
    ;(await both.fetchKey(await both.createKey(purpose))).dispose()
  })

test('H3: what does not speak TLS at all gets no message', async (t) => {
  const seen: Buffer[] = []
  const plain = createPlainServer((socket) => {
    socket
      .on('error', () => {})
      .on('data', (bytes: Buffer) => {
        seen.push(bytes)
        socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')
      })
  })
  const address = await listen(t, plain)
  const { provider } = await openReplicas(t)
  await t.throwsAsync(provider([address]).fetchKey('k'), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  // Records of the handshake and alerts (RFC 8446, section 5.1), and no TTLV.
  t.is(seen[0]?.[0], 22)
  for (const bytes of seen) t.true(bytes[0] === 22 || bytes[0] === 21)
})

test('H1: a new connection to a known server resumes the TLS session; another connector does not', async (t) => {
  const options = { maxVersion: 'TLSv1.2', sessionIdContext: 'kms' } as const
  const { address, seen, credentials } = await openTlsServer(t, options)
  const { caCertificate, certificate, privateKeyFile } = credentials
  const identity = { accepted: { authorities: caCertificate, keyHashes: [] }, certificate, privateKeyFile }
  const dial = async (dialer: Dialer): Promise<void> => {
    const before = seen.resumed.length
    const connection = await dialer.dial(Deadline.after(2000))
    while (seen.resumed.length === before) await new Promise((resolve) => setTimeout(resolve, 5))
    connection.close()
  }
  const dialer = new Dialer(address, identity, defaultTiming)
  for (let times = 0; times < 3; times += 1) await dial(dialer)
  await dial(new Dialer(address, identity, defaultTiming))
  t.deepEqual(seen.resumed, [false, true, true, false])
})
