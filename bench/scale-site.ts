/** One cluster with many hosts and VMs, made through vCenter's own API: real KMS, vCenter and hosts, tiny disks. */
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Host, HostAgent, Kms, VCenter } from '../src/index.js'

export const encryption = 'VM Encryption Policy'
export const diskBytes = 2 ** 16

/** How a vCenter reaches the hosts of a cluster: behind the JSON wall of one process, or over HTTPS with mutual TLS. */
export type Way = 'in process' | 'network'

export interface SiteHost {
  readonly name: string
  readonly way: Way
  readonly host: () => Host
  /** Its process ends and another one begins: no key is left. Resolves when it can be reached. */
  readonly restart: () => Promise<void>
  readonly stop: () => Promise<void>
}

export class Site {
  readonly directory: string
  readonly datastore: string
  readonly kms: Kms
  readonly vcenter: VCenter
  readonly hosts = new Map<string, SiteHost[]>()
  #made = 0

  /** vCenter and KMS are durable on the disk of this machine; the datastore of all hosts is in memory where it can be. */
  static async open(): Promise<Site> {
    const directory = mkdtempSync(path.join(tmpdir(), 'vmseal-scale-'))
    const memory = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()
    const datastore = mkdtempSync(path.join(memory, 'vmseal-scale-'))
    const kms = await Kms.start({ directory: path.join(directory, 'kms') })
    const vcenter = await VCenter.open({ directory: path.join(directory, 'vcenter') })
    const credentials = await kms.enrol('vcenter')
    await vcenter.keyProviders.add({ id: 'kms-1', servers: [kms.endpoint], credentials })
    return new Site(directory, datastore, kms, vcenter)
  }

  private constructor(directory: string, datastore: string, kms: Kms, vcenter: VCenter) {
    this.directory = directory
    this.datastore = datastore
    this.kms = kms
    this.vcenter = vcenter
  }

  async addCluster(cluster: string, way: Way, count: number): Promise<void> {
    await this.vcenter.clusters.create(cluster)
    const hosts: SiteHost[] = []
    this.hosts.set(cluster, hosts)
    for (let n = 1; n <= count; n += 1) {
      const name = `${cluster}-esx-${String(n).padStart(2, '0')}`
      hosts.push(way === 'network' ? await this.#join(cluster, name) : await this.#connect(cluster, name))
      await this.vcenter.hosts.configureCryptoKey(name)
    }
  }

  async #connect(cluster: string, name: string): Promise<SiteHost> {
    const host = await Host.start({ name, datastores: { [cluster]: this.#folder(cluster) } })
    await (await this.vcenter.clusters.get(cluster)).addHost(host)
    return {
      name,
      way: 'in process',
      host: () => host,
      restart: () => host.restart(),
      stop: () => host.stop(),
    }
  }

  async #join(cluster: string, name: string): Promise<SiteHost> {
    const options = {
      name,
      directory: path.join(this.directory, name),
      datastores: { [cluster]: this.#folder(cluster) },
    }
    let agent = await HostAgent.start(options)
    const { address, joinToken } = agent
    await (await this.vcenter.clusters.get(cluster)).addHost({ address, token: joinToken?.token ?? '' })
    return {
      name,
      way: 'network',
      host: () => agent.host,
      restart: async () => {
        await agent.stop()
        agent = await HostAgent.start({ ...options, listen: address })
      },
      stop: () => agent.stop(),
    }
  }

  #folder(cluster: string): string {
    const folder = path.join(this.datastore, cluster)
    mkdirSync(folder, { recursive: true })
    return folder
  }

  /**
   * Makes encrypted VMs with a key each until there are `count` in the cluster, as many on each of `hosts`. While the file
   * `pause` exists none is begun.
   */
  async fill(cluster: string, count: number, hosts: readonly SiteHost[], pause = ''): Promise<void> {
    let begun = (await this.vcenter.virtualMachines.search({ cluster })).length
    const work = async (): Promise<void> => {
      while (begun < count) {
        const host = hosts[begun % hosts.length] as SiteHost
        begun += 1
        while (pause !== '' && existsSync(pause)) await sleep(200)
        await this.create(cluster, host.name)
      }
    }
    await Promise.all(Array.from({ length: 8 }, work))
  }

  /** An encrypted VM with one disk; returns its name. */
  async create(cluster: string, host: string): Promise<string> {
    const name = `${cluster}-vm-${String((this.#made += 1)).padStart(5, '0')}`
    await this.vcenter.virtualMachines.create({
      name, cluster, host, datastore: cluster, policy: encryption, disks: [{ capacityBytes: diskBytes }],
    }) // prettier-ignore
    return name
  }

  hostsOf(cluster: string): SiteHost[] {
    const hosts = this.hosts.get(cluster)
    if (!hosts) throw new Error(`no cluster ${cluster}`)
    return hosts
  }

  async close(): Promise<void> {
    await this.vcenter.close()
    for (const hosts of this.hosts.values()) for (const { stop } of hosts) await stop()
    await this.kms.stop()
    for (const folder of [this.directory, this.datastore]) rmSync(folder, { recursive: true, force: true })
  }
}
