/** The parties of one run: the product's own KMS, vCenter and hosts, started, killed and started again. */
import { cpSync, rmSync } from 'node:fs'
import path from 'node:path'
import { Host, Kms, VCenter, type VCenterEvent } from '../../src/index.js'
import { registerBoot } from '../../src/host/lock.js'
import { closeDatabase } from '../../src/kms/database.js'
import { HostServer } from '../../src/rpc/host-server.js'
import { closing } from './database.js'
import { reached } from './host-requests.js'
import { kmipRecords, type KmipRecords } from './kmip-link.js'
import { networkOf, type Network } from './network.js'
import { Party, Simulation } from './scheduler.js'
import { clusters, type Template } from './template.js'

closing.kms = closeDatabase

interface Running<What> {
  readonly party: Party
  /** Absent while it starts, and for good if it could not. */
  what?: What
  failure?: unknown
}

export class World {
  readonly simulation: Simulation
  readonly directory: string
  readonly network: Network
  readonly kmip: KmipRecords
  /** Looks at hosts and files without taking time. */
  readonly observer: Party
  readonly events: VCenterEvent[] = []
  kms: Running<Kms> | undefined
  vcenter: Running<VCenter> | undefined
  readonly hosts = new Map<string, Running<Host>>()
  readonly #template: Template

  constructor(template: Template, seed: number, options: { readonly keepTrace?: boolean } = {}) {
    this.#template = template
    this.simulation = new Simulation(seed, template.epoch, options)
    this.directory = path.join(template.directory, `seed-${seed}`)
    this.network = networkOf(this.simulation)
    this.kmip = kmipRecords(this.network)
    this.observer = new Party('observer', this.simulation, true)
    rmSync(this.directory, { recursive: true, force: true })
    cpSync(path.join(template.directory, 'template'), this.directory, { recursive: true })
  }

  path(...names: string[]): string {
    return path.join(this.directory, ...names)
  }

  static readonly hostNames: readonly string[] = clusters.flatMap(({ hosts }) => hosts)

  startKms(): void {
    if (this.kms?.party.alive) return
    this.kms = this.#start('kms', () =>
      Kms.start({ directory: this.path('kms'), port: this.#template.kmsPort }),
    )
  }

  startVCenter(): void {
    if (this.vcenter?.party.alive) return
    this.vcenter = this.#start('vcenter', async () => {
      const vcenter = await VCenter.open({ directory: this.path('vcenter') })
      vcenter.on('event', (event) => {
        this.events.push(event)
        this.simulation.note('vcenter', `event ${event.id}`)
      })
      return vcenter
    })
  }

  startHost(name: string): void {
    if (this.hosts.get(name)?.party.alive) return
    const { id, address } = this.#template.hosts.get(name) as { id: string; address: string }
    const datastore =
      clusters.find(({ hosts }) => (hosts as readonly string[]).includes(name))?.datastore ?? ''
    const running = this.#start(name, async () => {
      const host = await Host.start({ name, id, datastores: { [datastore]: this.path(datastore) } })
      const { bootId } = await host.identify()
      // Its locks are void when it is gone: here the process of a host lives on.
      running.party.atDeath.push(registerBoot(bootId))
      const server = new HostServer({ host: reached(host, this.simulation), hostId: id })
      this.network.listen(address, running.party, server.answer)
      return host
    })
    this.hosts.set(name, running)
  }

  start(name: string): void {
    if (name === 'kms') this.startKms()
    else if (name === 'vcenter') this.startVCenter()
    else this.startHost(name)
  }

  running(name: string): Running<unknown> | undefined {
    return name === 'kms' ? this.kms : name === 'vcenter' ? this.vcenter : this.hosts.get(name)
  }

  kill(name: string): void {
    this.simulation.note(name, 'killed')
    this.running(name)?.party.kill()
  }

  /** Every party that is down, or that could not start. */
  startAll(): void {
    for (const name of ['kms', ...World.hostNames, 'vcenter']) {
      const running = this.running(name)
      if (running?.failure !== undefined) running.party.kill()
      this.start(name)
    }
  }

  end(): void {
    for (const name of ['vcenter', ...World.hostNames, 'kms']) this.running(name)?.party.kill()
    rmSync(this.directory, { recursive: true, force: true })
  }

  #start<What>(name: string, begin: () => Promise<What>): Running<What> {
    const running: Running<What> = { party: new Party(name, this.simulation) }
    this.simulation.note(name, 'started')
    const starting = async (): Promise<void> => {
      try {
        running.what = await begin()
        this.simulation.note(name, 'ready')
      } catch (failure) {
        running.failure = failure
        this.simulation.note(name, `not started: ${String(failure)}`)
      }
    }
    // A start takes time: it is begun and not waited for.
    this.simulation.schedule(0, 'start', () => void starting(), running.party)
    return running
  }
}
