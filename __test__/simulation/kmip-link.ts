/**
 * The way between vCenter and KMS: in the place of TLS sockets, connections of the simulated network under the product's
 * own KMIP client and server. Keys cross wrapped, so that each side has a handle of its own.
 */
import { createDecipheriv, randomBytes } from 'node:crypto'
import { VmsealError } from '../../src/errors.js'
import {
  native,
  type KeyHandle,
  type KmipConnectionOptions,
  type KmipExchange,
  type KmipListenerOptions,
  type KmipRequest,
} from '../../src/native/load.js'
import { networkOf, type Network } from './network.js'
import { actor } from './runtime.js'
import type { Party } from './scheduler.js'

const wrappingBytes = randomBytes(32)
const wrapping = native.KeyHandle.importUnsafe(Buffer.from(wrappingBytes))

/** What the KMS sent through the links of one run. */
export class KmipRecords {
  /** Bytes of every key that crossed: what must be found nowhere else. */
  readonly keys = new Map<string, Buffer>()
  handedOut = 0
  /** Called before an answer with keys leaves the KMS. */
  onKeys: () => void = () => {}

  copy(key: KeyHandle): KeyHandle {
    const wrapped = native.wrapKey(wrapping, key)
    const opening = createDecipheriv('id-aes256-wrap', wrappingBytes, Buffer.alloc(8, 0xa6))
    const bytes = Buffer.concat([opening.update(wrapped), opening.final()])
    this.keys.set(bytes.toString('hex'), bytes)
    return native.unwrapKey(wrapping, wrapped)
  }
}

const records = new WeakMap<Network, KmipRecords>()

export function kmipRecords(network: Network): KmipRecords {
  const known = records.get(network) ?? new KmipRecords()
  records.set(network, known)
  return known
}

interface Asked {
  readonly connection: Connection
  readonly answer: (exchange: KmipExchange | VmsealError) => void
}

class Listener {
  readonly party: Party
  readonly port: number
  readonly certificate: string
  readonly #network: Network
  readonly #onRequest: (request: KmipRequest) => void
  readonly #asked = new Map<number, Asked>()
  readonly connections = new Set<Connection>()
  #next = 0

