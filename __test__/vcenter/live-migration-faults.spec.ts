/**
 * Live migrations whose messages are lost, and whose vCenter is killed, at each of their requests: before the host gets it, and
 * after it was done. One host runs the VM afterwards, and vCenter knows which. And the modes, seen on what passes through vCenter.
 */
import { cp, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import { Host, VCenter, VmsealError, type MigrateEncryption, type VirtualMachine } from '../../src/index.js'
import { encryption, openSite, plain, type Site } from './site.js'
import { through, type Tamper } from './tampered-host.js'

const text = 'memory of a guest in plain sight. '
const memory = Buffer.from(text.repeat(50_000))

async function make(
  site: Site,
  policy: string,
): Promise<{
  vm: VirtualMachine
  sha256: string
  options: { host: string; memory: string; memoryTarget: string }
}> {
  const { file, sha256 } = await site.image('db01')
  const place = { cluster: 'prod', datastore: 'ds1', host: 'esx-1' }
  const vm = await site.vcenter.virtualMachines.import({ ...place, name: 'db01', policy, disks: [file] })
  await vm.powerOn()
  const [from, to] = [path.join(site.directory, 'memory.out'), path.join(site.directory, 'memory.in')]
  await writeFile(from, memory)
  return { vm, sha256, options: { host: 'esx-2', memory: from, memoryTarget: to } }
}

/** The names of the hosts that run it. */
async function running(site: Site): Promise<string[]> {
  const on: string[] = []
  for (const host of site.hosts) {
    const { powerState } = await host.readVirtualMachine({ datastore: 'ds1', vmx: 'db01/db01.vmx' })
    if (powerState === 'poweredOn') on.push(host.name)
  }
  return on
}

const lost = () => new VmsealError('VMSEAL_HOST_UNREACHABLE', 'the message was lost (planted)')
const steps = [
  'esx-2 prepareMigration',
  'esx-1 beginMigration',
  'esx-1 readMigrationPiece',
  'esx-2 writeMigrationPiece',
  'esx-1 handOverMigration',
  'esx-2 takeOverMigration',
  'esx-1 endMigration',
] as const

test('J4: a message of any step is lost, or its answer: one host runs the VM, vCenter says which, and it can be moved again', async (t) => {
  const site = await openSite(t)
  const { vm, sha256, options } = await make(site, encryption)
  let fault: { step: string; when: 'request' | 'answer' } | undefined
  const tamper: Tamper = async (method, act, host) => {
    const hit = fault?.step === `${host} ${method}` ? fault.when : undefined
    if (hit) fault = undefined
    if (hit === 'request') throw lost()
    const answer = await act()
    if (hit === 'answer') throw lost()
    return answer
  }
  for (const host of site.hosts) await site.vcenter.hosts.connect(through(host, tamper))
  for (const step of steps)
    for (const when of ['request', 'answer'] as const) {
      const what = `${when} of ${step}`
      fault = { step, when }
      const outcome = await vm.liveMigrate(options).done.then(
        () => 'moved',
        (error: VmsealError) => error.code,
      )
      t.falsy(fault, what)
      const moved = step === 'esx-1 endMigration' || what === 'answer of esx-2 takeOverMigration'
      t.is(outcome, moved ? 'moved' : 'VMSEAL_HOST_UNREACHABLE', what)
      t.deepEqual(await running(site), [moved ? 'esx-2' : 'esx-1'], what)
      t.like(await vm.info(), { host: moved ? 'esx-2' : 'esx-1', powerState: 'poweredOn' }, what)
      if (moved) t.true((await readFile(options.memoryTarget)).equals(memory), what)
      else await t.throwsAsync(readFile(options.memoryTarget), { code: 'ENOENT' }, what)
      t.is((await vm.digest('scsi0:0')).sha256, sha256, what)
      // A host that was silent counts as such until it is heard of. There and back.
      for (const { name } of site.hosts) await site.vcenter.hosts.reconnect(name)
      if (!moved) await vm.liveMigrate(options).done
      await rm(options.memoryTarget)
      await vm.liveMigrate({ ...options, host: 'esx-1' }).done
      await rm(options.memoryTarget)
    }
})

test('J4: vCenter is killed at any step: the next one finds the host that runs the VM, or has the source go on', async (t) => {
  for (const step of steps.slice(0, -1))
    for (const when of ['request', 'answer'] as const) {
      const what = `${when} of ${step}`
      const site = await openSite(t)
      const { vm, sha256, options } = await make(site, encryption)
      const free: (() => void)[] = []
      let [isDead, isFree] = [false, false]
      const died = new Promise<void>((resolve) => {
        const stop = (): Promise<never> => {
          isDead = true
          resolve()
          if (isFree) return Promise.reject(lost())
          return new Promise((_, reject) => free.push(() => reject(lost())))
        }
        const tamper: Tamper = async (method, act, host) => {
          const hit = step === `${host} ${method}` ? when : undefined
          if (isDead || hit === 'request') return stop()
          const answer = await act()
          return isDead || hit === 'answer' ? stop() : answer
        }
        t.teardown(() => {
          isFree = true
          for (const end of free) end()
        })
        const reached = site.hosts.map((host) => site.vcenter.hosts.connect(through(host, tamper)))
        void Promise.all(reached).then(() => vm.liveMigrate(options).done.catch(() => {}))
      })
      await died
      // What was durable at that moment, for another vCenter.
      const directory = path.join(site.directory, 'next')
      await cp(path.join(site.directory, 'vcenter'), directory, {
        recursive: true,
        filter: (file) => !file.endsWith('.lock') && !path.basename(file).startsWith('lock'),
      })
      const next = await VCenter.open({ directory })
      t.teardown(() => next.close())
      for (const host of site.hosts) await next.hosts.connect(host)
      const moved = what === 'answer of esx-2 takeOverMigration'
      t.deepEqual(await running(site), [moved ? 'esx-2' : 'esx-1'], what)
      const again = await next.virtualMachines.get('db01')
      t.like(await again.info(), { host: moved ? 'esx-2' : 'esx-1', powerState: 'poweredOn' }, what)
      t.is((await again.digest('scsi0:0')).sha256, sha256, what)
      await rm(options.memoryTarget, { force: true })
      await again.liveMigrate({ ...options, host: moved ? 'esx-1' : 'esx-2' }).done
      t.deepEqual(await running(site), [moved ? 'esx-1' : 'esx-2'], what)
    }
})

test('J5: three modes for plain VMs, and one for encrypted ones, with hosts that can, cannot, and are of an earlier release', async (t) => {
  const outcomes = async (policy: string): Promise<Record<string, string>> => {
    const site = await openSite(t)
    const { vm, options } = await make(site, policy)
    const pieces: string[] = []
    const spy: Tamper = async (method, act) => {
      const answer = await act()
      if (method === 'readMigrationPiece') pieces.push((answer as { data: string }).data)
      return answer
    }
    const earlier: Tamper = async (method, act) => {
      const answer = await act()
      if (method !== 'identify') return answer
      const { capabilities: _none, ...identity } = answer as { capabilities?: unknown }
      return identity
    }
    await site.vcenter.hosts.connect(through(site.hosts[0]!, spy))
    const unable = await Host.start({
      name: 'esx-3',
      datastores: { ds1: site.datastore },
      encryptedMigration: false,
    })
    const old = await Host.start({ name: 'esx-4', datastores: { ds1: site.datastore } })
    for (const host of [unable, old]) {
      t.teardown(() => host.stop())
      await site.cluster.addHost(host)
    }
    await site.vcenter.hosts.connect(through(old, earlier))
    const found: Record<string, string> = {}
    const modes: (MigrateEncryption | undefined)[] =
      policy === plain ? [undefined, 'disabled', 'opportunistic', 'required'] : [undefined]
    for (const mode of modes) {
      if (mode) await vm.setMigrateEncryption(mode)
      for (const host of ['esx-2', 'esx-3', 'esx-4']) {
        pieces.length = 0
        await rm(options.memoryTarget, { force: true })
        const outcome = await vm.liveMigrate({ ...options, host }).done.then(
          () => (Buffer.from(pieces[0] ?? '', 'base64').includes(text) ? 'plaintext' : 'sealed'),
          (error: VmsealError) => `${error.code} ${error.details.subject}`,
        )
        found[`${mode ?? 'default'} to ${host}`] = outcome
        if ((await vm.info()).host === host) {
          t.true((await readFile(options.memoryTarget)).equals(memory))
          await vm.powerOff()
          await vm.powerOn({ host: 'esx-1' })
        }
      }
    }
    return found
  }
  const unable = 'VMSEAL_MIGRATION_NOT_SUPPORTED esx-3'
  const old = 'VMSEAL_MIGRATION_NOT_SUPPORTED esx-4'
  t.deepEqual(await outcomes(plain), {
    'default to esx-2': 'sealed',
    'default to esx-3': 'plaintext',
    'default to esx-4': old,
    'disabled to esx-2': 'plaintext',
    'disabled to esx-3': 'plaintext',
    'disabled to esx-4': old,
    'opportunistic to esx-2': 'sealed',
    'opportunistic to esx-3': 'plaintext',
    'opportunistic to esx-4': old,
    'required to esx-2': 'sealed',
    'required to esx-3': unable,
    'required to esx-4': old,
  })
  t.deepEqual(await outcomes(encryption), {
    'default to esx-2': 'sealed',
    'default to esx-3': unable,
    'default to esx-4': old,
  })
})
