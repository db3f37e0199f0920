/** Rows A1, A2 and A3 of the feature table: who makes a key, and who holds it. */
import test from 'ava'
import { execFile } from 'node:child_process'
import { mkdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Host } from '../../src/index.js'
import { keyMemoryAllocations } from './key-memory.js'
import { keysAtKms } from './kms-view.js'
import { encryption, openSite, plain } from './site.js'

const searcher = fileURLToPath(new URL('kek-search.ts', import.meta.url))

test('A1: one encryption task makes exactly one key, and its id is that of VM home and every disk', async (t) => {
  const site = await openSite(t)
  const images = [await site.image('a'), await site.image('b')]
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: images.map(({ file }) => file),
  }) // prettier-ignore
  t.is(site.operations.length, 0, 'a plain import asks the KMS for nothing')

  const task = vm.applyPolicy({ home: encryption, disks: encryption })
  const steps: string[] = []
  task.on('step', ({ actor, action, keyId }) => steps.push(`${actor}: ${action} ${keyId ?? ''}`.trim()))
  const info = await task.done
  t.is(site.seen('Create'), 1)
  t.is(site.seen('Activate'), 1)
  const keyId = info.homeKey?.keyId
  t.truthy(keyId)
  t.deepEqual(info.disks.map(({ key }) => key), [0, 1].map(() => ({ keyId: keyId ?? '', providerId: 'kms-1' }))) // prettier-ignore
  t.deepEqual(steps, [
    `kms: key created ${keyId}`,
    `kms: key fetched ${keyId}`,
    `vcenter: key pushed ${keyId}`,
    `vcenter: key pushed ${keyId}`,
    'host: work started',
    'host: work committed',
  ])
  const [key] = await keysAtKms(site, ['State', 'x-Name', 'x-Identifier', 'x-Vendor', 'x-Component'])
  t.deepEqual(key, {
    id: keyId, State: 'Active', 'x-Name': 'db01', 'x-Identifier': vm.id, 'x-Vendor': 'vmseal',
    'x-Component': 'Virtual Machine',
  }) // prettier-ignore

  // The same wish again changes nothing and makes no key.
  await vm.applyPolicy({ home: encryption, disks: encryption }).done
  t.is(site.seen('Create'), 0)
})

test('A2: vCenter keeps ids only: the KEK is in none of its files, nor on the datastore', async (t) => {
  const site = await openSite(t)
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [{ capacityBytes: 2 ** 20 }],
  }) // prettier-ignore
  await vm.applyPolicy({ home: plain, disks: plain }).done
  await vm.applyPolicy({ home: encryption, disks: encryption }).done
  const directory = path.join(site.directory, 'vcenter')
  t.is((await stat(directory)).mode & 0o777, 0o700)
  const keyIds = (await keysAtKms(site, [])).map(({ id }) => id)
  t.is(keyIds.length, 2)
  const request = {
    kms: site.kms.endpoint,
    credentials: site.credentials,
    keyIds,
    directories: [directory, site.datastore, path.join(site.directory, 'kms')],
  }
  const { stdout } = await promisify(execFile)(process.execPath, [
    '--import=tsx',
    searcher,
    JSON.stringify(request),
  ])
  const answer = JSON.parse(stdout) as { files: number; withKek: string[]; withId: string[]; keys: number }
  t.is(answer.keys, 2)
  t.true(answer.files >= 5)
  t.deepEqual(answer.withKek, [])
  t.true(
    answer.withId.some((file) => file.startsWith(path.join(directory, 'vcenter.db'))),
    'the search does find ids',
  )
})

test.serial(
  'A2: vCenter disposes of the key once it is sealed: in memory it is with the hosts alone',
  async (t) => {
    const site = await openSite(t, { hosts: ['esx-1', 'esx-2', 'esx-3'] })
    const before = keyMemoryAllocations()
    const spec = {
      cluster: site.cluster,
      datastore: 'ds1',
      policy: encryption,
      disks: [{ capacityBytes: 2 ** 20 }],
    }
    for (const [index, name] of ['a', 'b', 'c'].entries()) {
      await site.vcenter.virtualMachines.create({ ...spec, name })
      t.is(keyMemoryAllocations() - before, (index + 1) * site.hosts.length)
    }
    await site.hosts[0]?.restart()
    t.is(keyMemoryAllocations() - before, 6 - 1, 'its three keys and its host key are gone')
    await site.vcenter.hosts.reconnect('esx-1')
    t.is(keyMemoryAllocations() - before, 9)
  },
)

