/** Gives an order to the process that serves a directory. */
import { statSync } from 'node:fs'
import { createConnection } from 'node:net'
import type { Socket } from 'node:net'
import { join, resolve } from 'node:path'
import { VmsealError, type ErrorCode } from '../../errors.js'
import { linesOf, settled, shortPath, socketFile } from './lines.js'
import { errorOf, longestReply, type Order, type Reply } from './protocol.js'

export interface OrderOptions {
  readonly onEvent?: (event: object) => void
  /** Asks the work to stop and undo; the order then ends as the work does. */
  readonly cancel?: AbortSignal
}

/** What serves directories of this kind, for the error when nothing does. */
export interface Served {
  readonly code: ErrorCode
  readonly what: string
}

/** Rejects with `served.code` if nothing serves `directory`, VMSEAL_PERMISSION_DENIED, or as it refuses. */
export async function order(
  served: Served,
  directory: string,
  request: Order,
  options: OrderOptions = {},
): Promise<unknown> {
  const home = resolve(directory)
  const socket = await connect(served, home)
  const cancel = (): void => void socket.write('{"cancel":true}\n')
  try {
    socket.write(`${JSON.stringify(request)}\n`)
    options.cancel?.addEventListener('abort', cancel, { once: true })
    if (options.cancel?.aborted === true) cancel()
    for await (const line of linesOf(socket, longestReply)) {
      const reply = JSON.parse(line) as Reply
      if ('result' in reply) return reply.result
      if ('error' in reply) throw errorOf(reply.error)
      options.onEvent?.(reply.event)
    }
    throw notServed(served, home, `the ${served.what} of ${home} ended before it answered`)
  } finally {
    options.cancel?.removeEventListener('abort', cancel)
    socket.destroy()
  }
}

async function connect(served: Served, directory: string): Promise<Socket> {
  try {
    const { uid } = statSync(join(directory, socketFile))
    const self = process.geteuid?.() ?? uid
    // Whoever made the socket hears every order.
    if (uid !== self && self !== 0) throw notOurs(directory)
    const { path, close } = shortPath(directory)
    try {
      const socket = createConnection(path)
      await settled(socket, 'connect')
      socket.on('error', () => socket.destroy())
      return socket
    } finally {
      close()
    }
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'VMSEAL_PERMISSION_DENIED') throw cause
    if (code === 'EACCES' || code === 'EPERM') throw notOurs(directory, cause)
    throw notServed(served, directory, `no ${served.what} serves ${directory}`, cause)
  }
}

function notOurs(directory: string, cause?: unknown): VmsealError {
  return new VmsealError('VMSEAL_PERMISSION_DENIED', `${directory} belongs to somebody else`, {
    cause,
    details: { subject: directory },
  })
}

function notServed({ code }: Served, directory: string, message: string, cause?: unknown): VmsealError {
  return new VmsealError(code, message, { cause, details: { subject: directory } })
}
