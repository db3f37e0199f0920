/** What vCenter and a host say to each other, on the wire and inside of TLS. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { connect as connectTcp, createServer, type AddressInfo, type Socket } from 'node:net'
import { connect, createServer as createTlsServer, type Server } from 'node:tls'
import type { ExecutionContext } from 'ava'

/**
 * Has the private keys of both sides, which only a test has: it ends the TLS of each and passes on what is inside. Before
 * the host has joined there is nothing to end, so then it is a relay.
 */
export async function startRecorder(t: ExecutionContext, host: { host: string; port: number }) {
  const wire: Buffer[] = []
  const inside: Buffer[] = []
  const sockets = new Set<Socket>()
  let ending: { server: Server } | undefined
  const pass = (one: Socket, other: Socket, seen: Buffer[]): void => {
    sockets.add(one)
    one.on('data', (bytes: Buffer) => {
      seen.push(bytes)
      other.write(bytes)
    })
    one.on('error', () => other.destroy())
    one.on('close', () => other.destroy())
  }
  const relay = createServer((near) => {
    if (ending) {
      near.on('data', (bytes: Buffer) => wire.push(bytes))
      return void ending.server.emit('connection', near)
    }
    const far = connectTcp(host)
    pass(near, far, wire)
    pass(far, near, wire)
  })
  relay.listen(0, '127.0.0.1')
  await once(relay, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    relay.close()
  })
  return {
    address: { host: '127.0.0.1', port: (relay.address() as AddressInfo).port },
    wire,
    inside,
    /** From now on the inside of TLS is recorded. */
    open: (agentDirectory: string, vcenterDirectory: string): void => {
      const { membership } = JSON.parse(readFileSync(path.join(agentDirectory, 'host.json'), 'utf8')) as {
        membership: { caCertificate: string; certificate: string; keyFile: string }
      }
      const vcenterKey = readFileSync(path.join(vcenterDirectory, 'host-authority', 'vcenter.key'))
      const server = createTlsServer(
        {
          cert: membership.certificate,
          key: readFileSync(path.join(agentDirectory, membership.keyFile)),
          ca: membership.caCertificate,
          requestCert: true,
        },
        (near) => {
          const cert = near.getPeerX509Certificate()?.toString() ?? ''
          const far = connect({ ...host, cert, key: vcenterKey, rejectUnauthorized: false })
          pass(near, far, inside)
          pass(far, near, inside)
        },
      )
      ending = { server }
      for (const socket of sockets) socket.destroy()
    },
  }
}

export function found(needles: ReadonlyMap<string, Buffer>, bytes: Buffer): string[] {
  return [...needles].filter(([, needle]) => bytes.includes(needle)).map(([name]) => name)
}
