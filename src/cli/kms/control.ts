/**
 * The owner of a KMS orders it about while it serves, over a socket in its directory: one line of JSON each way. Nobody
 * else can open the directory, nor the socket.
 */
import { chmodSync, closeSync, openSync, rmSync } from 'node:fs'
import { createConnection, createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { join, resolve } from 'node:path'
import { VmsealError, isErrorCode, isVmsealError } from '../../errors.js'
import type { ErrorDetails } from '../../errors.js'
import type { Kms } from '../../kms/kms.js'
import { kmsActions } from './actions.js'
import type { KmsActions } from './actions.js'

const socketFile = 'control.sock'
const longestLine = 4 * 1024 * 1024
/** For the order itself; what it does may take as long as it needs. */
const orderTimeoutMs = 10_000

type Answer =
  | { readonly result: unknown }
  | { readonly error: { readonly code: string; readonly message: string; readonly details?: ErrorDetails } }

/** Takes orders until it is closed. */
export class ControlSocket {
  readonly #server: Server
  readonly #file: string
  readonly #idle: Set<Socket>

  /** The KMS has the directory to itself, so a socket that is there is nobody's. */
  static async open(directory: string, kms: Kms): Promise<ControlSocket> {
    const file = join(resolve(directory), socketFile)
    rmSync(file, { force: true })
    const idle = new Set<Socket>()
    const server = createServer((socket) => void answer(socket, kms, idle))
    await shortPath(resolve(directory), async (path) => {
      server.listen(path)
      await settled(server, 'listening')
    })
    chmodSync(file, 0o600)
    return new ControlSocket(server, file, idle)
  }

  private constructor(server: Server, file: string, idle: Set<Socket>) {
    this.#server = server
    this.#file = file
    this.#idle = idle
  }

  /** Orders under way are ended first; who gave none yet is hung up on. */
  async close(): Promise<void> {
    const closed = new Promise((done) => {
      this.#server.close(done)
    })
    for (const socket of this.#idle) socket.destroy()
    await closed
    rmSync(this.#file, { force: true })
  }
}

/** Has the KMS that serves `directory` do it. Rejects with VMSEAL_KMS_NOT_SERVED if there is none, or as it refuses. */
export async function order<A extends keyof KmsActions>(
  directory: string,
  action: A,
  values: Parameters<KmsActions[A]> extends [unknown, infer Values] ? Values : object,
): Promise<Awaited<ReturnType<KmsActions[A]>>> {
  const socket = await connect(resolve(directory))
  try {
    socket.write(`${JSON.stringify({ action, values })}\n`)
    const line = await readLine(socket)
    if (line === undefined)
      throw new VmsealError('VMSEAL_KMS_NOT_SERVED', `the KMS of ${directory} ended before it answered`, {
        details: { subject: resolve(directory) },
      })
    const received = JSON.parse(line) as Answer
    if ('result' in received) return received.result as Awaited<ReturnType<KmsActions[A]>>
    const { code, message, details } = received.error
    throw new VmsealError(isErrorCode(code) ? code : 'VMSEAL_INTERNAL', message, details ? { details } : {})
  } finally {
    socket.destroy()
  }
}

async function connect(directory: string): Promise<Socket> {
  try {
    return await shortPath(directory, async (path) => {
      const socket = createConnection(path)
      await settled(socket, 'connect')
      return socket
    })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EACCES' || code === 'EPERM')
      throw new VmsealError('VMSEAL_PERMISSION_DENIED', `${directory} belongs to somebody else`, {
        cause: error,
        details: { subject: directory },
      })
    throw new VmsealError('VMSEAL_KMS_NOT_SERVED', `no KMS serves ${directory}`, {
      cause: error,
      details: { subject: directory },
    })
  }
}

async function answer(socket: Socket, kms: Kms, idle: Set<Socket>): Promise<void> {
  socket.on('error', () => socket.destroy())
  socket.setTimeout(orderTimeoutMs, () => socket.destroy())
  idle.add(socket)
  socket.once('close', () => idle.delete(socket))
  let reply: Answer
  try {
    const { action, values } = readOrder(await readLine(socket))
    socket.setTimeout(0)
    idle.delete(socket)
    reply = { result: await action(kms, values) }
  } catch (error) {
    const known = isVmsealError(error) ? error : new VmsealError('VMSEAL_INTERNAL', String(error))
    reply = { error: { code: known.code, message: known.message, details: known.details } }
  }
  // Hangs up also on somebody who does not, or who does not read.
  socket.setTimeout(orderTimeoutMs)
  socket.end(`${JSON.stringify(reply)}\n`, () => socket.destroy())
}

type AnyAction = (kms: Kms, values: object) => unknown

function readOrder(line: string | undefined): { action: AnyAction; values: object } {
  const read = line === undefined ? undefined : parsed(line)
  if (isObject(read)) {
    const { action, values } = read as { action?: unknown; values?: unknown }
    if (typeof action === 'string' && Object.hasOwn(kmsActions, action) && isObject(values))
      return { action: kmsActions[action as keyof KmsActions] as AnyAction, values }
  }
  throw new VmsealError(
    'VMSEAL_INVALID_ARGUMENT',
    'the KMS does not know this order: it may be of another version',
  )
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

/** Undefined if the other side ends before its line does, or the line is too long. */
async function readLine(socket: Socket): Promise<string | undefined> {
  let text = ''
  socket.setEncoding('utf8')
  try {
    for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
      text += chunk as string
      const end = text.indexOf('\n')
      if (end >= 0) return text.slice(0, end)
      if (text.length > longestLine) break
    }
  } catch {
    // The connection is gone.
  }
  return undefined
}

/** A socket's path holds 107 bytes, a directory's may be longer. */
async function shortPath<T>(directory: string, use: (path: string) => Promise<T>): Promise<T> {
  const handle = openSync(directory, 'r')
  try {
    return await use(`/proc/self/fd/${handle}/${socketFile}`)
  } finally {
    closeSync(handle)
  }
}

function settled(emitter: Server | Socket, event: string): Promise<void> {
  return new Promise((done, failed) => {
    emitter.once(event, () => {
      emitter.removeListener('error', failed)
      done()
    })
    emitter.once('error', failed)
  })
}
