/** A KMIP server with an authority of its own whose trust in clients is set by the test. It keeps no keys. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { ExecutionContext } from 'ava'
import { KmipListening } from '../../src/kmip/listener.js'
import { KmipServer, type KmipServerOptions } from '../../src/kmip/server.js'
import { native } from '../../src/native/load.js'

export interface TrustingServer {
  readonly host: string
  readonly port: number
  /** PEM of its authority. */
  readonly authority: string
  /** Operations that it was asked for. */
  readonly asked: string[]
  sign(request: string): string
  issue(commonName: string): { certificate: string; privateKeyFile: string }
  /** Starts again, with these single clients let in and, on the same port, perhaps another certificate. */
  restart(options: { pinned?: readonly string[]; newCertificate?: boolean }): Promise<void>
  stop(): Promise<void>
}

export async function startTrustingServer(
  t: ExecutionContext,
  options: Pick<KmipServerOptions, 'authenticate'> = {},
): Promise<TrustingServer> {
  const directory = await mkdtemp(path.join(tmpdir(), 'vmseal-trust-'))
  const file = (name: string): string => path.join(directory, name)
  const host = '127.0.0.1'
  const authority = native.createAuthority('test authority', file('ca.key'))
  const asked: string[] = []
  const server = new KmipServer(
    {},
    {
      vendorIdentification: 'test server',
      ...options,
      observe: ({ operation }) => void asked.push(operation),
    },
  )
  const issueServer = (name: string) => ({
    certificate: native.issueServerCertificate(authority, file('ca.key'), [host], file(name)),
    privateKeyFile: file(name),
  })
  let identity = issueServer('server.key')
  const listen = (port: number, pinned: readonly string[] = []): KmipListening =>
    KmipListening.start(server, {
      host,
      port,
      ...identity,
      clientAuthorities: authority,
      pinnedClients: pinned.map((certificate) => native.describeCertificate(certificate).keyHash),
    })
  let listening = listen(0)
  const { port } = listening
  let issued = 0
  t.teardown(async () => {
    await listening.stop()
    await rm(directory, { recursive: true, force: true })
  })
  return {
    host,
    port,
    authority,
    asked,
    sign: (request) => native.signCertificateRequest(authority, file('ca.key'), request, undefined),
    issue: (commonName) => {
      issued += 1
      const privateKeyFile = file(`client-${issued}.key`)
      return {
        certificate: native.issueClientCertificate(authority, file('ca.key'), commonName, privateKeyFile),
        privateKeyFile,
      }
    },
    restart: async ({ pinned, newCertificate = false }) => {
      await listening.stop()
      if (newCertificate) identity = issueServer(`server-${Date.now()}.key`)
      listening = listen(port, pinned)
    },
    stop: () => listening.stop(),
  }
}
