/**
 * The network between vCenter and hosts: connections that are slow, break, are cut off, and deliver a request late or
 * twice. It stands in the place of `https.request` for parties of a simulation. Import this before anything of the product.
 */
import { EventEmitter } from 'node:events'
import { createRequire, syncBuiltinESMExports } from 'node:module'
import type * as Https from 'node:https'
import type * as Tls from 'node:tls'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { actor } from './runtime.js'
import type { Party, Simulation } from './scheduler.js'

const require = createRequire(import.meta.url)
const https = require('node:https') as typeof Https
const tls = require('node:tls') as typeof Tls

type Answer = (request: IncomingMessage, response: ServerResponse) => Promise<void>

interface Listening {
  readonly party: Party
  readonly answer: Answer
}

export interface NetworkManners {
  /** Part of the requests that arrive a second time, later. */
  readonly duplicate: number
  /** Part of the requests whose connection breaks before they arrive: they arrive late, perhaps after a later attempt. */
  readonly straggle: number
  /** Part of the answers that are lost with their connection. */
  readonly lose: number
  /** Part of the messages that take seconds. */
  readonly delay: number
}

export const goodManners: NetworkManners = { duplicate: 0, straggle: 0, lose: 0, delay: 0 }

export class Network {
  readonly simulation: Simulation
  manners: NetworkManners = goodManners
  /** Every body and line that was sent, for who looks for keys in it. */
  readonly heard: string[] = []
  /** Called when a request reaches its server, before it is answered. */
  onArrival: (from: Party, body: string) => void = () => {}
  readonly #listening = new Map<string, Listening>()
  readonly #cut = new Set<string>()

  constructor(simulation: Simulation) {
    this.simulation = simulation
  }

  listen(address: string, party: Party, answer: Answer): void {
    this.#listening.set(address, { party, answer })
    party.atDeath.push(() => {
      if (this.#listening.get(address)?.party === party) this.#listening.delete(address)
    })
  }

  at(address: string): Listening | undefined {
    return this.#listening.get(address)
  }

  cut(a: string, b: string): void {
    this.#cut.add(pair(a, b))
  }

  heal(a: string, b: string): void {
    this.#cut.delete(pair(a, b))
  }

  isCut(a: string, b: string): boolean {
    return this.#cut.has(pair(a, b))
  }

  latency(): number {
    const { random } = this.simulation
    return random.chance(this.manners.delay) ? random.between(500, 12_000) : random.between(0.1, 3)
  }
}

function pair(a: string, b: string): string {
  return a < b ? `${a} ${b}` : `${b} ${a}`
}

const networks = new WeakMap<Simulation, Network>()

export function networkOf(simulation: Simulation): Network {
  const known = networks.get(simulation) ?? new Network(simulation)
  networks.set(simulation, known)
  return known
}

interface RequestOptions {
  readonly host: string
  readonly port: number
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
}

/** The client's end of one request on a connection of its own. */
class ClientRequest extends EventEmitter {
  readonly #party: Party
  readonly #network: Network
  readonly #options: RequestOptions
  #over = false
  #server: ServerEnd | undefined

  constructor(party: Party, options: RequestOptions) {
    super()
    this.#party = party
    this.#network = networkOf(party.simulation)
    this.#options = options
  }

  end(body = ''): void {
    const network = this.#network
    const { random } = network.simulation
    const address = `${this.#options.host}:${this.#options.port}`
    this.#after(network.latency(), 'connect', () => {
      const listening = network.at(address)
      // A host that is down refuses; one that is cut off is silent.
      if (!listening) return this.#fail('ECONNREFUSED')
      if (network.isCut(this.#party.name, listening.party.name)) return
      this.emit('socket', { authorized: true })
      network.heard.push(body)
      if (random.chance(network.manners.straggle)) {
        this.#arrive(listening, body, random.between(50, 8000), false)
        this.#after(random.between(1, 50), 'reset', () => this.#fail('ECONNRESET'))
        return
      }
      this.#arrive(listening, body, network.latency(), true)
      if (random.chance(network.manners.duplicate))
        this.#arrive(listening, body, random.between(1, 8000), false)
    })
  }

