/**
 * Conversions in place that were left half done: by a cancel, a kill of the host, of vCenter, or of its database. Whoever looks after
 * the VM is told once, by an alarm that names the way on; nothing is told while somebody works on it.
 */
import { cp, rm } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { Host, VCenter, type RebuildReport, type Task, type VirtualMachine } from '../../src/index.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { startLinkProxy } from '../rpc/link-proxy.js'
import { encryption, openSite, plain, startAgent, type Site } from './site.js'

/** So slow that whatever stops one finds it in the middle. */
const slowly = { conversion: 'inPlace', maxBytesPerSecond: 16 * 2 ** 20 } as const
const everything = { home: encryption, disks: encryption }

const changes = {
  encrypt: { before: plain, begin: (vm: VirtualMachine) => vm.applyPolicy(everything, slowly) },
  recrypt: { before: encryption, begin: (vm: VirtualMachine) => vm.recrypt({ depth: 'deep', ...slowly }) },
  decrypt: {
    before: encryption,
    begin: (vm: VirtualMachine) => vm.applyPolicy({ home: plain, disks: plain }, slowly),
  },
} as const
type Mode = keyof typeof changes

async function makeVm(site: Site, policy: string) {
  const image = await site.image('a', 96)
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy, disks: [image.file],
  }) // prettier-ignore
  return { vm, image }
}

/** When part of the disk is done, and part is not. */
function underWay(task: Task<unknown>): Promise<void> {
  return new Promise((resolve) =>
    task.on('progress', ({ step, doneBytes }) => {
      if (step.includes('scsi0:0') && doneBytes > 2 ** 20) resolve()
    }),
  )
}

/** Leaves the disk in conversion, by a cancel. */
async function stopInTheMiddle(t: ExecutionContext, vm: VirtualMachine, mode: Mode): Promise<void> {
  const task = changes[mode].begin(vm)
  void underWay(task).then(() => task.cancel())
  await t.throwsAsync(task.done, { code: 'VMSEAL_CANCELLED' })
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await sleep(20)
}

const told = ({ events }: Pick<Site, 'events'>): string[] =>
  events.map(({ id }) => id).filter((id) => id.startsWith('vmseal.vm.crypto.Conversion'))
const alarmsOf = async (vcenter: VCenter) =>
  (await vcenter.alarms.list()).filter(({ kind }) => kind === 'vm.conversion')

test('cancelled: an event and an alarm name the way on, once, also to the next vCenter; its end clears them', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, image } = await makeVm(site, plain)
  await stopInTheMiddle(t, vm, 'encrypt')
  t.deepEqual(told(site), ['vmseal.vm.crypto.ConversionInterrupted'])
  const [alarm] = await alarmsOf(site.vcenter)
  t.like(alarm, { status: 'yellow', entity: { type: 'vm', name: 'db01' } })
  t.regex(alarm?.message ?? '', /scsi0:0 \(encrypt\).*vmseal vm resume-conversion db01/)
  await vm.info()
  await site.vcenter.hosts.reconnect('esx-1')
  t.is(told(site).length, 1)

  await site.vcenter.close()
  const again = await VCenter.open({ directory: path.join(site.directory, 'vcenter') })
  t.teardown(() => again.close())
  const later: string[] = []
  again.on('event', ({ id }) => later.push(id))
  const [host] = site.hosts
  await again.hosts.connect(host as Host)
  t.false(later.includes('vmseal.vm.crypto.ConversionInterrupted'), 'it was told of')
  const same = await again.virtualMachines.get('db01')
  await same.resumeConversion().done
  t.true(later.includes('vmseal.vm.crypto.ConversionEnded'))
  t.deepEqual(await alarmsOf(again), [])
  t.is((await same.digest('scsi0:0')).sha256, image.sha256)
})

test('the host ends in the middle: vCenter finds the disk in conversion when it is back, and says so', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, image } = await makeVm(site, encryption)
  const task = changes.recrypt.begin(vm)
  await underWay(task)
  const failed = t.throwsAsync(task.done)
  await site.hosts[0]?.restart()
  await failed
  await site.vcenter.hosts.reconnect('esx-1')
  t.deepEqual(told(site), ['vmseal.vm.crypto.ConversionInterrupted'])
  t.is((await alarmsOf(site.vcenter)).length, 1)
  await t.throwsAsync(vm.powerOn(), { code: 'VMSEAL_DISK_IN_CONVERSION' })
  // The same task again is a way on, too.
  await vm.recrypt({ depth: 'deep', conversion: 'inPlace' }).done
  t.deepEqual(await alarmsOf(site.vcenter), [])
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
})

