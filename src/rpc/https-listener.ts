/**
 * A TCP port that serves HTTPS, and the limits that strangers meet: a handshake has its time, so has a request's head,
 * and who only opens connections displaces others who do the same.
 */
import { once } from 'node:events'
import { createServer as createHttpsServer, type Server as HttpsServer } from 'node:https'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { VmsealError } from '../errors.js'
import { peerKeyHash, withTlsOptions, type LinkCredentials } from './tls-identity.js'
import type { HostAddress } from './wire.js'

export interface ListenerLimits {
  /** Connections that have not finished their handshake; one more displaces the oldest. */
  readonly pending: number
  /** Connections of the one that is let in. */
  readonly connections: number
  readonly handshakeMs: number
  /** For a request from its first to its last byte. */
  readonly requestMs: number
  /** An open connection without a request. */
  readonly idleMs: number
}

/** Who may come in. */
export type Admission =
  /** Anybody: the handler sees for itself whom it answers. */
  | { readonly certificate: string; readonly privateKeyFile: string }
  /** The client with this public key alone, under this CA. */
  | (LinkCredentials & { readonly clientKeyHash: string })

/** Answers one request; never rejects. */
export type Answer = (request: IncomingMessage, response: ServerResponse) => Promise<void>

export interface TurnedAway {
  readonly remoteAddress: string
  readonly reason: string
}

const usualLimits: ListenerLimits = {
  pending: 64,
  connections: 256,
  handshakeMs: 5000,
  requestMs: 20_000,
  idleMs: 60_000,
}

export class HttpsListener {
  readonly #server: Server
  readonly #limits: ListenerLimits
  readonly #onTurnedAway: (refused: TurnedAway) => void
  readonly #pending = new Map<string, Socket>()
  readonly #admitted = new Set<TLSSocket>()
  #current: HttpsServer | undefined

  /** VMSEAL_ADDRESS_UNAVAILABLE if the port cannot be had. Serves nobody before `serve`. */
  static async open(
    { host, port }: HostAddress,
    onTurnedAway: (refused: TurnedAway) => void,
    limits: Partial<ListenerLimits> = {},
  ): Promise<HttpsListener> {
    const server = createServer({ allowHalfOpen: true, noDelay: true })
    server.listen(port, host)
    try {
      await once(server, 'listening')
    } catch (cause) {
      throw new VmsealError(
        'VMSEAL_ADDRESS_UNAVAILABLE',
        `cannot listen at ${host}:${port}: ${String(cause)}`,
        {
          cause,
          details: { subject: `${host}:${port}` },
        },
      )
    }
    return new HttpsListener(server, { ...usualLimits, ...limits }, onTurnedAway)
  }

  private constructor(server: Server, limits: ListenerLimits, onTurnedAway: (refused: TurnedAway) => void) {
    this.#server = server
    this.#limits = limits
    this.#onTurnedAway = onTurnedAway
    server.on('connection', (socket) => this.#connect(socket))
    // Out of file descriptors, for instance: who came is not served, who comes later may be.
    server.on('error', ({ message }) => onTurnedAway({ remoteAddress: 'unknown', reason: message }))
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  /** From now on these are let in and answered so; connections that are open are closed. */
  serve(admission: Admission, answer: Answer): void {
    this.#current = this.#prepare(admission, answer)
    this.#closeConnections()
  }

  /** Who comes from now on is shown another certificate, and let in so; connections that are open go on. */
  renew(admission: Admission, answer: Answer): void {
    this.#current = this.#prepare(admission, answer)
  }

  #prepare(admission: Admission, answer: Answer): HttpsServer {
    const { handshakeMs, requestMs, idleMs } = this.#limits
    const next = withTlsOptions(admission, (options) => {
      const client = 'clientKeyHash' in admission ? { requestCert: true, rejectUnauthorized: true } : {}
      const http = { maxHeaderSize: 8192, requestTimeout: requestMs, keepAliveTimeout: idleMs }
      return createHttpsServer(
        { ...options, ...client, ...http, handshakeTimeout: handshakeMs, connectionsCheckingInterval: 1000 },
        (request, response) => void answer(request, response),
      )
    })
    next.headersTimeout = requestMs
    const pin = 'clientKeyHash' in admission ? admission.clientKeyHash : undefined
    next.on('secureConnection', (socket) => this.#admit(socket, pin))
    next.on('tlsClientError', (error, socket) => {
      this.#turnAway(socket, error.message)
      socket.destroy()
    })
    // A request that breaks HTTP ends its connection and nothing else.
    next.on('clientError', (_, socket) => socket.destroy())
    return next
  }

  async close(): Promise<void> {
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.#closeConnections()
    await closed
  }

  #connect(socket: Socket): void {
    const name = nameOf(socket)
    const oldest = this.#pending.entries().next().value
    if (this.#pending.size >= this.#limits.pending && oldest) {
      this.#onTurnedAway({ remoteAddress: oldest[0], reason: 'too many unfinished handshakes' })
      this.#pending.delete(oldest[0])
      oldest[1].destroy()
    }
    socket.on('error', () => socket.destroy())
    socket.once('close', () => this.#pending.delete(name))
    if (!this.#current) return void socket.destroy()
    this.#pending.set(name, socket)
    this.#current.emit('connection', socket)
  }

  #admit(socket: TLSSocket, pin: string | undefined): void {
    this.#pending.delete(nameOf(socket))
    if (pin !== undefined && peerKeyHash(socket) !== pin) {
      this.#turnAway(
        socket,
        'a certificate of the right CA, but not of the vCenter that this host belongs to',
      )
      return void socket.destroy()
    }
    if (this.#admitted.size >= this.#limits.connections) {
      this.#turnAway(socket, 'too many connections')
      return void socket.destroy()
    }
    this.#admitted.add(socket)
    socket.once('close', () => this.#admitted.delete(socket))
  }

  #turnAway(socket: Socket, reason: string): void {
    this.#onTurnedAway({ remoteAddress: nameOf(socket), reason })
  }

  #closeConnections(): void {
    for (const socket of [...this.#pending.values(), ...this.#admitted]) socket.destroy()
  }
}

function nameOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress}:${remotePort}`
}
