/**
 * The owner of a process that serves a directory orders it about, over a socket in that directory. Node does not tell the
 * user at the other end, so the file system does: the socket is made with mode 0600 in a directory that nobody else may enter.
 */
import { rmSync, statSync } from 'node:fs'
import { createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { join, resolve } from 'node:path'
import { VmsealError } from '../../errors.js'
import { linesOf, settled, shortPath, socketFile } from './lines.js'
import { asksToCancel, errorReply, lineOf, longestOrder, readOrder, type Order } from './protocol.js'

/** For the order itself, and for taking the answer; what it does may take as long as it needs. */
const orderTimeoutMs = 10_000
const mostConnections = 256

/** The one who gave an order, as the work sees him. */
export interface Caller {
  /** He asks the work to stop and undo. */
  readonly cancelled: AbortSignal
  /** He hung up, or the socket closes: nobody listens any more. */
  readonly gone: AbortSignal
  /** An event on the way; resolves when he takes more. */
  tell(event: object): Promise<void>
  /** The same for what may be left out when he does not keep up. */
  mention(event: object): void
}

/** Does an order; the result is JSON. */
export type Act = (order: Order, caller: Caller) => unknown

/** Takes orders until it is closed. */
export class ControlSocket {
  readonly #server: Server
  readonly #file: string
  readonly #act: Act
  /** Those that gave no order yet. */
  readonly #idle = new Set<Socket>()
  readonly #closing = new AbortController()

  /** Whoever calls has the directory to himself, so a socket that is there is nobody's. VMSEAL_PERMISSION_DENIED. */
  static async open(directory: string, act: Act): Promise<ControlSocket> {
    const home = resolve(directory)
    if ((statSync(home).mode & 0o077) !== 0)
      throw new VmsealError('VMSEAL_PERMISSION_DENIED', `${home} is open to others: chmod 700 it`, {
        details: { subject: home },
      })
    const file = join(home, socketFile)
    rmSync(file, { force: true })
    const socket = new ControlSocket(file, act)
    await socket.#listen(home)
    return socket
  }

  private constructor(file: string, act: Act) {
    this.#file = file
    this.#act = act
    this.#server = createServer((socket) => void this.#serve(socket))
    this.#server.maxConnections = mostConnections
  }

  /** Orders under way are ended first, those that follow something now; who gave none yet is hung up on. */
  async close(): Promise<void> {
    const closed = new Promise((done) => {
      this.#server.close(done)
    })
    this.#closing.abort()
    for (const socket of this.#idle) socket.destroy()
    await closed
    rmSync(this.#file, { force: true })
  }

  async #listen(home: string): Promise<void> {
    const { path, close } = shortPath(home)
    // The server unlinks its path when it closes: until then the handle must be of no other directory.
    this.#server.once('close', close)
    // The file is made in this call, before anything else runs.
    const mask = process.umask(0o177)
    try {
      this.#server.listen(path)
    } finally {
      process.umask(mask)
    }
    await settled(this.#server, 'listening').catch((error: unknown) => {
      close()
      throw error
    })
  }

  async #serve(socket: Socket): Promise<void> {
    socket.on('error', () => socket.destroy())
    socket.setTimeout(orderTimeoutMs, () => socket.destroy())
    this.#idle.add(socket)
    socket.once('close', () => this.#idle.delete(socket))
    const incoming = linesOf(socket, longestOrder)
    const reply = await this.#answer(socket, incoming)
    // Hangs up also on somebody who does not, or who does not read.
    socket.setTimeout(orderTimeoutMs)
    socket.end(lineOf(reply), () => socket.destroy())
  }

  async #answer(socket: Socket, incoming: AsyncGenerator<string>) {
    try {
      const order = readOrder((await incoming.next()).value as string | undefined)
      if (!order) throw unknownOrder()
      socket.setTimeout(0)
      this.#idle.delete(socket)
      return { result: await this.#act(order, this.#caller(socket, incoming)) }
    } catch (error) {
      return errorReply(error)
    }
  }

  #caller(socket: Socket, incoming: AsyncGenerator<string>): Caller {
    const cancel = new AbortController()
    const gone = new AbortController()
    if (socket.destroyed) gone.abort()
    socket.once('close', () => gone.abort())
    void listenForCancel(incoming, cancel)
    return {
      cancelled: cancel.signal,
      gone: AbortSignal.any([gone.signal, this.#closing.signal]),
      tell: (event) => tell(socket, event),
      mention: (event) => {
        if (!socket.writableNeedDrain && !socket.destroyed) void tell(socket, event)
      },
    }
  }
}

export function unknownOrder(): VmsealError {
  return new VmsealError(
    'VMSEAL_INVALID_ARGUMENT',
    'the process that serves this directory does not know this order: it may be of another version',
  )
}

async function listenForCancel(incoming: AsyncGenerator<string>, cancel: AbortController): Promise<void> {
  for await (const line of incoming) if (asksToCancel(line)) cancel.abort()
}

/** Resolves as well when the connection is gone: the one who asked is, then. */
function tell(socket: Socket, event: object): Promise<void> {
  if (socket.destroyed || socket.write(lineOf({ event }))) return Promise.resolve()
  return new Promise((done) => {
    const settle = (): void => {
      socket.removeListener('drain', settle)
      socket.removeListener('close', settle)
      done()
    }
    socket.once('drain', settle)
    socket.once('close', settle)
  })
}
