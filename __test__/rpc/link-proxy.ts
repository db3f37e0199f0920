/** A TCP relay between vCenter and a host that can be cut, silenced, or made to lose answers. */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { ExecutionContext } from 'ava'

export interface LinkProxy {
  readonly address: { host: string; port: number }
  /** Bytes in both directions, as they were on the wire. */
  readonly captured: Buffer[]
  /** Refuses connections and cuts those there are, until it is up again. */
  down: boolean
  /** Passes nothing on from the host: its answers are lost when the link is cut. */
  silent: boolean
  /** What vCenter sends is late: it stays on the way, whatever becomes of vCenter, until `deliver`. */
  late: boolean
  readonly underWay: number
  deliver(): void
  /** How many connections were made. */
  connections: number
  cut(): void
}

export async function startLinkProxy(
  t: ExecutionContext,
  target: { host: string; port: number },
): Promise<LinkProxy> {
  const sockets = new Set<Socket>()
  const cut = (): void => {
    for (const socket of sockets) socket.resetAndDestroy()
  }
  let isDown = false
  const underWay: (() => void)[] = []
  const proxy: LinkProxy = {
    address: { host: '127.0.0.1', port: 0 },
    captured: [],
    get down() {
      return isDown
    },
    set down(down) {
      isDown = down
      if (down) cut()
    },
    silent: false,
    late: false,
    get underWay() {
      return underWay.length
    },
    deliver: () => {
      proxy.late = false
      for (const send of underWay.splice(0)) send()
    },
    connections: 0,
    cut,
  }
  const server = createServer({ noDelay: true }, (near) => {
    near.on('error', () => near.destroy())
    if (isDown) return void near.resetAndDestroy()
    proxy.connections += 1
    const far = connect({ ...target, noDelay: true })
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one)
      one.on('error', () => other.destroy())
      one.on('close', () => {
        sockets.delete(one)
        if (!proxy.late) other.destroy()
      })
      one.on('data', (bytes: Buffer) => {
        if (one === far && proxy.silent) return
        proxy.captured.push(bytes)
        if (one === near && proxy.late) underWay.push(() => other.write(bytes))
        else other.write(bytes)
      })
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(async () => {
    const closed = once(server, 'close')
    server.close()
    cut()
    await closed
  })
  proxy.address.port = (server.address() as AddressInfo).port
  return proxy
}
