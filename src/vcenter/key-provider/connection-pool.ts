/** Kept connections to one server. Each is lent to one call at a time, so a call that fails harms no other. */
import { VmsealError } from '../../errors.js'
import type { KmipClient } from '../../kmip/client.js'
import type { Deadline } from './deadline.js'

const mostConnections = 4

export interface Lease {
  readonly client: KmipClient
  /** It served a call before. */
  readonly reused: boolean
  /** Gives the connection back. */
  release(): void
  /** Closes the connection: what is on its way over it is unknown. */
  drop(): void
}

interface Waiter {
  /** Without a client: there is room for a new connection. */
  readonly proceed: (client?: KmipClient) => void
  readonly fail: (error: unknown) => void
}

export class ConnectionPool {
  readonly #connect: (deadline: Deadline) => Promise<KmipClient>
  readonly #idle: KmipClient[] = []
  readonly #waiting: Waiter[] = []
  /** Idle, lent, and being made. */
  #count = 0
  #closed = false

  constructor(connect: (deadline: Deadline) => Promise<KmipClient>) {
    this.#connect = connect
  }

  /** A connection for one call. A failure to connect is told to everybody who waits: it would be theirs too. */
  async lease(deadline: Deadline): Promise<Lease> {
    for (;;) {
      this.#requireOpen()
      const idle = this.#takeIdle()
      if (idle) return this.#lend(idle, true)
      if (this.#count < mostConnections) return this.#lend(await this.#make(deadline), false)
      const given = await this.#wait(deadline)
      if (given) return this.#lend(given, true)
    }
  }

  /** Closes connections that nobody uses. */
  forgetIdle(): void {
    for (const client of this.#idle.splice(0)) this.#discard(client)
  }

  close(): void {
    this.#closed = true
    this.forgetIdle()
    for (const waiter of this.#waiting.splice(0)) waiter.fail(closedError())
  }

  #lend(client: KmipClient, reused: boolean): Lease {
    let lent = true
    const once = (action: () => void) => () => {
      if (!lent) return
      lent = false
      action()
    }
    return {
      client,
      reused,
      release: once(() => this.#giveBack(client)),
      drop: once(() => this.#discard(client)),
    }
  }

  #giveBack(client: KmipClient): void {
    if (this.#closed || client.closed) return this.#discard(client)
    const waiter = this.#waiting.shift()
    if (waiter) waiter.proceed(client)
    else this.#idle.push(client)
  }

  #discard(client: KmipClient): void {
    client.close()
    this.#count -= 1
    this.#waiting.shift()?.proceed()
  }

  #takeIdle(): KmipClient | undefined {
    for (;;) {
      const client = this.#idle.pop()
      if (!client || !client.closed) return client
      this.#discard(client)
    }
  }

  async #make(deadline: Deadline): Promise<KmipClient> {
    this.#count += 1
    try {
      const client = await this.#connect(deadline)
      if (!this.#closed) return client
      client.close()
      throw closedError()
    } catch (error) {
      this.#count -= 1
      for (const waiter of this.#waiting.splice(0)) waiter.fail(error)
      throw error
    }
  }

  #wait(deadline: Deadline): Promise<KmipClient | undefined> {
    let waiter: Waiter | undefined
    const turn = new Promise<KmipClient | undefined>((resolve, reject) => {
      waiter = { proceed: resolve, fail: reject }
      this.#waiting.push(waiter)
    })
    const lost = (client: KmipClient | undefined): void => {
      if (client) this.#giveBack(client)
      else this.#waiting.shift()?.proceed()
    }
    return deadline.race(turn, 'waiting for a connection', lost).finally(() => {
      const place = waiter ? this.#waiting.indexOf(waiter) : -1
      if (place >= 0) this.#waiting.splice(place, 1)
    })
  }

  #requireOpen(): void {
    if (this.#closed) throw closedError()
  }
}

function closedError(): VmsealError {
  return new VmsealError('VMSEAL_INVALID_STATE', 'the key provider is closed')
}
