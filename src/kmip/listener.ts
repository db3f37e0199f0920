/** A KMIP server on a socket: the native channel under a `KmipServer`. */
import { native } from '../native/load.js'
import type { KeyHandle, KmipListener, KmipListenerOptions, KmipRequest } from '../native/load.js'
import type { KmipCaller, KmipServer } from './server.js'

/** A connection that ended before its client was known. */
export interface RejectedConnection {
  /** Address and port of the peer. */
  readonly remoteAddress: string
  readonly reason: string
}

/** Serves until `stop`. */
export class KmipListening {
  readonly #listener: KmipListener
  readonly #atWork = new Set<Promise<void>>()

  /**
   * `onRejected` is told of connections that were not let in. Throws VMSEAL_IO, VMSEAL_CERTIFICATE_INVALID or
   * VMSEAL_INVALID_ARGUMENT.
   */
  static start(
    server: KmipServer,
    options: KmipListenerOptions,
    onRejected?: (rejection: RejectedConnection) => void,
  ): KmipListening {
    return new KmipListening(server, options, onRejected)
  }

  private constructor(
    server: KmipServer,
    options: KmipListenerOptions,
    onRejected: ((rejection: RejectedConnection) => void) | undefined,
  ) {
    const onRequest = (request: KmipRequest) => {
      const work = this.#answer(server, request).finally(() => this.#atWork.delete(work))
      this.#atWork.add(work)
    }
    this.#listener = native.KmipListener.start(options, onRequest, onRejected)
  }

  get port(): number {
    return this.#listener.port
  }

  /** Replaces the trusted clients; connections of those no longer trusted are closed. */
  setTrust(clientAuthorities: string, pinnedClients: readonly string[]): void {
    this.#listener.setTrust(clientAuthorities, [...pinnedClients])
  }

  /** Closes the open connections of one client. */
  disconnect(clientKeyHash: string): void {
    this.#listener.disconnect(clientKeyHash)
  }

  /** Closes every connection; resolves when no operation is under way any more. */
  async stop(): Promise<void> {
    await this.#listener.stop()
    await Promise.all(this.#atWork)
  }

  async #answer(server: KmipServer, { id, message, keys, ...caller }: KmipRequest): Promise<void> {
    let sent: readonly KeyHandle[] = []
    try {
      const reply = await server.process(message, keys, caller satisfies KmipCaller)
      sent = reply.keys
      this.#listener.reply(id, reply.message, reply.keys)
    } catch {
      // What cannot be answered ends with its connection.
      this.#listener.refuse(id)
    } finally {
      for (const key of sent) key.dispose()
    }
  }
}
