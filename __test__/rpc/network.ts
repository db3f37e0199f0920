/** A host behind HTTPS without a vCenter: certificates of a CA of its own, a listener, and clients for it. */
import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { native } from '../../src/native/load.js'
import type { HostApi } from '../../src/rpc/host-api.js'
import { hostApiOf } from '../../src/rpc/host-methods.js'
import { HostServer } from '../../src/rpc/host-server.js'
import { HttpsHost, type HttpsHostOptions } from '../../src/rpc/https-host.js'
import { HttpsListener, type ListenerLimits, type TurnedAway } from '../../src/rpc/https-listener.js'
import type { RequestLogLimits } from '../../src/rpc/request-log.js'
import type { LinkCredentials } from '../../src/rpc/tls-identity.js'
import { hostCertificateName } from '../../src/rpc/wire.js'

/** A CA, and whoever it vouches for. */
export interface TestAuthority {
  readonly caCertificate: string
  /** A client certificate, as vCenter has one. */
  client(name?: string): LinkCredentials & { readonly keyHash: string }
  /** A server certificate, as a host has one. */
  host(hostId: string): LinkCredentials & { readonly keyHash: string }
}

export async function makeAuthority(t: ExecutionContext): Promise<TestAuthority> {
  const directory = await mkdtemp(join(tmpdir(), 'vmseal-rpc-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  const caKey = join(directory, 'ca.key')
  const caCertificate = native.createAuthority('test CA', caKey)
  const described = (make: (keyFile: string) => string) => {
    const privateKeyFile = join(directory, `${randomUUID()}.key`)
    const certificate = make(privateKeyFile)
    const { keyHash } = native.describeCertificate(certificate)
    return { caCertificate, certificate, privateKeyFile, keyHash }
  }
  return {
    caCertificate,
    client: (name = 'vcenter') =>
      described((keyFile) => native.issueClientCertificate(caCertificate, caKey, name, keyFile)),
    host: (hostId) =>
      described((keyFile) =>
        native.issueServerCertificate(caCertificate, caKey, [hostCertificateName(hostId)], keyFile),
      ),
  }
}

export interface ServedHost {
  readonly hostId: string
  readonly address: { readonly host: string; readonly port: number }
  readonly authority: TestAuthority
  /** vCenter's. */
  readonly credentials: LinkCredentials & { readonly keyHash: string }
  readonly keyHash: string
  readonly turnedAway: TurnedAway[]
  /** As a process that was started anew: nothing is remembered. */
  restart(host?: HostApi): void
  /** A client; its timing is short. */
  connect(change?: Partial<HttpsHostOptions>): HttpsHost
}

export async function serveHost(
  t: ExecutionContext,
  host: HostApi,
  options: { limits?: Partial<RequestLogLimits>; listener?: Partial<ListenerLimits>; hostId?: string } = {},
): Promise<ServedHost> {
  const hostId = options.hostId ?? randomUUID()
  const authority = await makeAuthority(t)
  const credentials = authority.client()
  const own = authority.host(hostId)
  const turnedAway: TurnedAway[] = []
  const listener = await HttpsListener.open(
    { host: '127.0.0.1', port: 0 },
    (who) => turnedAway.push(who),
    options.listener,
  )
  const restart = (served: HostApi = host): void => {
    const server = new HostServer({ host: served, hostId, limits: options.limits ?? {} })
    listener.serve({ ...own, clientKeyHash: credentials.keyHash }, server.answer)
  }
  restart()
  const clients: HttpsHost[] = []
  t.teardown(async () => {
    for (const client of clients) client.close()
    await listener.close()
  })
  const address = { host: '127.0.0.1', port: listener.port }
  return {
    hostId,
    address,
    authority,
    credentials,
    keyHash: own.keyHash,
    turnedAway,
    restart,
    connect: (change = {}) => {
      const timing = { firstBackoffMs: 5, longestBackoffMs: 50, ...change.timing }
      const client = new HttpsHost({
        address,
        hostId,
        keyHash: own.keyHash,
        credentials,
        ...change,
        timing,
      })
      clients.push(client)
      return client
    },
  }
}

/** A `HostApi` of which only the given methods do anything. */
export function partialHost(methods: Partial<HostApi>): HostApi {
  const nothing = hostApiOf((name) => Promise.reject(new Error(`${name} is not part of this test`)))
  return { ...nothing, ...methods }
}

/** A promise and what settles it. */
export function gate(): { readonly opened: Promise<void>; open(): void } {
  let open = (): void => {}
  const opened = new Promise<void>((resolve) => (open = resolve))
  return { opened, open }
}
