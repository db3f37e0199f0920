/** vCenter and its hosts over a network: joined, away, back again, removed. */
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { HostAgent, VCenter, type Cluster, type SealedKey, type VCenterEventId } from '../../src/index.js'
import { startLinkProxy, type LinkProxy } from '../rpc/link-proxy.js'
import { encryption, openSite, plain, startAgent, type Site } from './site.js'

interface Networked {
  readonly agent: HostAgent
  /** Stands between vCenter and the host. */
  readonly proxy: LinkProxy
  readonly added: Awaited<ReturnType<Cluster['addHost']>>
}

async function addThroughProxy(t: ExecutionContext, site: Site, name: string): Promise<Networked> {
  const agent = await startAgent(site.directory, name, site.datastore)
  t.teardown(() => agent.stop())
  const proxy = await startLinkProxy(t, agent.address)
  const { token = '' } = agent.joinToken ?? {}
  return { agent, proxy, added: await site.cluster.addHost({ address: proxy.address, token }) }
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await sleep(20)
}

function count(site: Site, id: VCenterEventId): number {
  return site.events.filter((event) => event.id === id).length
}

test('A3, A12: a host is added by address and token, gets the keys of its cluster, and works', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [{ capacityBytes: 2 ** 20 }],
  }) // prettier-ignore
  const key = (await vm.info()).homeKey
  const { agent, added } = await addThroughProxy(t, site, 'esx-2')
  t.like(added, { host: 'esx-2', failed: [] })
  t.deepEqual(await agent.host.listKeys(), [key])
  t.is((await vm.powerOn({ host: 'esx-2' })).host, 'esx-2')
  await vm.powerOff()
  t.is((await vm.digest('scsi0:0', { host: 'esx-2' })).bytes, 2 ** 20)
  await t.throwsAsync(vm.readDisk('scsi0:0', 0, 512, { host: 'esx-2' }), { code: 'VMSEAL_HOST_LOCAL_ONLY' })
})

test('a token is used once, a name and an id belong to one host', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { agent, proxy } = await addThroughProxy(t, site, 'esx-2')
  const twin = await startAgent(path.join(site.directory, 'twin'), 'esx-1', site.datastore)
  t.teardown(() => twin.stop())
  const { token = '' } = twin.joinToken ?? {}
  const add = (address: unknown, word: unknown) =>
    site.cluster.addHost({ address: address as never, token: word as never })
  await t.throwsAsync(add(twin.address, token), { code: 'VMSEAL_ALREADY_EXISTS' }, 'the name is taken')
  t.truthy(twin.joinToken, 'and the token is not spent')
  await t.throwsAsync(add(twin.address, 'vmseal-join-1.x'), { code: 'VMSEAL_JOIN_REFUSED' })
  await t.throwsAsync(add(agent.address, token), { code: 'VMSEAL_ALREADY_EXISTS' }, 'it has joined before')
  await t.throwsAsync(add(proxy.address, 7), { code: 'VMSEAL_JOIN_REFUSED' })
  for (const address of [
    undefined,
    'localhost:1',
    { host: 'a b', port: 1 },
    { host: 'a', port: 0 },
    { host: 'a', port: 70_000 },
  ])
    await t.throwsAsync(add(address, token), { code: 'VMSEAL_INVALID_ARGUMENT' }, JSON.stringify(address))
  t.deepEqual((await site.vcenter.hosts.list()).map(({ name }) => name), ['esx-1', 'esx-2']) // prettier-ignore
})

test('the answer to a join is lost: the same call again finds the host that joined', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const agent = await startAgent(site.directory, 'esx-1', site.datastore)
  t.teardown(() => agent.stop())
  const proxy = await startLinkProxy(t, agent.address)
  const { token = '' } = agent.joinToken ?? {}
  agent.once('joined', () => (proxy.down = true))
  // The host joins, and the link is gone before vCenter can talk to it.
  await t.throwsAsync(site.cluster.addHost({ address: proxy.address, token }), {
    code: 'VMSEAL_HOST_UNREACHABLE',
  })
  t.deepEqual(await site.vcenter.hosts.list(), [])
  proxy.down = false
  const added = await site.cluster.addHost({ address: proxy.address, token })
  t.is(added.host, 'esx-1')
})

test('E3: a host restarts: vCenter finds it by itself and its VMs unlock', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const { agent } = await addThroughProxy(t, site, 'esx-1')
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [],
  }) // prettier-ignore
  const key = (await vm.info()).homeKey
  await agent.host.restart()
  t.deepEqual(await agent.host.listKeys(), [])
  await until(async () => (await agent.host.listKeys()).length > 0)
  t.deepEqual(await agent.host.listKeys(), [key])
  await until(async () => (await vm.info()).cryptoState === 'unlocked')
  t.is((await vm.powerOn()).powerState, 'poweredOn')
  await vm.powerOff()
})

test('F6: a host is away while keys are made: the others are served, and it gets them when it is back', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { agent, proxy } = await addThroughProxy(t, site, 'esx-2')
  await site.vcenter.hosts.configureCryptoKey('esx-2')
  proxy.down = true
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [], host: 'esx-1',
  }) // prettier-ignore
  const key = (await vm.info()).homeKey
  t.deepEqual(await site.hosts[0]?.listKeys(), [key])
  t.deepEqual(await agent.host.listKeys(), [])
  await until(() => count(site, 'vim.event.HostConnectionLostEvent') === 1)
  t.is((await site.vcenter.hosts.get('esx-2')).connectionState, 'disconnected')
  proxy.down = false
  await until(async () => (await agent.host.listKeys()).length > 0)
  t.deepEqual(await agent.host.listKeys(), [key])
  await until(() => count(site, 'vim.event.HostConnectedEvent') === 1)
  t.is((await site.vcenter.hosts.get('esx-2')).connectionState, 'connected')
  t.is(count(site, 'vim.event.HostConnectionLostEvent'), 1, 'told once, not at every attempt')
})

