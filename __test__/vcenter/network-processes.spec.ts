/** Hosts and vCenter as processes of their own, on loopback: killed with -9, and with links that are cut all the time. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { VCenter, isVmsealError, type VirtualMachine } from '../../src/index.js'
import { startLinkProxy } from '../rpc/link-proxy.js'
import { encryption, openSite, type Site } from './site.js'

const command = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))
const vcenterChild = fileURLToPath(new URL('network-child.ts', import.meta.url))
const megabytes = 128

interface HostProcess {
  readonly address: { host: string; port: number }
  readonly token: string
  readonly child: ChildProcess
  /** With -9, and until it is gone. */
  kill(): Promise<void>
}

async function startHost(t: ExecutionContext, site: Site, name: string, port = 0): Promise<HostProcess> {
  const child = spawn(
    process.execPath,
    [
      '--import=tsx', command, '--json', 'host', 'start', '--name', name, '--datastore', `ds1=${site.datastore}`,
      '--directory', path.join(site.directory, name), '--listen', `127.0.0.1:${port}`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  ) // prettier-ignore
  const kill = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const gone = once(child, 'exit')
    child.kill('SIGKILL')
    await gone
  }
  t.teardown(kill)
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string]
  const { address, token = '' } = JSON.parse(line) as { address: HostProcess['address']; token?: string }
  return { address, token, child, kill }
}

async function plainVm(site: Site, image: { file: string }): Promise<VirtualMachine> {
  const spec = { name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [image.file] }
  return site.vcenter.virtualMachines.import(spec)
}

const everything = { home: encryption, disks: encryption }

test.serial(
  'a host is killed while it encrypts: the VM is whole, and the task says so and can be started again',
  async (t) => {
    const site = await openSite(t, { hosts: [] })
    const image = await site.image('disk', megabytes)
    const first = await startHost(t, site, 'esx-1')
    await site.cluster.addHost(first)
    const vm = await plainVm(site, image)
    const task = vm.applyPolicy(everything)
    await once(task, 'progress')
    await first.kill()
    const again = await startHost(t, site, 'esx-1', first.address.port)
    t.is(again.token, '', 'it belongs to this vCenter')
    const error = await task.done.then(
      () => undefined,
      (failure: unknown) => failure,
    )
    t.true(error !== undefined, 'the kill came in the middle')
    t.true(isVmsealError(error, 'VMSEAL_TASK_INTERRUPTED'), String(error))
    await site.vcenter.hosts.reconnect('esx-1')
    t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
    site.seen('Create')
    await vm.applyPolicy(everything).done
    t.is(site.seen('Create'), 0, 'the copy goes on under the key that it was begun with')
    t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
    t.is((await vm.powerOn()).powerState, 'poweredOn')
  },
)

test.serial(
  'B8: a host is killed while it encrypts in place: the keys return, and the task done again goes on where it stood',
  async (t) => {
    const site = await openSite(t, { hosts: [] })
    const image = await site.image('disk', megabytes)
    const first = await startHost(t, site, 'esx-1')
    await site.cluster.addHost(first)
    const vm = await plainVm(site, image)
    const task = vm.applyPolicy(everything, { conversion: 'inPlace' })
    await new Promise<void>((resolve) => {
      task.on('progress', ({ step }) => {
        if (step.includes('in place')) resolve()
      })
      const ended = (): void => resolve()
      task.done.then(ended, ended)
    })
    await first.kill()
    await startHost(t, site, 'esx-1', first.address.port)
    await t.throwsAsync(task.done, { code: 'VMSEAL_TASK_INTERRUPTED' })
    await site.vcenter.hosts.reconnect('esx-1')
    const half = await vm.info()
    t.is(half.disks[0]?.conversion?.mode, 'encrypt')
    t.deepEqual(half.missingKeys, [])
    await t.throwsAsync(vm.powerOn(), { code: 'VMSEAL_DISK_IN_CONVERSION' })
    const info = await vm.applyPolicy(everything, { conversion: 'inPlace' }).done
    t.is(info.disks[0]?.conversion, undefined)
    t.deepEqual(info.disks[0]?.key, half.disks[0]?.key)
    t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
    t.is((await vm.powerOn()).powerState, 'poweredOn')
  },
)

test.serial(
  'vCenter is killed while a host encrypts: the host goes on, and the next vCenter sees the outcome by itself',
  async (t) => {
    const site = await openSite(t, { hosts: [] })
    const image = await site.image('disk', megabytes)
    const host = await startHost(t, site, 'esx-1')
    await site.cluster.addHost(host)
    await site.vcenter.hosts.configureCryptoKey('esx-1')
    await plainVm(site, image)
    await site.vcenter.close()

    const directory = path.join(site.directory, 'vcenter')
    const child = spawn(process.execPath, ['--import=tsx', vcenterChild, directory, 'db01'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    t.teardown(() => void child.kill('SIGKILL'))
    const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string]
    const gone = once(child, 'exit')
    child.kill('SIGKILL')
    await gone
    t.is(line, 'working')

    const vcenter = await VCenter.open({ directory })
    t.teardown(() => vcenter.close())
    const [interrupted] = await vcenter.tasks.list({ limit: 1 })
    t.like(interrupted, { state: 'error', errorCode: 'VMSEAL_TASK_INTERRUPTED' })
    const vm = await vcenter.virtualMachines.get('db01')
    while ((await vm.info()).connectionState === 'disconnected' || !(await vm.info()).homeKey) await sleep(50)
    const info = await vm.info()
    t.like(info, { cryptoState: 'unlocked' })
    t.truthy(info.disks[0]?.key)
    t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
    t.is((await vm.powerOn()).powerState, 'poweredOn')
  },
)

test.serial(
  'the link is cut again and again while a host encrypts: the task ends well, and acted once',
  async (t) => {
    const site = await openSite(t, { hosts: [] })
    const image = await site.image('disk', megabytes)
    const { address, token } = await startHost(t, site, 'esx-1')
    const proxy = await startLinkProxy(t, address)
    await site.cluster.addHost({ address: proxy.address, token })
    const vm = await plainVm(site, image)
    const task = vm.applyPolicy(everything)
    const cutting = setInterval(() => proxy.cut(), 150)
    task.once('step', () => proxy.cut())
    await task.done.finally(() => clearInterval(cutting))
    t.true(proxy.connections > 2)
    t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
    const info = await vm.info()
    t.truthy(info.homeKey)
    t.is(info.disks[0]?.file, 'db01_1.vmdk', 'converted once')
  },
)

test.serial('a host process ends in order at SIGTERM and leaves nothing locked', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const host = await startHost(t, site, 'esx-1')
  await site.cluster.addHost(host)
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [{ capacityBytes: 2 ** 20 }],
  }) // prettier-ignore
  await vm.powerOn()
  const gone = once(host.child, 'exit')
  host.child.kill('SIGTERM')
  t.deepEqual(await gone, [0, null])
  await startHost(t, site, 'esx-1', host.address.port)
  await site.vcenter.hosts.reconnect('esx-1')
  t.is((await vm.powerOn()).powerState, 'poweredOn')
})
