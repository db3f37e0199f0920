/**
 * A host on the network: a `Host`, the port that its vCenter reaches it at, and the one time when they get to know each
 * other. Until then it answers nothing but a join; afterwards nobody but that vCenter.
 */
import { EventEmitter } from 'node:events'
import path from 'node:path'
import { VmsealError } from '../errors.js'
import type { HostOptions } from '../host/host-options.js'
import { Host } from '../host/host.js'
import { native } from '../native/load.js'
import { HostServer, type CertificateKeeper } from '../rpc/host-server.js'
import { HttpsListener, type Admission, type TurnedAway } from '../rpc/https-listener.js'
import { JoinServer } from '../rpc/join-server.js'
import type { HostAddress } from '../rpc/wire.js'
import { DirectoryLock } from '../store/directory-lock.js'
import { Trust } from './trust.js'

export interface HostAgentOptions extends Omit<HostOptions, 'id'> {
  /** Holds the host's id, its private key and the certificates of its vCenter (mode 0700). Made when it is missing. */
  readonly directory: string
  /** Default: loopback, a port that the system chooses. */
  readonly listen?: HostAddress
  /** How long a join token is good for, in milliseconds; default one hour. */
  readonly joinTokenLifetimeMs?: number
}

export interface JoinTokenInfo {
  /** Give it to vCenter, with the address, over a way that nobody else reads. */
  readonly token: string
  readonly expiresAt: Date
}

export interface HostAgentEvents {
  /** A vCenter took the host in, and is the only one that it answers now. */
  joined: []
  /** vCenter gave the host another certificate, for another key. */
  certificateRenewed: [expires: Date]
  /** Somebody was not let in. */
  turnedAway: [who: TurnedAway]
}

const usualLifetimeMs = 60 * 60 * 1000

export class HostAgent extends EventEmitter<HostAgentEvents> {
  readonly host: Host
  readonly #trust: Trust
  readonly #listener: HttpsListener
  readonly #lock: DirectoryLock
  readonly #options: HostAgentOptions
  readonly #listen: HostAddress
  #join: JoinServer | undefined
  #stopped: Promise<void> | undefined