test('F6: a host that is silent does not hold up the others: the VM is made, and the host gets its key later', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { agent, proxy } = await addThroughProxy(t, site, 'esx-2')
  await site.vcenter.hosts.configureCryptoKey('esx-2')
  proxy.silent = true
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [], host: 'esx-1',
  }) // prettier-ignore
  const key = (await vm.info()).homeKey
  t.true(count(site, 'com.vmware.vc.host.Crypto.SendKeyError.HostError') > 0)
  t.deepEqual(await site.hosts[0]?.listKeys(), [key])
  proxy.silent = false
  proxy.cut()
  await until(async () => (await agent.host.listKeys()).length > 0)
  t.deepEqual(await agent.host.listKeys(), [key])
})

test('A13: a key that goes out of use while a host is away leaves it when it is back', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { agent, proxy } = await addThroughProxy(t, site, 'esx-2')
  const make = (name: string) =>
    site.vcenter.virtualMachines.create({
      name, cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [], host: 'esx-1',
    }) // prettier-ignore
  const [staying, leaving] = [await make('db01'), await make('db02')]
  t.is((await agent.host.listKeys()).length, 2)
  proxy.down = true
  await leaving.applyPolicy({ home: plain }).done
  t.is((await agent.host.listKeys()).length, 2, 'it cannot be told')
  await until(() => count(site, 'vim.event.HostConnectionLostEvent') === 1)
  proxy.down = false
  await until(async () => (await agent.host.listKeys()).length === 1)
  t.deepEqual(await agent.host.listKeys(), [(await staying.info()).homeKey])
})

test('E3, A3: seals that are repeated, late, for another host, or of an earlier start are refused', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const { agent } = await addThroughProxy(t, site, 'esx-1')
  const other = await addThroughProxy(t, site, 'esx-2')
  const seals: SealedKey[] = []
  const install = agent.host.installKey.bind(agent.host)
  agent.host.installKey = async (seal) => {
    seals.push(seal)
    return install(seal)
  }
  for (const name of ['db01', 'db02'])
    await site.vcenter.virtualMachines.create({
      name, cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [], host: 'esx-1',
    }) // prettier-ignore
  t.is(seals.length, 2)
  for (const seal of seals.toReversed()) {
    await t.throwsAsync(install(seal), { code: 'VMSEAL_SEAL_REPLAYED' }, 'repeated, in another order')
    await t.throwsAsync(other.agent.host.installKey(seal), { code: 'VMSEAL_SEAL_INVALID' }, 'another host')
    const later = { ...seal, expiresAt: new Date(Date.parse(seal.expiresAt) + 60_000).toISOString() }
    await t.throwsAsync(install({ ...later, nonce: 'bm9uY2U=' }), { code: 'VMSEAL_SEAL_INVALID' }, 'altered')
    const late = { ...seal, expiresAt: '2020-01-01T00:00:00Z' }
    await t.throwsAsync(install(late), { code: 'VMSEAL_SEAL_EXPIRED' })
  }
  const before = [...seals]
  await agent.host.restart()
  await until(async () => (await agent.host.identify()).cryptoState === 'safe')
  for (const seal of before)
    await t.throwsAsync(install(seal), { code: 'VMSEAL_SEAL_INVALID' }, 'of an earlier start')
})

test('the link is cut in the middle of an encryption: the task goes on and ends well', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const { proxy } = await addThroughProxy(t, site, 'esx-1')
  const image = await site.image('big', 48)
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [image.file],
  }) // prettier-ignore
  const task = vm.applyPolicy({ home: encryption, disks: encryption })
  let cuts = 0
  task.on('step', ({ action }) => {
    if (action === 'work started')
      setTimeout(() => {
        cuts += 1
        proxy.cut()
      }, 20)
  })
  await task.done
  t.is(cuts, 1)
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
  t.is(site.seen('Create'), 2, 'the host key and the key of the VM, and none again')
})

test('vCenter is opened again: its hosts are there by themselves, and with the same certificates', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const { agent } = await addThroughProxy(t, site, 'esx-1')
  await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [],
  }) // prettier-ignore
  await site.vcenter.close()
  await agent.host.restart()
  const again = await VCenter.open({ directory: path.join(site.directory, 'vcenter') })
  t.teardown(() => again.close())
  await until(async () => (await again.hosts.get('esx-1')).connectionState === 'connected')
  await until(async () => (await agent.host.listKeys()).length === 1)
  const sync = await again.hosts.reconnect('esx-1')
  t.deepEqual([sync.failed, sync.locked], [[], []])
})

test('a host that is removed loses its keys and is not talked to any more; it may leave and join again', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { agent, proxy } = await addThroughProxy(t, site, 'esx-2')
  await site.cluster.removeHost('esx-2')
  t.deepEqual(await agent.host.listKeys(), [])
  const { connections } = proxy
  t.deepEqual((await site.vcenter.hosts.list()).map(({ name }) => name), ['esx-1']) // prettier-ignore
  await sleep(300)
  t.is(proxy.connections, connections)
  await agent.stop()
  await HostAgent.leave(path.join(site.directory, 'esx-2'))
  const again = await startAgent(site.directory, 'esx-2', site.datastore)
  t.teardown(() => again.stop())
  const { token = '' } = again.joinToken ?? {}
  t.is((await site.cluster.addHost({ address: again.address, token })).host, 'esx-2')
})
