/**
 * Watches the link to one host: asks from time to time whether it is there, tries again when it is not, and brings it up
 * to date when it is back. What the host went on with meanwhile is waited for and looked at.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { VmsealError, isVmsealError } from '../errors.js'
import { Backoff } from '../rpc/backoff.js'
import type { HttpsHost } from '../rpc/https-host.js'
import { runAsSystem } from './authorization/access.js'
import type { HostCertificates } from './host-certificates.js'
import { HostConnection } from './host-connections.js'
import { synchroniseHost, type HostSync } from './host-sync.js'
import { withoutKeys } from './key-distribution.js'
import { takeFromHost } from './key-provider/key-use.js'
import type { Services } from './services.js'

const lookEveryMs = 5000
const backoff = { firstBackoffMs: 250, longestBackoffMs: 15_000 }

export class HostLink {
  readonly certificates: HostCertificates
  readonly #services: Services
  readonly #host: HttpsHost
  readonly #hostId: string
  readonly #closed = new AbortController()
  #connection: HostConnection | undefined
  #clusterId = ''
  #watching: Promise<void> = Promise.resolve()
  /** Only one at a time; who comes meanwhile waits for the same. */
  #synchronising: Promise<HostSync> | undefined
  #told: 'connected' | 'lost' | undefined
  /** It was away, so it may hold keys that nothing uses any more. */
  #mayHoldUnused = true

  constructor(services: Services, host: HttpsHost, hostId: string, certificates: HostCertificates) {
    this.#services = services
    this.#host = host
    this.#hostId = hostId
    this.certificates = certificates
  }

  /** A host that has to be reached first. */
  begin(clusterId: string): void {
    this.#clusterId = clusterId
    this.#watching = runAsSystem(() => this.#watch(0))
  }

  /** A host that was brought up to date just now. */
  continue(connection: HostConnection): void {
    this.#connection = connection
    this.#clusterId = connection.clusterId
    this.#told = 'connected'
    this.#watching = runAsSystem(() => this.#watch(lookEveryMs))
  }

  /** Gives the host what it lacks. VMSEAL_HOST_UNREACHABLE if it is away. */
  synchronise(): Promise<HostSync> {
    this.#synchronising ??= this.#synchronise().finally(() => (this.#synchronising = undefined))
    return this.#synchronising
  }

  /** Whether the host works on something that nobody here began; true if it cannot be asked. */
  async isWorking(): Promise<boolean> {
    try {
      return (await this.#host.strangers()).length > 0
    } catch (error) {
      if (isVmsealError(error)) return true
      throw error
    }
  }

  async close(): Promise<void> {
    this.#closed.abort()
    this.#host.close()
    await this.#watching
    await this.#synchronising?.catch(() => {})
  }

  async #watch(firstLookMs: number): Promise<void> {
    const pause = new Backoff(backoff)
    const { signal } = this.#closed
    let waitMs = firstLookMs
    while (!signal.aborted)
      try {
        await sleep(waitMs, undefined, { signal })
        if (await this.#needsSynchronising()) await this.synchronise()
        if (this.#mayHoldUnused) await this.#takeUnused()
        await this.#tell('connected')
        await this.certificates.look()
        pause.reset()
        waitMs = lookEveryMs
      } catch (error) {
        if (signal.aborted) return
        waitMs = 0
        // If it cannot be written down, the next attempt tells.
        await this.#tell('lost', error).catch(() => {})
        await pause.wait(signal)
      }
  }

  /** It restarted, or did not answer at some time since it was up to date. */
  async #needsSynchronising(): Promise<boolean> {
    const connection = this.#connection
    if (!connection || connection.missedSomething) return true
    const { bootId } = connection.identity
    return (await connection.identify()).bootId !== bootId || connection.missedSomething
  }

  async #synchronise(): Promise<HostSync> {
    if (this.#closed.signal.aborted)
      throw new VmsealError('VMSEAL_HOST_UNREACHABLE', 'the link to this host is closed')
    if (!this.#connection) {
      const identity = await this.#host.api.identify()
      this.#connection = new HostConnection(this.#host.api, identity, this.#clusterId)
      this.#services.connections.set(this.#connection)
    }
    const connection = this.#connection
    this.#mayHoldUnused = true
    try {
      const sync = await synchroniseHost(this.#services, connection)
      await this.#follow(connection)
      return sync
    } catch (error) {
      connection.missSomething()
      throw error
    }
  }

  /**
   * Keys that went out of use while the host was away leave it now. A task may have pushed a key that no VM is on record
   * with yet, here or for a vCenter that ended: then this waits.
   */
  async #takeUnused(): Promise<void> {
    const { tasks, store, events } = this.#services
    const connection = this.#connection
    if (!connection || !tasks.isIdle || (await this.#host.strangers()).length > 0) return
    const present = await connection.call((api) => api.listKeys())
    const used = await store.virtualMachines.usedKeys()
    for (const key of withoutKeys(present, used)) {
      if (!tasks.isIdle) return
      await takeFromHost(connection, key, events)
    }
    this.#mayHoldUnused = false
  }

  /** What the host works on for a vCenter that ended meanwhile: its VMs are looked at again when it is done. */
  async #follow(connection: HostConnection): Promise<void> {
    const strangers = await this.#host.strangers()
    if (strangers.length === 0) return
    const ended = Promise.allSettled(strangers.map(({ id }) => this.#host.ended(id)))
    void ended.then(() => connection.missSomething())
  }

  async #tell(state: 'connected' | 'lost', error?: unknown): Promise<void> {
    if (this.#told === state) return
    const { name } = (await this.#services.store.hosts.list()).find(({ id }) => id === this.#hostId) ?? {}
    if (name === undefined) return
    if (state === 'connected')
      await this.#services.events.append('vim.event.HostConnectedEvent', { host: name })
    else
      await this.#services.events.append('vim.event.HostConnectionLostEvent', {
        host: name,
        error: isVmsealError(error) ? error.code : 'VMSEAL_INTERNAL',
        message: error instanceof Error ? error.message : String(error),
      })
    this.#told = state
  }
}