test('vCenter ends in the middle and the host goes on: nothing is told while it works, nor when it is done', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const agent = await startAgent(site.directory, 'esx-1', site.datastore)
  t.teardown(() => agent.stop())
  const proxy = await startLinkProxy(t, agent.address)
  const { token = '' } = agent.joinToken ?? {}
  await site.cluster.addHost({ address: proxy.address, token })
  const { vm, image } = await makeVm(site, plain)
  const task = changes.encrypt.begin(vm)
  await underWay(task)
  // Nothing gets through any more, not even a cancel, and another vCenter has what was durable: as after a kill.
  proxy.down = true
  const directory = path.join(site.directory, 'again')
  await cp(path.join(site.directory, 'vcenter'), directory, {
    recursive: true,
    filter: (file) => !file.endsWith('.lock'),
  })
  const store = openSqliteStore(path.join(directory, 'vcenter.db'))
  for (const link of await store.hostLinks.list()) await store.hostLinks.save({ ...link, ...agent.address })
  store.close()
  const again = await VCenter.open({ directory })
  t.teardown(() => again.close())
  const later: string[] = []
  again.on('event', ({ id }) => later.push(id))
  const same = await again.virtualMachines.get('db01')
  await until(async () => (await again.hosts.get('esx-1')).connectionState === 'connected')
  await until(async () => {
    const [disk] = (await same.info()).disks
    return disk?.key !== undefined && disk.conversion === undefined
  })
  t.deepEqual(later.filter((id) => id.startsWith('vmseal.vm.crypto.Conversion')), []) // prettier-ignore
  t.deepEqual(await alarmsOf(again), [])
  t.is((await same.digest('scsi0:0')).sha256, image.sha256)
  // The dead one ends with the test.
  proxy.down = false
  await task.done.catch(() => {})
})

async function loseVCenter(t: ExecutionContext, mode: Mode) {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, image } = await makeVm(site, changes[mode].before)
  await stopInTheMiddle(t, vm, mode)
  await site.vcenter.close()
  for (const host of site.hosts) await host.stop()
  await rm(path.join(site.directory, 'vcenter'), { recursive: true })
  return { site, image }
}

for (const mode of Object.keys(changes) as Mode[])
  test(`E7, B8: a VM whose disk was being ${mode}ed comes back from its files alone, and is gone on with`, async (t) => {
    const { site, image } = await loseVCenter(t, mode)
    const vcenter = await VCenter.open({ directory: path.join(site.directory, 'new') })
    const host = await Host.start({ name: 'esx-new', datastores: { ds1: site.datastore } })
    t.teardown(async () => {
      await vcenter.close()
      await host.stop()
    })
    await (await vcenter.clusters.create('rebuilt')).addHost(host)
    await vcenter.keyProviders.add({ id: 'kms-1', servers: site.kms.endpoint, credentials: site.credentials })
    const [found] = (await vcenter.rebuild({ cluster: 'rebuilt', dryRun: true })).virtualMachines
    t.like(found, { name: 'db01', outcome: 'found' })
    t.like(found?.inConversion[0], { device: 'scsi0:0', mode, totalBytes: 96 * 2 ** 20 })
    t.deepEqual(await alarmsOf(vcenter), [])
    const [registered] = (await vcenter.rebuild({ cluster: 'rebuilt' })).virtualMachines
    t.like(registered, { outcome: 'registered', cryptoState: 'unlocked', missing: [] })
    t.is((await alarmsOf(vcenter)).length, 1)
    const vm = await vcenter.virtualMachines.get('db01')
    await t.throwsAsync(vm.powerOn(), { code: 'VMSEAL_DISK_IN_CONVERSION' })

    // The keys of the conversion are keys in use: a host that restarts gets them by id.
    await host.restart()
    await vcenter.hosts.reconnect('esx-new')
    const { disks } = await vm.resumeConversion().done
    t.is(disks[0]?.conversion, undefined)
    t.is(disks[0]?.key === undefined, mode === 'decrypt')
    t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
    t.deepEqual(await alarmsOf(vcenter), [])
    t.is((await vm.powerOn()).powerState, 'poweredOn')
    await vm.powerOff()
  })

test('E7: vmseal vcenter rebuild names the disk in conversion and the way on', async (t) => {
  const { site } = await loseVCenter(t, 'recrypt')
  const command = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))
  const words = [
    'vcenter',
    'rebuild',
    '--directory',
    path.join(site.directory, 'new'),
    '--datastore',
    `ds1=${site.datastore}`,
  ]
  const look = spawnSync(process.execPath, ['--import=tsx', command, '--json', ...words, '--dry-run'], { encoding: 'utf8' }) // prettier-ignore
  t.is(look.status, 0, look.stderr)
  const report = JSON.parse(look.stdout.trimEnd().split('\n').at(-1) ?? '') as RebuildReport
  t.like(report.virtualMachines[0]?.inConversion[0], { device: 'scsi0:0', mode: 'recrypt' })
  const text = spawnSync(process.execPath, ['--import=tsx', command, ...words, '--dry-run'], {
    encoding: 'utf8',
  })
  t.regex(
    text.stdout,
    /kms-1, not registered; scsi0:0 \(recrypt\) in conversion\. Go on: vmseal vm resume-conversion db01/,
  )
})
