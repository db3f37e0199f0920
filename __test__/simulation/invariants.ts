/** What must hold in a run: some of it always, some of it once everything is up and has had its time. */
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs'
import path from 'node:path'
import type { CryptoKeyId, VirtualMachineInfo } from '../../src/index.js'
import { auditFile } from '../../src/kms/installation.js'
import type { VmConfig } from '../../src/rpc/host-api.js'
import type { Administrator, KnownVm } from './administrator.js'
import { onAct } from './host-requests.js'
import type { Party } from './scheduler.js'
import { clusters } from './template.js'
import { World } from './world.js'

export class Invariants {
  readonly violations: string[] = []
  readonly #world: World
  readonly #administrator: Administrator
  /** Ids of the requests that each life of a host acted on. */
  readonly #acts = new WeakMap<Party, Set<string>>()
  readonly #recordedBefore: number

  constructor(world: World, administrator: Administrator) {
    this.#world = world
    this.#administrator = administrator
    world.network.onArrival = (from, body) => {
      if (from.name === 'vcenter' && body !== '') this.#recordFirst(JSON.parse(body) as Asked)
    }
    onAct.set(world.simulation, (host, id) => this.#actOnce(host, id))
    world.kmip.onKeys = () => this.#auditFirst()
    this.#recordedBefore = this.#recorded()
  }

  /** An operation of vCenter is on record before a host begins it. */
  #recordFirst({ method, values }: Asked): void {
    const [first, second] = values as [Record<string, unknown>, Record<string, unknown>?]
    const name =
      method === 'createVirtualMachine' && first['homeKey']
        ? String(first['name'])
        : method === 'reconfigureVirtualMachine' && asksForKeys(second)
          ? path.dirname(String(first['vmx']))
          : undefined
    if (name === undefined) return
    const began = this.#world.events.some(
      ({ id, details }) =>
        id === 'com.vmware.vc.crypto.Operation' && details.vm === name && details.outcome === 'began',
    )
    if (!began) this.violate(`a host was asked to ${method} ${name} and no event says that it began`)
  }

  /** A key leaves the KMS only when the audit log, as it is on the disk, says so. */
  #auditFirst(): void {
    const { handedOut } = this.#world.kmip
    const recorded = this.#recorded() - this.#recordedBefore
    if (recorded < handedOut)
      this.violate(`the KMS handed out ${handedOut} keys and has ${recorded} on record`)
  }

  #recorded(): number {
    const log = readFileSync(this.#world.path('kms', auditFile), 'latin1')
    return log.split('\n').filter((line) => /"operation":"Get"/.test(line) && /"Success"/.test(line)).length
  }

  /** A host acts once on a request, however often it comes. */
  #actOnce(host: Party, id: string): void {
    const acts = this.#acts.get(host) ?? new Set()
    if (acts.has(id)) this.violate(`${host.name} acted twice on request ${id}`)
    this.#acts.set(host, acts.add(id))
  }

  violate(what: string): void {
    if (!this.violations.includes(what)) this.violations.push(what)
  }

  /** At every moment. */
  async always(): Promise<void> {
    for (const [name, { what: host, party }] of this.#world.hosts) {
      if (!host || !party.alive) continue
      const { datastore } = clusterOf(name)
      for (const config of await this.#configs(name, datastore))
        if (config.powerState === 'poweredOn' && config.cryptoState === 'locked')
          this.violate(`${config.name} runs on ${name} and is locked`)
    }
    this.#keysStayInTheirCluster(await this.#held())
  }

  /** What does not hold yet, once all is up: nothing, after a time. */
  async eventually(seen: Seen): Promise<string[]> {
    const open: string[] = this.#administrator.waiting.map((label) => `${label} has not ended`)
    for (const { name, state } of seen.tasks)
      if (state === 'queued' || state === 'running') open.push(`task ${name} is ${state}`)
    for (const { name, connectionState } of seen.hosts)
      if (connectionState !== 'connected') open.push(`host ${name} is ${connectionState}`)
    for (const info of seen.vms) {
      if (info.connectionState !== 'connected' || info.missingKeys.length > 0)
        open.push(`${info.name} is ${info.connectionState}, lacks ${info.missingKeys.length} keys`)
    }
    const held = await this.#held()
    for (const { name: cluster, hosts } of clusters) {
      const wanted = new Set(seen.vms.filter((vm) => vm.cluster === cluster).flatMap(keyIdsOf))
      for (const host of hosts)
        for (const key of wanted)
          if (!held.get(host)?.includes(key) && (await this.#isSafe(host)))
            open.push(`${host} lacks key ${key} of its cluster`)
    }
    for (const { datastore, hosts } of clusters)
      open.push(...(await this.#inventoryIsTrue(seen, hosts[0], datastore)))
    return open
  }

  /** At the end: every byte is there, and no key where it does not belong. */
  async finally(seen: Seen): Promise<void> {
    for (const vm of this.#administrator.vms) await this.#whole(vm, seen)
    this.#noSecrets()
  }

  async #whole(vm: KnownVm, seen: Seen): Promise<void> {
    const folder = this.#world.path(vm.datastore, vm.name)
    const there = existsSync(path.join(folder, `${vm.name}.vmx`))
    if (vm.files === 'gone' && there) this.violate(`${vm.name} was destroyed and is there`)
    if (vm.files === 'there' && !there) return this.violate(`${vm.name} is gone`)
    if (!there) return
    const info = seen.vms.find(({ name }) => name === vm.name)
    if (vm.inventory === 'in' && !info) return this.violate(`${vm.name} is not in the inventory`)
    // A VM that nobody registered: any host of its cluster shows its files.
    const { hosts } = clusterNamed(vm.cluster)
    const hostName = info?.host ?? hosts[0]
    const host = this.#world.hosts.get(hostName)?.what
    if (!host) return this.violate(`host ${hostName} is not there`)
    await this.#world.observer.run(async () => {
      const reference = { datastore: vm.datastore, vmx: `${vm.name}/${vm.name}.vmx` }
      const config = await host.readVirtualMachine(reference)
      if (config.disks.length < vm.disks[0] || config.disks.length > vm.disks[1])
        this.violate(`${vm.name} has ${config.disks.length} disks, not ${vm.disks.join(' to ')}`)
      const encrypted = config.homeKey !== undefined
      if (vm.encrypted !== undefined && encrypted !== vm.encrypted)
        this.violate(`${vm.name} is ${encrypted ? 'encrypted' : 'plain'}, it should not be`)
      if (!info) return
      for (const { diskId, device } of config.disks) {
        const { sha256 } = await host.digestDisk(reference, diskId)
        if (sha256 !== vm.sha256) this.violate(`${vm.name} ${device} has other content`)
      }
      if (encrypted && config.disks.every(({ key }) => key)) this.#noPlaintext(vm, folder, config)
    })
  }

  /** Files of detached disks stay as they were, so only those of the VM count. */
  #noPlaintext(vm: KnownVm, folder: string, config: VmConfig): void {
    const own = new Set(config.disks.flatMap(({ file }) => [file, file.replace(/\.vmdk$/, '-flat.vmdk')]))
    for (const file of readdirSync(folder))
      if (own.has(file) && readFileSync(path.join(folder, file)).includes(vm.marker))
        this.violate(`${vm.name}/${file} holds plaintext although the VM is encrypted`)
  }

  async #inventoryIsTrue(seen: Seen, hostName: string, datastore: string): Promise<string[]> {
    const open: string[] = []
    for (const config of await this.#configs(hostName, datastore)) {
      const info = seen.vms.find(({ name }) => name === config.name)
      const known = this.#administrator.vms.find(({ name }) => name === config.name)
      if (!info) {
        if (known?.inventory === 'in') open.push(`${config.name} is not in the inventory`)
        continue
      }
      const keys = [config.homeKey, ...config.disks.map(({ key }) => key)].map((key) => key?.keyId)
      const inInventory = [info.homeKey, ...info.disks.map(({ key }) => key)].map((key) => key?.keyId)
      if (keys.join() !== inInventory.join()) open.push(`the inventory has other keys of ${config.name}`)
    }
    for (const vm of seen.vms)
      if (vm.datastore === datastore && !existsSync(this.#world.path(datastore, vm.name, `${vm.name}.vmx`)))
        open.push(`${vm.name} is in the inventory and has no files`)
    return open
  }

  /** A key that was made for one cluster is on no host of another. */
  #keysStayInTheirCluster(held: ReadonlyMap<string, readonly string[]>): void {
    for (const event of this.#world.events) {
      if (event.id !== 'vmseal.kms.crypto.KeyCreated') continue
      const vm = this.#administrator.vms.find(({ name }) => name === event.details.context)
      if (!vm) continue
      for (const [host, keys] of held)
        if (clusterOf(host).name !== vm.cluster && keys.includes(event.details.keyId))
          this.violate(`${host} holds a key of ${vm.name}, which is in cluster ${vm.cluster}`)
    }
  }

  /** No KEK stands in what vCenter and hosts said to each other, in vCenter's files, or on a datastore. */
  #noSecrets(): void {
    const places: [string, Buffer][] = [['the wire', Buffer.from(this.#world.network.heard.join('\n'))]]
    for (const file of filesUnder(this.#world.directory)) {
      const name = path.relative(this.#world.directory, file)
      if (!name.startsWith('images')) places.push([name, readFileSync(file)])
    }
    for (const key of this.#world.kmip.keys.values())
      for (const [name, bytes] of places) {
        // 16 bytes of a key are enough to know it by; text can hold it in other letters.
        const texts = /^(the wire|vcenter)/.test(name) ? [key.toString('hex').slice(0, 32), key.toString('base64').slice(0, 21)] : [] // prettier-ignore
        for (const text of [key.subarray(0, 16), ...texts])
          if (bytes.includes(text)) this.violate(`a KEK stands in ${name}`)
      }
  }

  async #held(): Promise<Map<string, string[]>> {
    const held = new Map<string, string[]>()
    for (const [name, { what: host, party }] of this.#world.hosts)
      if (host && party.alive)
        held.set(
          name,
          (await this.#world.observer.run(() => host.listKeys())).map(({ keyId }) => keyId),
        )
    return held
  }

  async #isSafe(name: string): Promise<boolean> {
    const host = this.#world.hosts.get(name)?.what
    return (
      host !== undefined && (await this.#world.observer.run(() => host.identify())).cryptoState === 'safe'
    )
  }

  /** The VMs of a datastore as a host shows them; not those that are in the middle of a change. */
  #configs(hostName: string, datastore: string): Promise<VmConfig[]> {
    const host = this.#world.hosts.get(hostName)?.what
    if (!host) return Promise.resolve([])
    return this.#world.observer.run(async () => {
      const configs: VmConfig[] = []
      for (const vm of await host.findVirtualMachines(datastore).catch(() => []))
        configs.push(
          ...(await host.readVirtualMachine(vm).then(
            (config) => [config],
            () => [],
          )),
        )
      return configs
    })
  }
}

/** What vCenter says of everything. */
export interface Seen {
  readonly tasks: readonly { readonly name: string; readonly state: string }[]
  readonly hosts: readonly { readonly name: string; readonly connectionState: string }[]
  readonly vms: readonly VirtualMachineInfo[]
}

interface Asked {
  readonly method: string
  readonly values: readonly unknown[]
}

function asksForKeys(spec: Record<string, unknown> | undefined): boolean {
  return /"type":"(encrypt|shallowRecrypt|deepRecrypt)"/.test(JSON.stringify(spec ?? {}))
}

function keyIdsOf({ homeKey, disks }: VirtualMachineInfo): string[] {
  const keys: (CryptoKeyId | undefined)[] = [homeKey, ...disks.map(({ key }) => key)]
  return keys.flatMap((key) => (key ? [key.keyId] : []))
}

function clusterOf(host: string): (typeof clusters)[number] {
  return clusters.find(({ hosts }) => (hosts as readonly string[]).includes(host)) ?? clusters[0]
}

function clusterNamed(name: string): (typeof clusters)[number] {
  return clusters.find((cluster) => cluster.name === name) ?? clusters[0]
}

function filesUnder(directory: string): string[] {
  return readdirSync(directory).flatMap((name) => {
    const file = path.join(directory, name)
    return statSync(file).isDirectory() ? filesUnder(file) : [file]
  })
}
