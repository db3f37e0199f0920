/**
 * Walks the way from here to a key, hop by hop, and says where it ends and what to do. The status of a server is the
 * first half of the same way.
 */
import { randomUUID } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { connect } from 'node:net'
import { isVmsealError, type VmsealError } from '../../errors.js'
import { nameValue } from '../../kmip/attributes.js'
import type { KmipClient } from '../../kmip/client.js'
import type { KeyHandle, KmipConnection } from '../../native/load.js'
import type { KmsServerAddress } from '../../store/store.js'
import { Deadline } from './deadline.js'
import { Dialer, DistrustError, type ServerIdentity } from './dialer.js'
import { keyNamePrefix } from './key-creations.js'
import type { KeyProviderTiming } from './timing.js'

const hops = ['dns', 'tcp', 'server trust', 'client trust', 'versions', 'create', 'get', 'compare', 'destroy'] as const // prettier-ignore
export type DoctorHop = (typeof hops)[number]

export interface HopReport {
  readonly hop: DoctorHop
  readonly ok: boolean
  /** What was seen, or why it failed. */
  readonly detail: string
  /** What to do about a failure. */
  readonly action?: string
  readonly milliseconds: number
}

export interface ServerDiagnosis {
  /** `host:port`. */
  readonly server: string
  readonly ok: boolean
  /** Those that were reached; the last one is where it broke. */
  readonly hops: readonly HopReport[]
}

/** `last`: the hop to stop after. Never rejects for what the server does. */
export async function diagnose(
  server: KmsServerAddress,
  identity: ServerIdentity,
  timing: KeyProviderTiming,
  last: DoctorHop = 'destroy',
): Promise<ServerDiagnosis> {
  const walk = new Walk(server, identity, timing)
  const reports: HopReport[] = []
  try {
    for (const hop of hops.slice(0, hops.indexOf(last) + 1)) {
      const begin = performance.now()
      const outcome = await walk.take(hop).then(
        (detail) => ({ ok: true, detail }),
        (error: unknown) => failed(hop, error),
      )
      reports.push({ hop, ...outcome, milliseconds: Math.round((performance.now() - begin) * 10) / 10 })
      if (!outcome.ok) break
    }
  } finally {
    await walk.end()
  }
  const name = `${server.host}:${server.port}`
  return { server: name, ok: reports.every((report) => report.ok), hops: reports }
}

const actions: Readonly<Record<DoctorHop, string>> = {
  dns: 'Correct the host name of the server, or the resolver of this machine.',
  tcp: 'Check that the KMS runs, its port (KMIP: 5696), and the firewalls between here and there.',
  'server trust':
    'Fetch the certificate of the server, compare it with what its administrator reads out, and trust it, or give the authority it is under. Its name must be the host name or serverName. TLS 1.2 or 1.3 with ECDHE and AES-GCM or ChaCha20 is needed.',
  'client trust':
    'Make the client certificate known at the KMS (pin it, sign the request, or upload its authority) and let the client use KMIP there.',
  versions: 'Use a KMS that speaks KMIP 1.0 to 1.4.',
  create: 'Let the client create AES-256 keys with a Name at the KMS.',
  get: 'Let the client get its own keys at the KMS, unwrapped.',
  compare: 'The KMS hands out different keys for one id: take it out of service.',
  destroy: 'Let the client destroy its own keys at the KMS; the test key is still there.',
}

/** One walk; each step builds on the one before. */
class Walk {
  readonly #server: KmsServerAddress
  readonly #timing: KeyProviderTiming
  readonly #dialer: Dialer
  #connection: KmipConnection | undefined
  #client: KmipClient | undefined
  #keyId = ''
  readonly #keys: KeyHandle[] = []

  constructor(server: KmsServerAddress, identity: ServerIdentity, timing: KeyProviderTiming) {
    this.#server = server
    this.#timing = timing
    this.#dialer = new Dialer(server, identity, timing)
  }