  constructor(party: Party, options: KmipListenerOptions, onRequest: (request: KmipRequest) => void) {
    this.party = party
    this.port = options.port ?? 0
    this.certificate = options.certificate
    this.#network = networkOf(party.simulation)
    this.#onRequest = onRequest
    listeners.set(this.#network, this)
    party.atDeath.push(() => this.#end())
  }

  request(connection: Connection, message: Buffer, keys: KeyHandle[], answer: Asked['answer']): void {
    const id = (this.#next += 1)
    this.#asked.set(id, { connection, answer })
    const { clientKeyHash, number } = connection
    this.#onRequest({
      id,
      connectionId: number,
      clientKeyHash,
      remoteAddress: '127.0.0.1:1',
      commonName: 'vcenter',
      message,
      keys,
    })
  }

  reply(id: number, message: Uint8Array, keys: KeyHandle[]): void {
    const asked = this.#take(id)
    const crossing = kmipRecords(this.#network)
    if (keys.length > 0) {
      crossing.handedOut += keys.length
      crossing.onKeys()
    }
    asked?.answer({ message: Buffer.from(message), keys: keys.map((key) => crossing.copy(key)) })
  }

  refuse(id: number): void {
    const asked = this.#take(id)
    asked?.answer(new VmsealError('VMSEAL_KMIP_CONNECTION', 'the connection was closed (simulated)'))
  }

  setTrust(): void {}

  disconnect(): void {
    for (const connection of this.connections) connection.break()
  }

  async stop(): Promise<void> {
    this.#end()
  }

  #take(id: number): Asked | undefined {
    const asked = this.#asked.get(id)
    this.#asked.delete(id)
    return asked
  }

  #end(): void {
    if (listeners.get(this.#network) === this) listeners.delete(this.#network)
    for (const connection of this.connections) connection.break()
  }
}

const listeners = new WeakMap<Network, Listener>()
let connectionNumber = 0

class Connection {
  closed = false
  readonly number = (connectionNumber += 1)
  readonly #party: Party
  readonly #listener: Listener
  readonly #network: Network
  readonly #timeoutMs: number
  readonly #waiting = new Set<(error: VmsealError) => void>()

  constructor(
    party: Party,
    listener: Listener,
    readonly clientKeyHash: string,
    timeoutMs: number,
  ) {
    this.#party = party
    this.#listener = listener
    this.#network = networkOf(party.simulation)
    this.#timeoutMs = timeoutMs
    listener.connections.add(this)
    party.atDeath.push(() => this.close())
  }

  get serverCertificate(): string {
    return this.#listener.certificate
  }

  close(): void {
    this.closed = true
    this.#listener.connections.delete(this)
  }

  /** By the other side, or by the network. */
  break(): void {
    if (this.closed) return
    this.close()
    const error = new VmsealError('VMSEAL_KMIP_CONNECTION', 'the connection broke (simulated)')
    const { simulation } = this.#network
    for (const fail of this.#waiting)
      simulation.schedule(this.#network.latency(), 'KMIP broke', () => fail(error), this.#party)
  }

  request(message: Uint8Array, keys: readonly KeyHandle[]): Promise<KmipExchange> {
    const { simulation } = this.#network
    const network = this.#network
    const party = this.#party
    const listener = this.#listener
    const crossing = kmipRecords(network)
    const sent = Buffer.from(message)
    const sentKeys = keys.map((key) => crossing.copy(key))
    return new Promise((resolve, reject) => {
      if (this.closed) {
        reject(new VmsealError('VMSEAL_KMIP_CONNECTION', 'closed', { details: { notSent: true } }))
        return
      }
      const fail = (error: VmsealError): void => {
        this.#waiting.delete(fail)
        silence.cancelled = true
        this.close()
        reject(error)
      }
      this.#waiting.add(fail)
      const silence = simulation.schedule(
        this.#timeoutMs,
        'KMIP silence',
        () => fail(new VmsealError('VMSEAL_KMIP_TIMEOUT', 'no answer (simulated)')),
        party,
      )
      const isCut = (): boolean => network.isCut(party.name, listener.party.name)
      const answer = (exchange: KmipExchange | VmsealError): void => {
        if (isCut()) return
        if (simulation.random.chance(network.manners.lose)) return this.break()
        simulation.schedule(
          network.latency(),
          'KMIP answer',
          () => {
            if (!this.#waiting.has(fail)) return
            if (exchange instanceof VmsealError) return fail(exchange)
            this.#waiting.delete(fail)
            silence.cancelled = true
            resolve(exchange)
          },
          party,
        )
      }
      simulation.schedule(
        network.latency(),
        'KMIP request',
        () => {
          if (!isCut() && listeners.get(network) === listener) listener.request(this, sent, sentKeys, answer)
        },
        listener.party,
      )
    })
  }
}

const { KmipConnector, KmipListener } = native

Object.assign(native, {
  KmipConnector: {
    create: (options: KmipConnectionOptions): unknown => {
      const party = actor()
      if (!party) return KmipConnector.create(options)
      const { keyHash } = native.describeCertificate(options.certificate)
      return { connect: () => connect(party, options, keyHash) }
    },
  },
  KmipListener: {
    start: (
      options: KmipListenerOptions,
      onRequest: (request: KmipRequest) => void,
      onRejected?: () => void,
    ) => {
      const party = actor()
      return party
        ? new Listener(party, options, onRequest)
        : KmipListener.start(options, onRequest, onRejected)
    },
  },
})

function connect(party: Party, options: KmipConnectionOptions, keyHash: string): Promise<Connection> {
  const network = networkOf(party.simulation)
  const { simulation } = network
  return new Promise((resolve, reject) => {
    const fail = (code: 'VMSEAL_KMIP_CONNECTION' | 'VMSEAL_KMIP_TIMEOUT'): void =>
      reject(new VmsealError(code, 'the KMS cannot be reached (simulated)'))
    simulation.schedule(
      network.latency(),
      'KMIP connect',
      () => {
        const listener = listeners.get(network)
        if (!listener) return fail('VMSEAL_KMIP_CONNECTION')
        if (network.isCut(party.name, listener.party.name))
          return void simulation.schedule(
            options.connectTimeoutMs ?? 5000,
            'KMIP silence',
            () => fail('VMSEAL_KMIP_TIMEOUT'),
            party,
          )
        resolve(new Connection(party, listener, keyHash, options.requestTimeoutMs ?? 10_000))
      },
      party,
    )
  })
}
