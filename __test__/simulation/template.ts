/** What every run begins with: a KMS, a vCenter and hosts that have met over real sockets, at rest in a directory. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import Database from 'libsql'
import { hostIdOf } from '../../src/host/host-id.js'
import { HostAgent, Kms, VCenter } from '../../src/index.js'

/** Hosts by cluster; the hosts of one share a datastore. */
export const clusters = [
  { name: 'prod', datastore: 'ds1', hosts: ['esx-1', 'esx-2'] },
  { name: 'lab', datastore: 'ds2', hosts: ['esx-9'] },
] as const

export interface Template {
  /** In memory where there is such a place: a run makes and removes thousands of files. */
  readonly directory: string
  readonly kmsPort: number
  /** Id and `host:port` of each host by its name. */
  readonly hosts: ReadonlyMap<string, { readonly id: string; readonly address: string }>
  /** What the clock of every run shows at the beginning. */
  readonly epoch: number
}

export async function makeTemplate(): Promise<Template> {
  const memory = '/dev/shm'
  const directory = await mkdtemp(path.join(existsSync(memory) ? memory : tmpdir(), 'vmseal-simulation-'))
  const at = (name: string): string => path.join(directory, 'template', name)
  const kms = await Kms.start({ directory: at('kms') })
  const vcenter = await VCenter.open({ directory: at('vcenter') })
  const hosts = new Map<string, { id: string; address: string }>()
  const agents: HostAgent[] = []
  try {
    const credentials = await kms.enrol('vcenter')
    await vcenter.keyProviders.add({ id: 'kms-1', servers: [kms.endpoint], credentials })
    for (const { name, datastore, hosts: names } of clusters) {
      const cluster = await vcenter.clusters.create(name)
      await mkdir(at(datastore))
      for (const host of names) {
        // The same in every process: vCenter's tables come in the order of the ids.
        const hostId = hostIdOf(host)
        await mkdir(at(host))
        await writeFile(path.join(at(host), 'host.json'), JSON.stringify({ version: 1, hostId }))
        const options = { name: host, directory: at(host), datastores: { [datastore]: at(datastore) } }
        const agent = await HostAgent.start(options)
        agents.push(agent)
        await cluster.addHost({ address: agent.address, token: agent.joinToken?.token ?? '' })
        // Its host key is made here; a run fetches it.
        await vcenter.hosts.configureCryptoKey(host)
        hosts.set(host, { id: agent.host.id, address: `${agent.address.host}:${agent.address.port}` })
      }
    }
    const epoch = Math.ceil(Date.now() / 1000) * 1000
    return { directory, kmsPort: kms.endpoint.port, hosts, epoch }
  } finally {
    await vcenter.close()
    for (const agent of agents) await agent.stop()
    await kms.stop()
    foldLog(at('vcenter/vcenter.db'))
  }
}

/** A run copies the database, recovers its write-ahead log, and searches both for keys: the log is ten times the tables. */
function foldLog(file: string): void {
  const database = new Database(file)
  database.pragma('wal_checkpoint(TRUNCATE)')
  database.close()
}

export async function removeTemplate({ directory }: Template): Promise<void> {
  await rm(directory, { recursive: true, force: true })
}