  take(hop: DoctorHop): Promise<string> {
    switch (hop) {
      case 'dns':
        return this.#resolve()
      case 'tcp':
        return this.#reach()
      case 'server trust':
        return this.#trust()
      case 'client trust':
        return this.#greet()
      case 'versions':
        return this.#ask(async (client) => {
          const versions = await client.discoverVersions()
          const offered = versions.map(({ major, minor }) => `${major}.${minor}`).join(', ')
          return `speaks KMIP ${client.version}; the server offers ${offered || 'no list'}`
        })
      case 'create':
        return this.#ask(async (client) => {
          const name = { name: 'Name', value: nameValue(`${keyNamePrefix}doctor-${randomUUID()}`) }
          this.#keyId = (await client.create({ algorithm: 'AES', length: 256, attributes: [name] })).id
          return `key ${this.#keyId}`
        })
      case 'get':
        return this.#ask(async (client) => {
          for (let times = 0; times < 2; times += 1) this.#keys.push((await client.get(this.#keyId)).key)
          return `${this.#keys[0]?.length} bytes, twice`
        })
      case 'compare':
        return this.#compare()
      case 'destroy':
        return this.#ask(async (client) => {
          await client.destroy(this.#keyId)
          const id = this.#keyId
          this.#keyId = ''
          return `key ${id} is destroyed`
        })
    }
  }

  /** Leaves nothing behind, as far as the server lets it. */
  async end(): Promise<void> {
    for (const key of this.#keys) key.dispose()
    if (this.#keyId !== '' && this.#client?.closed === false)
      await this.#ask((client) => client.destroy(this.#keyId)).catch(() => undefined)
    this.#client?.close()
    this.#connection?.close()
  }

  async #resolve(): Promise<string> {
    const looking = lookup(this.#server.host, { all: true })
    const found = await this.#deadline().race(looking, 'looking up the name', () => {})
    return found.map(({ address }) => address).join(', ')
  }

  #reach(): Promise<string> {
    const { host, port } = this.#server
    const socket = connect({ host, port })
    const connected = new Promise<string>((resolve, reject) => {
      socket.once('connect', () => resolve(`port ${port} is open at ${socket.remoteAddress}`))
      socket.once('error', reject)
    })
    return this.#deadline()
      .race(connected, 'connecting', () => {})
      .finally(() => socket.destroy())
  }

  async #trust(): Promise<string> {
    this.#connection = await this.#dialer.dial(this.#deadline())
    return 'TLS is up and the certificate is trusted'
  }

  /** Query makes a server say whether it knows us; DiscoverVersions is answered to everybody by some. */
  async #greet(): Promise<string> {
    if (!this.#connection) throw new Error('there is no connection')
    this.#client = await this.#dialer.greet(this.#connection, this.#deadline())
    const { vendorIdentification } = await this.#ask((client) => client.query(['QueryServerInformation']))
    return `accepted by ${vendorIdentification ?? 'the server'}`
  }

  async #compare(): Promise<string> {
    const [one, other] = this.#keys
    if (!one || !other?.equals(one)) throw new Error('two Gets of one key gave different keys')
    return 'both Gets gave the same key'
  }

  async #ask<Result>(request: (client: KmipClient) => Promise<Result>): Promise<Result> {
    if (!this.#client) throw new Error('there is no client')
    const deadline = Deadline.after(this.#timing.requestTimeoutMs)
    return deadline.race(request(this.#client), 'the request', () => {})
  }

  #deadline(): Deadline {
    return Deadline.after(this.#timing.connectTimeoutMs)
  }
}

function failed(hop: DoctorHop, error: unknown): { ok: false; detail: string; action: string } {
  const cause: unknown = error instanceof DistrustError ? error.reason : error
  const detail = cause instanceof Error ? cause.message : String(cause)
  return { ok: false, detail, action: isPairFault(cause) ? cause.action : actions[hop] }
}

function isPairFault(error: unknown): error is VmsealError {
  return isVmsealError(error, 'VMSEAL_CERTIFICATE_INVALID')
}
