/**
 * A cluster of many hosts and VMs on one machine, in one process: how long operations take when it is small and when it is ten
 * times as large, how long a restarted host's VMs stay locked, and how long a KEK takes to all hosts.
 *
 *   node --import=tsx bench/scale.bench.ts [--hosts N] [--vms N] [--wait] [--pause-while FILE] [--hosts-alone] [--json FILE]
 *
 * `--wait`: each measurement waits for a line on standard input, for who gives it a machine at rest only then. `--pause-while`: no
 * VM is made while this file exists, for who shares the machine with others who measure. `--hosts-alone`: pushes and restarts alone.
 */
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import type { VCenterEvent } from '../src/index.js'
import { describeMachine } from './machine.js'
import { spreadOf, type Machine, type Spread } from './report.js'
import { Site, type SiteHost, type Way } from './scale-site.js'

export interface ScaleOperation {
  readonly operation: string
  /** Milliseconds, at `small` VMs and at `large` VMs. */
  readonly small: Spread
  readonly large: Spread
}

export interface ScaleReport {
  readonly date: string
  readonly machine: Machine
  readonly node: string
  readonly load: { readonly before: number; readonly after: number }
  readonly hosts: number
  readonly small: number
  readonly large: number
  readonly operations: readonly ScaleOperation[]
  readonly pushes: readonly { readonly way: Way; readonly hosts: number; readonly ms: Spread }[]
  readonly restarts: readonly {
    readonly way: Way
    /** VMs of the host, and keys of its cluster. */
    readonly vms: number
    readonly keys: number
    /** Until the last VM was unlocked, and until the host had every key of its cluster. */
    readonly unlockedMs: Spread
    readonly wholeMs: Spread
  }[]
  /** Making the VMs, a key each pushed to every host, on a machine that does other things too. */
  readonly filled: { readonly vms: number; readonly seconds: number }
  readonly residentMiB: number
  /** What a reader of the figures has to know besides, written by whoever took them. */
  readonly notes?: readonly string[]
}

const runs = 9
const restartRuns = 3
const vmsOfAHost = 125
const ways = [
  ['prod', 'in process'],
  ['edge', 'network'],
] as const

export interface ScaleOptions {
  readonly hosts: number
  readonly vms: number
  /** Called before each measurement. */
  readonly ready?: (what: string) => Promise<void>
  /** No VM is made while this file exists. */
  readonly pause?: string
}

type HostTimes = Pick<ScaleReport, 'pushes' | 'restarts'>

/** The same operations, whatever the size of the inventory. */
async function measureOperations(site: Site): Promise<Map<string, Spread>> {
  const { virtualMachines } = site.vcenter
  const times = new Map<string, number[]>()
  const timed = async (operation: string, act: () => Promise<unknown>): Promise<void> => {
    const begin = performance.now()
    await act()
    times.set(operation, [...(times.get(operation) ?? []), performance.now() - begin])
  }
  const hosts = site.hostsOf('prod')
  for (let run = 0; run < runs; run += 1) {
    const host = hosts[(run * 7) % hosts.length] as SiteHost
    let name = ''
    await timed('create an encrypted VM', async () => (name = await site.create('prod', host.name)))
    const vm = await virtualMachines.get(name)
    await timed('power on', () => vm.powerOn())
    await timed('shallow recrypt', () => vm.recrypt({ depth: 'shallow' }).done)
    await timed('power off', () => vm.powerOff())
    await timed('deep recrypt', () => vm.recrypt({ depth: 'deep' }).done)
    await takeKeys(vm, [host])
    await timed('unlock', () => vm.unlock())
    await timed('one VM: its state', () => vm.info())
    await timed('list: a page of 100', () => virtualMachines.search({ after: name.slice(0, -2), limit: 100 }))
    await timed('destroy', () => vm.destroy())
  }
  return new Map([...times].map(([operation, all]) => [operation, spreadOf(all)]))
}

type Vm = Awaited<ReturnType<Site['vcenter']['virtualMachines']['get']>>

async function takeKeys(vm: Vm, hosts: readonly SiteHost[]): Promise<void> {
  const { homeKey } = await vm.info()
  if (!homeKey) throw new Error('not encrypted')
  for (const { host } of hosts) await host().removeKey(homeKey)
}

/** A KEK that no host has: fetched from the KMS, sealed to each of them, sent, opened there, on record. */
async function measurePush(site: Site, cluster: string): Promise<Spread> {
  const hosts = site.hostsOf(cluster)
  const [first] = hosts
  const name = await site.create(cluster, first?.name ?? '')
  const vm = await site.vcenter.virtualMachines.get(name)
  const { homeKey } = await vm.info()
  const times: number[] = []
  for (let run = 0; run < runs; run += 1) {
    await takeKeys(vm, hosts)
    const begin = performance.now()
    await vm.unlock()
    times.push(performance.now() - begin)
    for (const { name: hostName, host } of hosts)
      if (!(await host().listKeys()).some(({ keyId }) => keyId === homeKey?.keyId))
        throw new Error(`${hostName} did not get the key`)
  }
  await vm.destroy()
  return spreadOf(times)
}