  /**
   * Starts the host and its port. VMSEAL_FILE_LOCKED while another agent has the directory, VMSEAL_ADDRESS_UNAVAILABLE,
   * VMSEAL_STORE_INVALID.
   */
  static async start(options: HostAgentOptions): Promise<HostAgent> {
    if (typeof options?.directory !== 'string' || options.directory === '')
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        'directory must be the path of the directory of this host',
      )
    const directory = path.resolve(options.directory)
    const trust = await Trust.open(directory)
    const lock = DirectoryLock.acquire(directory)
    let host: Host | undefined
    try {
      host = await Host.start({ ...options, id: trust.hostId })
      const listen = options.listen ?? { host: '127.0.0.1', port: 0 }
      const heard = new EventEmitter<{ turnedAway: [TurnedAway] }>()
      const listener = await HttpsListener.open(listen, (who) => heard.emit('turnedAway', who))
      const agent = new HostAgent({ ...options, directory }, listen, { host, trust, listener, lock })
      heard.on('turnedAway', (who) => agent.emit('turnedAway', who))
      await agent.#serve()
      return agent
    } catch (error) {
      await host?.stop()
      lock.release()
      throw error
    }
  }

  /** Forgets the vCenter of a host that is not running: at its next start it waits to join one again. */
  static async leave(directory: string): Promise<void> {
    const trust = await Trust.open(path.resolve(directory))
    const lock = DirectoryLock.acquire(path.resolve(directory))
    try {
      await trust.leave()
    } finally {
      lock.release()
    }
  }

  private constructor(
    options: HostAgentOptions,
    listen: HostAddress,
    parts: { host: Host; trust: Trust; listener: HttpsListener; lock: DirectoryLock },
  ) {
    super()
    this.#options = options
    this.#listen = listen
    this.host = parts.host
    this.#trust = parts.trust
    this.#listener = parts.listener
    this.#lock = parts.lock
  }

  get address(): HostAddress {
    return { host: this.#listen.host, port: this.#listener.port }
  }

  /** Whether it belongs to a vCenter. */
  get joined(): boolean {
    return this.#trust.membership !== undefined
  }

  /** When the certificate that the host shows its vCenter ends; undefined until it joined. */
  get certificateExpires(): Date | undefined {
    const { membership } = this.#trust
    return membership && new Date(native.describeCertificate(membership.certificate).notAfter * 1000)
  }

  /** Undefined once the host belongs to a vCenter. */
  get joinToken(): JoinTokenInfo | undefined {
    return this.#join && { token: this.#join.token, expiresAt: this.#join.expiresAt }
  }

  /** Another token in place of one that expired or was spent in vain. VMSEAL_INVALID_STATE once the host has joined. */
  async renewJoinToken(): Promise<JoinTokenInfo> {
    if (this.#trust.membership)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        'the host belongs to a vCenter. Remove it there, stop it, and let it leave first',
      )
    return this.#waitForJoin()
  }

  /** Stops answering, ends the host and wipes its keys. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop()
    return this.#stopped
  }

  async #stop(): Promise<void> {
    try {
      await this.#listener.close()
      await this.host.stop()
    } finally {
      this.#lock.release()
    }
  }

  async #serve(): Promise<void> {
    const { membership } = this.#trust
    if (!membership) {
      await this.#waitForJoin()
      return
    }
    const server = new HostServer({
      host: this.host,
      hostId: this.#trust.hostId,
      certificate: this.#certificateKeeper(() => this.#listener.renew(this.#admission(), server.answer)),
    })
    this.#join = undefined
    this.#listener.serve(this.#admission(), server.answer)
  }

  /** Its one vCenter, with the certificate that the host has now. */
  #admission(): Admission {
    const { membership } = this.#trust
    if (!membership) throw new VmsealError('VMSEAL_INTERNAL', 'a host without a vCenter lets nobody in')
    const { keyFile, caCertificate, certificate, vcenterKeyHash } = membership
    const privateKeyFile = this.#trust.keyPath(keyFile)
    return { caCertificate, certificate, privateKeyFile, clientKeyHash: vcenterKeyHash }
  }

  /** One step at a time: a request makes the key of an earlier one void. */
  #certificateKeeper(show: () => void): CertificateKeeper {
    let pending: string | undefined
    let last: Promise<unknown> = Promise.resolve()
    const inTurn = <Result>(step: () => Promise<Result>): Promise<Result> => {
      const next = last.then(step)
      last = next.catch(() => {})
      return next
    }
    return {
      request: () =>
        inTurn(async () => {
          const { keyFile, request } = await this.#trust.newRequest()
          pending = keyFile
          return request
        }),
      install: (certificate) =>
        inTurn(async () => {
          // It comes again when its answer was lost.
          if (this.#trust.membership?.certificate === certificate) return
          if (pending === undefined)
            throw new VmsealError('VMSEAL_CERTIFICATE_INVALID', 'the host asked for no certificate')
          await this.#trust.renew(certificate, pending)
          pending = undefined
          show()
          this.emit('certificateRenewed', this.certificateExpires ?? new Date(0))
        }),
    }
  }

  async #waitForJoin(): Promise<JoinTokenInfo> {
    const { keyFile, request } = await this.#trust.newRequest()
    const { keyHash, ...identity } = await this.#trust.newJoinIdentity()
    const join = new JoinServer({
      offer: { hostId: this.#trust.hostId, name: this.#options.name, request },
      keyHash,
      lifetimeMs: this.#options.joinTokenLifetimeMs ?? usualLifetimeMs,
      accept: (grant) => this.#trust.join(grant, keyFile),
      joined: () => {
        if (this.#join !== join) return
        void this.#serve().then(() => this.emit('joined'))
      },
    })
    this.#listener.serve(identity, join.answer)
    this.#join = join
    return { token: join.token, expiresAt: join.expiresAt }
  }
}
