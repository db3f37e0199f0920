/** A TCP relay in front of a KMS that harms connections on purpose: the network at its worst. */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { randomBytes } from 'node:crypto'
import type { Kms } from '../../src/kms/kms.js'

export const faults = [
  /** The connection is refused with a reset before a byte is read. */
  'cut before',
  /** The client's bytes are cut at some point: in the handshake or in a request. */
  'cut in request',
  /** The KMS's bytes are cut at some point. */
  'cut in reply',
  /** The KMS has worked on a request; its whole answer is lost. */
  'lose reply',
  /** The answer arrives, then the connection is reset. */
  'cut after reply',
  /** Nothing goes on from some point: the client waits until its time is over. */
  'stall',
  /** Bytes arrive late, but in time. */
  'delay',
  /** The client's direction is closed in order, in the middle. */
  'half-close',
  /** Bytes of the KMS are replaced by others. */
  'garbage',
  /** Another KMS answers, with a certificate of its own. */
  'wrong certificate',
] as const
export type Fault = (typeof faults)[number]

export interface FaultProxy {
  readonly host: string
  readonly port: number
  /** How often each fault was done. */
  readonly done: ReadonlyMap<Fault, number>
  /** The next connections get these faults, one each; `undefined` is none. Without a plan connections are left alone. */
  plan: () => Fault | undefined
  /** Cuts every connection. */
  cut(): void
  /** How many connections were made to it. */
  readonly connections: number
  close(): Promise<void>
}

export interface FaultProxyOptions {
  readonly kms: Kms
  /** Answers instead of `kms` where the certificate is to be wrong. */
  readonly stranger: Kms
  /** 0 up to 1; where in the stream a fault strikes. */
  readonly random: () => number
  readonly delayMs?: number
}

/** Sizes of a whole conversation of Discover, Create, Activate and so on, so that faults strike anywhere in it. */
const longestRequests = 2500
const longestReplies = 2500
/** No connection lives for ever: a pool would fill up with the good ones. */
const longestLife = 3000

export async function startFaultProxy(options: FaultProxyOptions): Promise<FaultProxy> {
  const { kms, stranger, random, delayMs = 20 } = options
  const done = new Map<Fault, number>()
  const sockets = new Set<Socket>()
  const state = { connections: 0, plan: (): Fault | undefined => undefined }
  const strike = (fault: Fault): void => void done.set(fault, (done.get(fault) ?? 0) + 1)
  const server: Server = createServer({ allowHalfOpen: true, noDelay: true }, (near) => {
    state.connections += 1
    relay(near, state.plan())
  })

  const relay = (near: Socket, fault: Fault | undefined): void => {
    const { port } = (fault === 'wrong certificate' ? stranger : kms).endpoint
    if (fault === 'cut before') {
      strike(fault)
      near.on('error', () => {})
      return void near.resetAndDestroy()
    }
    if (fault === 'wrong certificate') strike(fault)
    const far = connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
    for (const [one, other] of [[near, far], [far, near]] as const) {
      sockets.add(one)
      one.on('error', () => other.destroy())
      one.on('close', () => {
        sockets.delete(one)
        other.destroy()
      })
      one.on('end', () => other.end())
    } // prettier-ignore
    const end = (): void => {
      near.resetAndDestroy()
      far.destroy()
    }
    let struck = false
    const strikeOnce = (): boolean => {
      if (struck) return false
      struck = true
      if (fault) strike(fault)
      return true
    }
    const requestLimit = Math.floor(random() * longestRequests)
    const replyLimit = Math.floor(random() * longestReplies)
    let requestBytes = 0
    let replyBytes = 0
    near.on('data', (bytes: Buffer) => {
      const before = requestBytes
      requestBytes += bytes.length
      if (requestBytes < requestLimit) return forward(far, bytes)
      if (fault === 'cut in request') {
        forward(far, bytes.subarray(0, Math.max(0, requestLimit - before)))
        if (strikeOnce()) end()
      } else if (fault === 'half-close') {
        forward(far, bytes)
        if (strikeOnce()) far.end()
      } else if (fault === 'delay') {
        if (strikeOnce()) {
          near.pause()
          setTimeout(() => near.resume(), delayMs)
        }
        forward(far, bytes)
      } else forward(far, bytes)
    })
    far.on('data', (bytes: Buffer) => {
      const before = replyBytes
      replyBytes += bytes.length
      if (replyBytes > longestLife) return end()
      if (replyBytes < replyLimit) return forward(near, bytes)
      if (fault === 'cut in reply') {
        forward(near, bytes.subarray(0, Math.max(0, replyLimit - before)))
        if (strikeOnce()) end()
      } else if (fault === 'lose reply') {
        if (strikeOnce()) end()
      } else if (fault === 'cut after reply') {
        forward(near, bytes)
        if (strikeOnce()) setImmediate(end)
      } else if (fault === 'stall') strikeOnce()
      else if (fault === 'garbage' && strikeOnce()) forward(near, randomBytes(bytes.length))
      else forward(near, bytes)
    })
  }

  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const cut = (): void => {
    for (const socket of sockets) socket.destroy()
  }
  return {
    host: '127.0.0.1',
    port: (server.address() as AddressInfo).port,
    done,
    get plan() {
      return state.plan
    },
    set plan(plan) {
      state.plan = plan
    },
    cut,
    get connections() {
      return state.connections
    },
    close: async () => {
      cut()
      const closed = once(server, 'close')
      server.close()
      await closed
    },
  }
}

function forward(to: Socket, bytes: Buffer): void {
  if (!to.destroyed) to.write(bytes)
}