/** From the moment when vCenter looks at a host that has just started. */
async function measureRestart(site: Site, cluster: string): Promise<ScaleReport['restarts'][number]> {
  const { vcenter } = site
  const host = site.hostsOf(cluster)[0] as SiteHost
  const vms = (await vcenter.virtualMachines.search({ cluster, host: host.name })).length
  const keys = (await host.host().listKeys()).length
  const [unlocked, whole]: [number[], number[]] = [[], []]
  for (let run = 0; run < restartRuns; run += 1) {
    await host.restart()
    let [left, last] = [vms, 0]
    const onEvent = ({ id }: VCenterEvent): void => {
      if (id !== 'com.vmware.vc.vm.Crypto.VMUnlocked') return
      left -= 1
      last = performance.now()
    }
    vcenter.on('event', onEvent)
    const begin = performance.now()
    const sync = await vcenter.hosts.reconnect(host.name)
    whole.push(performance.now() - begin)
    unlocked.push(last - begin)
    vcenter.off('event', onEvent)
    if (left !== 0 || sync.failed.length > 0) throw new Error(`${left} VMs were not unlocked`)
  }
  const way = host.way
  return { way, vms, keys, unlockedMs: spreadOf(unlocked), wholeMs: spreadOf(whole) }
}

/** Pushes and restarts alone, in clusters that have no more VMs than one host: what they take does not depend on the others. */
export async function measureHostsAlone(hosts: number): Promise<HostTimes> {
  const site = await Site.open()
  try {
    for (const [cluster, way] of ways) {
      await site.addCluster(cluster, way, hosts)
      await site.fill(cluster, vmsOfAHost, site.hostsOf(cluster).slice(0, 1))
    }
    return await measureHosts(site)
  } finally {
    await site.close()
  }
}

async function measureHosts(site: Site): Promise<HostTimes> {
  const pushes: HostTimes['pushes'][number][] = []
  const restarts: HostTimes['restarts'][number][] = []
  for (const [cluster, way] of ways) {
    const hosts = site.hostsOf(cluster).length
    pushes.push({ way, hosts, ms: await measurePush(site, cluster) })
    restarts.push(await measureRestart(site, cluster))
  }
  return { pushes, restarts }
}

export async function measureScale({
  hosts,
  vms: large,
  ready = async () => {},
  pause = '',
}: ScaleOptions): Promise<ScaleReport> {
  const small = large / 10
  const site = await Site.open()
  try {
    let seconds = 0
    const filling = async (work: () => Promise<void>): Promise<void> => {
      const begin = performance.now()
      await work()
      seconds += (performance.now() - begin) / 1000
    }
    await site.addCluster('prod', 'in process', hosts)
    await filling(() => site.fill('prod', small, site.hostsOf('prod'), pause))
    await ready(`${small} VMs`)
    const before = loadavg()[0] ?? 0
    const few = await measureOperations(site)
    process.stderr.write('small is measured\n')
    await filling(() => site.fill('prod', large, site.hostsOf('prod'), pause))
    await ready(`${large} VMs`)
    const many = await measureOperations(site)
    // Only now: vCenter looks at hosts on the network every few seconds.
    await site.addCluster('edge', 'network', hosts)
    await site.fill('edge', Math.min(vmsOfAHost, small), site.hostsOf('edge').slice(0, 1))
    const { pushes, restarts } = await measureHosts(site)
    return {
      date: new Date().toISOString().slice(0, 10),
      machine: describeMachine(),
      node: process.version,
      load: { before, after: loadavg()[0] ?? 0 },
      hosts,
      small,
      large,
      operations: [...few].map(([operation, spread]) => ({
        operation,
        small: spread,
        large: many.get(operation) as Spread,
      })),
      pushes,
      restarts,
      filled: { vms: large, seconds },
      residentMiB: process.memoryUsage().rss / 2 ** 20,
    }
  } finally {
    await site.close()
  }
}

async function lineOnInput(what: string): Promise<void> {
  process.stderr.write(`ready to measure: ${what}\n`)
  process.stdin.resume()
  await once(process.stdin, 'data')
  process.stdin.pause()
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      hosts: { type: 'string', default: '64' },
      vms: { type: 'string', default: '8000' },
      wait: { type: 'boolean', default: false },
      'pause-while': { type: 'string', default: '' },
      'hosts-alone': { type: 'boolean', default: false },
      json: { type: 'string' },
    },
  })
  const hosts = Number(values.hosts)
  const report = values['hosts-alone']
    ? await measureHostsAlone(hosts)
    : await measureScale({
        hosts,
        vms: Number(values.vms),
        pause: values['pause-while'],
        ...(values.wait ? { ready: lineOnInput } : {}),
      })
  const text = `${JSON.stringify(report, undefined, 1)}\n`
  if (values.json) writeFileSync(values.json, text)
  else process.stdout.write(text)
  process.stderr.write('measured\n')
  process.exit(0)
}