  destroy(): this {
    if (this.#over) return this
    this.#over = true
    const server = this.#server
    if (server)
      this.#network.simulation.schedule(this.#network.latency(), 'hang up', () => server.lost(), server.party)
    return this
  }

  #arrive({ party, answer }: Listening, body: string, delayMs: number, heard: boolean): void {
    const network = this.#network
    const { method, path, headers } = this.#options
    network.simulation.schedule(
      delayMs,
      `arrives ${method} ${path}`,
      () => {
        if (network.isCut(this.#party.name, party.name)) return
        network.onArrival(this.#party, body)
        const response = new ServerEnd(network, this.#party, party, heard ? this : undefined)
        if (heard) this.#server = response
        const request = {
          method,
          url: path,
          headers,
          socket: {},
          [Symbol.asyncIterator]: () => chunksOf(body),
        }
        void answer(request as unknown as IncomingMessage, response as unknown as ServerResponse)
      },
      party,
    )
  }

  /** From the server, in the order in which it was sent. */
  receive(what: 'head' | 'data' | 'end' | 'reset', value: string | number): void {
    if (this.#over) return
    if (what === 'reset') return this.#fail('ECONNRESET')
    if (what === 'head') {
      this.#response = Object.assign(new EventEmitter(), { statusCode: value as number })
      this.emit('response', this.#response)
    } else if (what === 'data') this.#response?.emit('data', Buffer.from(value as string))
    else {
      this.#over = true
      this.#response?.emit('end')
    }
  }

  #response: (EventEmitter & { statusCode: number }) | undefined

  get party(): Party {
    return this.#party
  }

  #fail(code: string): void {
    if (this.#over) return
    this.#over = true
    const error = Object.assign(new Error(`${code}: simulated`), { code })
    if (this.#response) this.#response.emit('aborted')
    else this.emit('error', error)
  }

  #after(delayMs: number, label: string, work: () => void): void {
    this.#network.simulation.schedule(delayMs, label, work, this.#party)
  }
}

/** The server's end. Without a client nobody reads what it says. */
class ServerEnd extends EventEmitter {
  headersSent = false
  destroyed = false
  readonly writableNeedDrain = false
  readonly #network: Network
  readonly #from: Party
  readonly #client: ClientRequest | undefined
  #status = 0
  #lastArrival = 0
  #broken = false

  constructor(
    network: Network,
    from: Party,
    readonly party: Party,
    client: ClientRequest | undefined,
  ) {
    super()
    this.#network = network
    this.#from = from
    this.#client = client
    party.atDeath.push(() => this.#break())
    // A client that is gone, or never was, is noticed after a time.
    if (!client) network.simulation.schedule(1000, 'hang up', () => this.lost(), party)
  }

  setHeader(): void {}

  setTimeout(): void {}

  writeHead(status: number): void {
    this.#status = status
  }

  flushHeaders(): void {
    if (this.headersSent) return
    this.headersSent = true
    this.#send('head', this.#status)
  }

  write(text: string): boolean {
    this.flushHeaders()
    this.#send('data', text)
    return true
  }

  end(text: string): void {
    const { random } = this.#network.simulation
    if (random.chance(this.#network.manners.lose)) {
      this.#break()
      return this.lost()
    }
    this.write(text)
    this.#send('end', 0)
    this.destroyed = true
    this.emit('close')
  }

  destroy(): void {
    this.#break()
    this.lost()
  }

  /** The connection is no more. */
  lost(): void {
    if (this.destroyed) return
    this.destroyed = true
    this.emit('close')
  }

  #break(): void {
    this.#send('reset', 0)
  }

  #send(what: 'head' | 'data' | 'end' | 'reset', value: string | number): void {
    const network = this.#network
    const client = this.#client
    if (!client || this.#broken || this.destroyed) return
    if (what === 'data') network.heard.push(value as string)
    if (what === 'reset') this.#broken = true
    if (network.isCut(this.#from.name, this.party.name)) {
      this.#broken = true
      network.simulation.schedule(15_000, 'hang up', () => this.lost(), this.party)
      return
    }
    const { simulation } = network
    this.#lastArrival = Math.max(this.#lastArrival, simulation.now + network.latency())
    simulation.schedule(
      this.#lastArrival - simulation.now,
      `answer ${what}`,
      () => client.receive(what, value),
      client.party,
    )
  }
}

async function* chunksOf(body: string): AsyncGenerator<Buffer> {
  yield Buffer.from(body)
}

const { request } = https
Object.assign(https, {
  request: (...values: unknown[]): unknown => {
    const party = actor()
    return party
      ? new ClientRequest(party, values[0] as RequestOptions)
      : (request as (...all: unknown[]) => unknown)(...values)
  },
})
const { createSecureContext } = tls
Object.assign(tls, {
  // No TLS is spoken here; loading certificates would be most of the work of a run.
  createSecureContext: (options?: Tls.SecureContextOptions) => (actor() ? {} : createSecureContext(options)),
})
syncBuiltinESMExports()
