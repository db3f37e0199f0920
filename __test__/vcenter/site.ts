/** A whole installation for a test: a real KMS, a vCenter, and hosts that share a datastore. */
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { ExecutionContext } from 'ava'
import {
  HostAgent,
  Host,
  Kms,
  VCenter,
  type Cluster,
  type VCenterEvent,
  type VirtualMachine,
} from '../../src/index.js'

export const encryption = 'VM Encryption Policy'
export const plain = 'Datastore Default'
/** How the hosts of every site are reached: in this process, or as agents over HTTPS with mutual TLS. */
let transport: 'in process' | 'network' = 'in process'

/** Before a spec is imported: the same tests run over the network. */
export function useNetwork(): void {
  transport = 'network'
}

/** Stands all over the images; a datastore that holds it holds plaintext. */
export const marker = 'vmseal test image: this text is in plain sight. '

export interface Site {
  readonly directory: string
  readonly datastore: string
  readonly kms: Kms
  readonly credentials: Awaited<ReturnType<Kms['enrol']>>
  readonly vcenter: VCenter
  readonly cluster: Cluster
  readonly hosts: readonly Host[]
  /** KMIP operations that the KMS has seen since the site is open, in order. */
  readonly operations: string[]
  readonly events: VCenterEvent[]
  /** Bytes of a disk as a guest reads them: asked of vCenter, or on the host itself where they may not travel. */
  read(vm: VirtualMachine, disk: string, offset: number, length: number): Promise<Buffer>
  /** A raw image with the marker in every sector; a number that tells images apart. */
  image(name: string, megabytes?: number): Promise<{ file: string; sha256: string }>
  /** How often the KMS saw an operation since the last call for it, or the start. */
  seen(operation: string): number
}

export async function openSite(
  t: ExecutionContext,
  options: {
    hosts?: readonly string[]
    provider?: boolean
    /** False: the hosts are not in encryption mode yet. */
    safe?: boolean
    /** Where the directory of the site is made; default: the system's for temporary files. */
    parent?: string
  } = {},
): Promise<Site> {
  const directory = await mkdtemp(path.join(options.parent ?? tmpdir(), 'vmseal-vcenter-'))
  const datastore = path.join(directory, 'ds1')
  await mkdir(datastore)
  const kms = await Kms.start({ directory: path.join(directory, 'kms') })
  const operations: string[] = []
  kms.on('operation', ({ operation }) => operations.push(operation))
  const credentials = await kms.enrol('vcenter')
  const vcenter = await VCenter.open({ directory: path.join(directory, 'vcenter') })
  const events: VCenterEvent[] = []
  vcenter.on('event', (event) => events.push(event))
  if (options.provider !== false)
    await vcenter.keyProviders.add({ id: 'kms-1', servers: [kms.endpoint], credentials })
  const cluster = await vcenter.clusters.create('prod')
  const hosts: Host[] = []
  const agents: HostAgent[] = []
  for (const name of options.hosts ?? ['esx-1', 'esx-2']) {
    if (transport === 'in process') {
      const host = await Host.start({ name, datastores: { ds1: datastore } })
      hosts.push(host)
      await cluster.addHost(host)
    } else {
      const agent = await startAgent(directory, name, datastore)
      agents.push(agent)
      hosts.push(agent.host)
      await cluster.addHost({ address: agent.address, token: agent.joinToken?.token ?? '' })
    }
    if (options.provider !== false && options.safe !== false) await vcenter.hosts.configureCryptoKey(name)
  }
  // What follows is what a test does.
  operations.length = 0
  events.length = 0
  t.teardown(async () => {
    await vcenter.close()
    for (const agent of agents) await agent.stop()
    for (const host of hosts) await host.stop()
    await kms.stop()
    await rm(directory, { recursive: true, force: true })
  })
  const counted = new Map<string, number>()
  return {
    directory,
    datastore,
    kms,
    credentials,
    vcenter,
    cluster,
    hosts,
    operations,
    events,
    read: async (vm, disk, offset, length) => {
      if (transport === 'in process') return vm.readDisk(disk, offset, length)
      const { datastore: name, vmx, host, disks } = await vm.info()
      const owner = hosts.find((candidate) => candidate.name === host)
      const { diskId = '' } = disks.find(({ device }) => device === disk) ?? {}
      const text = await owner?.readDisk({ datastore: name, vmx }, diskId, offset, length)
      return Buffer.from(text ?? '', 'base64')
    },
    image: (name, megabytes = 1) => makeImage(path.join(directory, `${name}.raw`), name, megabytes),
    seen: (operation) => {
      const total = operations.filter((entry) => entry === operation).length
      const before = counted.get(operation) ?? 0
      counted.set(operation, total)
      return total - before
    },
  }
}

export function startAgent(directory: string, name: string, datastore: string): Promise<HostAgent> {
  return HostAgent.start({ name, datastores: { ds1: datastore }, directory: path.join(directory, name) })
}

export async function makeImage(
  file: string,
  name: string,
  megabytes: number,
): Promise<{ file: string; sha256: string; bytes: Buffer }> {
  const bytes = Buffer.alloc(megabytes * 2 ** 20)
  for (let sector = 0; sector < bytes.length / 512; sector += 1)
    bytes.fill(`${marker}${name} ${sector} `, sector * 512, sector * 512 + 512)
  await writeFile(file, bytes)
  return { file, sha256: createHash('sha256').update(bytes).digest('hex'), bytes }
}