test('A3: every host of the cluster holds the key, a host of another cluster does not', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1', 'esx-2', 'esx-3'] })
  const labDirectory = path.join(site.directory, 'lab')
  await mkdir(labDirectory)
  const outside = await Host.start({ name: 'esx-9', datastores: { lab: labDirectory, ds1: site.datastore } })
  t.teardown(() => outside.stop())
  await (await site.vcenter.clusters.create('lab')).addHost(outside)

  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: 'prod', datastore: 'ds1', policy: encryption, disks: [{ capacityBytes: 2 ** 20 }],
  }) // prettier-ignore
  const key = (await vm.info()).homeKey
  if (!key) throw new Error('the set-up is not what the test needs')
  for (const host of site.hosts) t.deepEqual(await host.listKeys(), [key])
  t.deepEqual(await outside.listKeys(), [])
  await t.throwsAsync(outside.powerOn({ datastore: 'ds1', vmx: 'db01/db01.vmx' }), {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
  })
  t.deepEqual((await vm.powerOn({ host: 'esx-2' })).host, 'esx-2')
  await vm.powerOff()
  await t.throwsAsync(vm.powerOn({ host: 'esx-9' }), { code: 'VMSEAL_HOST_UNREACHABLE' })
})

test('A3: a host that is down does not stop the others; it gets the key when it is back', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1', 'esx-2', 'esx-3'] })
  await site.hosts[2]?.stop()
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [],
  }) // prettier-ignore
  const key = (await vm.info()).homeKey
  if (!key) throw new Error('the set-up is not what the test needs')
  t.deepEqual(await site.hosts[1]?.listKeys(), [key])
  t.like(site.events.find(({ id }) => id === 'com.vmware.vc.host.Crypto.SendKeyError.HostError')?.details, {
    host: 'esx-3', ...key, error: 'VMSEAL_HOST_UNREACHABLE',
  }) // prettier-ignore
  t.is((await site.vcenter.hosts.get('esx-3')).connectionState, 'disconnected')
  await t.throwsAsync(site.vcenter.hosts.reconnect('esx-3'), { code: 'VMSEAL_HOST_UNREACHABLE' })
  await site.hosts[2]?.restart()
  const sync = await site.vcenter.hosts.reconnect('esx-3')
  t.deepEqual(sync.pushed, [key])
  t.deepEqual(await site.hosts[2]?.listKeys(), [key])
  t.is(site.seen('Create'), 1)
})

test('A3: a host that refuses the key fails the task only if it is the one that does the work', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  // Its clock is ahead: every seal has expired when it arrives.
  const late = await Host.start({
    name: 'esx-2', datastores: { ds1: site.datastore }, now: () => Date.now() + 3_600_000,
  }) // prettier-ignore
  t.teardown(() => late.stop())
  await site.cluster.addHost(late)
  const spec = { cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [] }
  await site.vcenter.virtualMachines.create({ ...spec, name: 'db01', host: 'esx-1' })
  await t.throwsAsync(site.vcenter.virtualMachines.create({ ...spec, name: 'db02', host: 'esx-2' }), {
    code: 'VMSEAL_SEAL_EXPIRED',
  })
  t.deepEqual((await site.vcenter.virtualMachines.list()).map(({ name }) => name), ['db01']) // prettier-ignore
  t.deepEqual(await late.listKeys(), [])
  const failures = site.events.filter(({ id }) => id === 'com.vmware.vc.host.Crypto.SendKeyError.HostError')
  t.is(failures.length, 1, 'the second time not even a key was made')
  t.is((await site.vcenter.hosts.get('esx-2')).cryptoState, 'prepared')
})

test('A3: a host that is down cannot be chosen, and no key is made', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  await site.hosts[0]?.stop()
  const spec = { name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [] }
  await t.throwsAsync(site.vcenter.virtualMachines.create(spec), { code: 'VMSEAL_HOST_UNREACHABLE' })
  await t.throwsAsync(site.vcenter.virtualMachines.create({ ...spec, datastore: 'ds9' }), {
    code: 'VMSEAL_HOST_UNREACHABLE',
  })
  t.is(site.seen('Create'), 0)
  t.deepEqual(await site.vcenter.virtualMachines.list(), [])
})

test('A3: a host that joins, or restarts, while a task runs has the key at its end', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1', 'esx-2'] })
  const { file } = await site.image('a', 32)
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [file], host: 'esx-1',
  }) // prettier-ignore
  const late = await Host.start({ name: 'esx-3', datastores: { ds1: site.datastore } })
  t.teardown(() => late.stop())
  const meanwhile: Promise<unknown>[] = []
  const task = vm.applyPolicy({ home: encryption, disks: encryption })
  task.on('step', ({ action }) => {
    if (action !== 'work started') return
    meanwhile.push(site.cluster.addHost(late))
    meanwhile.push((site.hosts[1] as Host).restart().then(() => site.vcenter.hosts.reconnect('esx-2')))
  })
  const { homeKey } = await task.done
  await Promise.all(meanwhile)
  for (const host of [...site.hosts, late]) t.deepEqual(await host.listKeys(), [homeKey], host.name)
  t.is(site.seen('Create'), 2, 'the key of the task, and the host key of the host that joined')
})
