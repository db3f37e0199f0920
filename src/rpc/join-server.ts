/** The host's side of joining: it says who it is, and takes certificates from whoever proves the token's secret. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { TLSSocket } from 'node:tls'
import { VmsealError } from '../errors.js'
import { toErrorMessage } from './error-message.js'
import { isSameProof, makeJoinSecret, proveJoin, writeJoinToken, type JoinGrant } from './join-token.js'
import { malformed, parseMessage, readBody } from './message-text.js'
import { matching, object, text } from './shapes.js'
import { joinPath, rpcVersions } from './wire.js'

/** What a host tells about itself before anybody trusts it. */
export interface JoinOffer {
  readonly versions: readonly number[]
  readonly hostId: string
  readonly name: string
  /** Certificate signing request, PEM. */
  readonly request: string
}

export interface JoinServerOptions {
  readonly offer: Omit<JoinOffer, 'versions'>
  /** Hex SHA-256 of the public key that the joining port shows. */
  readonly keyHash: string
  readonly lifetimeMs: number
  /** Checks the grant and makes it durable; the token is spent whether or not it rejects. */
  readonly accept: (grant: JoinGrant) => Promise<void>
  /** The answer has left, or was lost. */
  readonly joined: () => void
  readonly now?: () => number
}

const longestBody = 64 * 1024

export class JoinServer {
  readonly token: string
  readonly expiresAt: Date
  readonly #options: JoinServerOptions
  readonly #now: () => number
  readonly #deadline: number
  /** Absent once it is spent. */
  #secret: Buffer | undefined = makeJoinSecret()

  constructor(options: JoinServerOptions) {
    this.#options = options
    // A clock that is set back must not lengthen the token's life.
    this.#now = options.now ?? (() => performance.now())
    this.#deadline = this.#now() + options.lifetimeMs
    this.expiresAt = new Date(Date.now() + options.lifetimeMs)
    this.token = writeJoinToken({ keyHash: options.keyHash, secret: this.#secret as Buffer })
  }

  readonly answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    try {
      if (request.url !== joinPath) throw this.#notJoined()
      if (request.method === 'GET')
        return send(response, 200, { ...this.#options.offer, versions: rpcVersions } satisfies JoinOffer)
      if (request.method !== 'POST') throw malformed(`${request.method} is not answered here`)
      await this.#join(await readGrant(request), request.socket as TLSSocket)
      response.once('close', this.#options.joined)
      send(response, 200, { joined: true })
    } catch (error) {
      if (response.destroyed) return
      response.setHeader('connection', 'close')
      send(response, 400, { error: toErrorMessage(error) })
    }
  }

  async #join({ proof, ...grant }: JoinGrant & { proof: string }, socket: TLSSocket): Promise<void> {
    if (this.#secret === undefined) throw refused('was used')
    if (this.#now() >= this.#deadline) throw refused('has expired')
    if (!isSameProof(proveJoin(this.#secret, grant, socket), proof))
      throw refused('is another one than the host showed')
    // Spent before anything is done with it: nobody gets a second try.
    this.#secret.fill(0)
    this.#secret = undefined
    await this.#options.accept(grant)
  }

  #notJoined(): VmsealError {
    return new VmsealError('VMSEAL_JOIN_REFUSED', 'this host waits to join a vCenter and does nothing else')
  }
}

const isGrant = object({
  caCertificate: text(16 * 1024),
  certificate: text(16 * 1024),
  vcenterKeyHash: matching(/^[0-9a-f]{64}$/),
  proof: matching(/^[A-Za-z0-9+/]{43}=$/),
})

async function readGrant(request: IncomingMessage): Promise<JoinGrant & { proof: string }> {
  const message = parseMessage((await readBody(request, longestBody)).toString('utf8'))
  if (!isGrant(message)) throw malformed('it is no grant')
  const { caCertificate, certificate, vcenterKeyHash, proof } = message as JoinGrant & { proof: string }
  return { caCertificate, certificate, vcenterKeyHash, proof }
}

function refused(why: string): VmsealError {
  return new VmsealError('VMSEAL_JOIN_REFUSED', `the join token ${why}`)
}

function send(response: ServerResponse, status: number, message: object): void {
  const body = `${JSON.stringify(message)}\n`
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
  })
  response.end(body)
}
