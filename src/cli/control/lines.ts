/** Lines of text on a socket, and the path of a socket in a directory of any name. */
import { closeSync, openSync } from 'node:fs'
import type { Server, Socket } from 'node:net'

export const socketFile = 'control.sock'

/** Ends with the connection, or at a line of more than `longest` characters. */
export async function* linesOf(socket: Socket, longest: number): AsyncGenerator<string, void, undefined> {
  let parts: string[] = []
  let length = 0
  socket.setEncoding('utf8')
  try {
    for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
      const pieces = (chunk as string).split('\n')
      const rest = pieces.pop() ?? ''
      for (const piece of pieces) {
        yield [...parts, piece].join('')
        parts = []
        length = 0
      }
      parts.push(rest)
      length += rest.length
      if (length > longest) return
    }
  } catch {
    // The connection is gone.
  }
}

/**
 * The path of the socket in a directory. A socket's path holds 107 bytes, a directory's may be longer, so it goes by a handle
 * of the directory: whoever has the path keeps the handle open.
 */
export function shortPath(directory: string): { readonly path: string; readonly close: () => void } {
  const handle = openSync(directory, 'r')
  return { path: `/proc/self/fd/${handle}/${socketFile}`, close: () => closeSync(handle) }
}

export function settled(emitter: Server | Socket, event: string): Promise<void> {
  return new Promise((done, failed) => {
    emitter.once(event, () => {
      emitter.removeListener('error', failed)
      done()
    })
    emitter.once('error', failed)
  })
}
