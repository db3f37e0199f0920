/** The hops on the way to a key, one after the other, with a test key that is made for it and destroyed again. */
import { randomUUID } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { connect } from 'node:net'
import { isVmsealError } from '../../errors.js'
import { nameValue } from '../../kmip/attributes.js'
import type { KmipClient } from '../../kmip/client.js'
import type { KeyHandle, KmipConnection } from '../../native/load.js'
import type { KmsServerAddress } from '../../store/store.js'
import { Deadline } from './deadline.js'
import { Dialer, DistrustError, type ServerIdentity } from './dialer.js'
import { keyNamePrefix } from './key-creations.js'
import type { KeyProviderTiming } from './timing.js'

export const hops = ['dns', 'tcp', 'tls', 'client trust', 'versions', 'create', 'get', 'compare', 'destroy'] as const // prettier-ignore
export type DoctorHop = (typeof hops)[number]

/** One walk; each step builds on the one before. */
export class Walk {
  readonly #server: KmsServerAddress
  readonly #timing: KeyProviderTiming
  readonly #dialer: Dialer
  #connection: KmipConnection | undefined
  #client: KmipClient | undefined
  /** The test key may be at the server. */
  #isMade = false
  #keyId = ''
  readonly #name = `${keyNamePrefix}doctor-${randomUUID()}`
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
      case 'tls':
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
        return this.#create()
      case 'get':
        return this.#fetchTwice()
      case 'compare':
        return this.#compare()
      case 'destroy':
        return this.#destroyIt()
    }
  }

  /** Leaves nothing behind, as far as the server lets it; returns the Name of a key that it may have left. */
  async end(): Promise<string | undefined> {
    for (const key of this.#keys) key.dispose()
    if (this.#isMade) await this.#destroyTestKey().catch(tolerateFailure)
    this.#client?.close()
    this.#connection?.close()
    return this.#isMade ? this.#name : undefined
  }

  /** On a new connection if the old one was lost; a key of which no answer told the id is found by its Name. */
  async #destroyTestKey(): Promise<void> {
    if (this.#client?.closed !== false) {
      this.#connection = await this.#dialer.dial(this.#deadline())
      this.#client = await this.#dialer.greet(this.#connection, this.#deadline())
    }
    const ids =
      this.#keyId === '' ? await this.#ask((client) => client.locate({ name: this.#name })) : [this.#keyId]
    for (const id of ids) await this.#destroy(id).catch(tolerateGone)
    // One of which nothing is known may still be made.
    if (ids.length > 0) this.#isMade = false
  }

  async #resolve(): Promise<string> {
    const { proxy } = this.#server
    const looking = lookup((proxy ?? this.#server).host, { all: true })
    const found = await this.#deadline().race(looking, 'looking up the name', () => {})
    const addresses = found.map(({ address }) => address).join(', ')
    return proxy ? `the proxy is ${addresses}` : addresses
  }

  #reach(): Promise<string> {
    const { host, port, proxy } = this.#server
    const first = proxy ?? { host, port }
    const socket = connect({ host: first.host, port: first.port })
    const connected = new Promise<string>((resolve, reject) => {
      const what = proxy ? 'port of the proxy' : 'port'
      socket.once('connect', () => resolve(`${what} ${first.port} is open at ${socket.remoteAddress}`))
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

  async #create(): Promise<string> {
    const attributes = [{ name: 'Name', value: nameValue(this.#name) }]
    this.#isMade = true
    try {
      const made = await this.#ask((client) => client.create({ algorithm: 'AES', length: 256, attributes }))
      this.#keyId = made.id
      return `key ${made.id}`
    } catch (error) {
      if (isVmsealError(error, 'VMSEAL_KMIP_OPERATION_FAILED')) this.#isMade = false
      throw error
    }
  }

  async #destroyIt(): Promise<string> {
    await this.#destroy(this.#keyId)
    this.#isMade = false
    return `key ${this.#keyId} is destroyed`
  }

  /** Some servers activate every key that they make, and none destroys an active one. */
  async #destroy(keyId: string): Promise<void> {
    try {
      await this.#ask((client) => client.destroy(keyId))
    } catch (error) {
      if (!isVmsealError(error, 'VMSEAL_KMIP_OPERATION_FAILED')) throw error
      await this.#ask((client) => client.revoke(keyId, 'CessationOfOperation')).catch(tolerateFailure)
      await this.#ask((client) => client.destroy(keyId))
    }
  }

  async #fetchTwice(): Promise<string> {
    for (let times = 0; times < 2; times += 1)
      this.#keys.push(
        await this.#ask(
          async (client) => (await client.get(this.#keyId)).key,
          (key) => key.dispose(),
        ),
      )
    return `${this.#keys[0]?.length} bytes, twice`
  }

  async #compare(): Promise<string> {
    const [one, other] = this.#keys
    if (!one || !other?.equals(one)) throw new Error('two Gets of one key gave different keys')
    return 'both Gets gave the same key'
  }

  /** After a failure other than a refusal the connection is of no use: an answer may still be on its way. */
  async #ask<Result>(
    request: (client: KmipClient) => Promise<Result>,
    late: (result: Result) => void = () => {},
  ): Promise<Result> {
    const client = this.#client
    if (!client) throw new Error('there is no client')
    try {
      return await Deadline.after(this.#timing.requestTimeoutMs).race(request(client), 'the request', late)
    } catch (error) {
      if (!isVmsealError(error, 'VMSEAL_KMIP_OPERATION_FAILED')) client.close()
      throw error
    }
  }

  #deadline(): Deadline {
    return Deadline.after(this.#timing.connectTimeoutMs)
  }
}

function tolerateFailure(error: unknown): void {
  if (!isVmsealError(error) && !(error instanceof DistrustError)) throw error
}

/** The answer to a Destroy that did happen may have been lost. */
function tolerateGone(error: unknown): void {
  if (!isVmsealError(error) || !goneReasons.has(error.details.resultReason ?? '')) throw error
}

const goneReasons = new Set(['ItemNotFound', 'ObjectDestroyed'])
