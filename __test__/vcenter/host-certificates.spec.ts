/**
 * The certificates of a vCenter and its hosts get old: over real TLS, by a clock that the tests move. What OpenSSL checks goes by
 * the true time, so a certificate that vCenter made in a moved past has expired.
 */
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { HostAgent, VCenter, VmsealError } from '../../src/index.js'
import { Trust } from '../../src/agent/trust.js'
import { native } from '../../src/native/load.js'
import { HostServer } from '../../src/rpc/host-server.js'
import { HttpsListener } from '../../src/rpc/https-listener.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { partialHost } from '../rpc/network.js'
import { startLinkProxy, type LinkProxy } from '../rpc/link-proxy.js'
import { encryption, openSite, startAgent, type Site } from './site.js'

const day = 24 * 60 * 60 * 1000
let shift = 0
const trueNow = Date.now.bind(Date)
globalThis.Date = class extends Date {
  constructor(...values: []) {
    if (values.length === 0) super(trueNow() + shift)
    else super(...values)
  }
  static override now(): number {
    return trueNow() + shift
  }
} as DateConstructor
test.afterEach.always(() => void (shift = 0))

interface Networked {
  readonly agent: HostAgent
  readonly proxy: LinkProxy
}

async function addHost(t: ExecutionContext, site: Site): Promise<Networked> {
  const agent = await startAgent(site.directory, 'esx-1', site.datastore)
  t.teardown(() => agent.stop())
  const proxy = await startLinkProxy(t, agent.address)
  const { token = '' } = agent.joinToken ?? {}
  await site.cluster.addHost({ address: proxy.address, token })
  await site.vcenter.hosts.configureCryptoKey('esx-1')
  return { agent, proxy }
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await sleep(20)
}

interface Kept {
  readonly membership: { readonly certificate: string; readonly caCertificate: string; readonly vcenterKeyHash: string; readonly keyFile: string }
} // prettier-ignore

/** What the host has of its vCenter, and its key. */
async function identityOf(site: Site) {
  const directory = path.join(site.directory, 'esx-1')
  const { membership } = JSON.parse(await readFile(path.join(directory, 'host.json'), 'utf8')) as Kept
  const { caCertificate, certificate, vcenterKeyHash, keyFile } = membership
  const key = await readFile(path.join(directory, keyFile))
  const { keyHash } = native.describeCertificate(certificate)
  return { caCertificate, certificate, clientKeyHash: vcenterKeyHash, key, keyHash }
}

const makeVm = (site: Site, name: string) =>
  site.vcenter.virtualMachines.create({
    name,
    cluster: site.cluster,
    datastore: 'ds1',
    policy: encryption,
    disks: [{ capacityBytes: 2 ** 20 }],
  })

test.serial(
  'certificates are renewed by vCenter itself when a third of their time is left; what is under way goes on',
  async (t) => {
    const site = await openSite(t, { hosts: [] })
    const { agent } = await addHost(t, site)
    const vm = await makeVm(site, 'db01')
    const first = await identityOf(site)
    t.true((agent.certificateExpires?.getTime() ?? 0) - trueNow() > 824 * day)

    // A long request is held on the host while the certificate changes.
    const { host } = agent
    let release = (): void => {}
    const held = new Promise<void>((resolve) => (release = resolve))
    const reconfigure = host.reconfigureVirtualMachine.bind(host)
    let reached = (): void => {}
    const underWay = new Promise<void>((resolve) => (reached = resolve))
    host.reconfigureVirtualMachine = async (...values) => {
      reached()
      await held
      return reconfigure(...values)
    }
    const recrypt = vm.recrypt({ depth: 'shallow' })
    await underWay
    shift = 549 * day
    await site.vcenter.hosts.reconnect('esx-1')
    t.deepEqual((await identityOf(site)).keyHash, first.keyHash, 'not before it is time')
    shift = 551 * day
    await until(() => site.events.some(({ id }) => id === 'vmseal.host.certificate.Renewed'))
    const second = await identityOf(site)
    t.not(second.keyHash, first.keyHash)
    t.true((agent.certificateExpires?.getTime() ?? 0) - Date.now() > 824 * day)
    release()
    const { homeKey } = await recrypt.done.then(() => vm.info())
    t.is((await host.readVirtualMachine(await vm.info())).homeKey?.keyId, homeKey?.keyId)
    t.is((await makeVm(site, 'db02')).name, 'db02', 'new requests go on')
    t.is(site.events.filter(({ id }) => id === 'vim.event.HostConnectionLostEvent').length, 0)

    // vCenter's own too, for the key that hosts know it by.
    await site.vcenter.close()
    const store = openSqliteStore(path.join(site.directory, 'vcenter/vcenter.db'))
    const own = native.describeCertificate((await store.hostAuthority.get('certificate')) ?? '')
    store.close()
    t.true(own.notAfter * 1000 - Date.now() > 824 * day)
    t.is(own.keyHash, first.clientKeyHash)
    // Another start of both: the new certificates are the ones that count.
    const again = await VCenter.open({ directory: path.join(site.directory, 'vcenter') })
    t.teardown(() => again.close())
    await until(async () => (await again.hosts.get('esx-1')).connectionState === 'connected')
    t.deepEqual((await again.hosts.reconnect('esx-1')).failed, [])
  },
)

test.serial(
  'renewed by name: the old certificate is refused from then on, and so is that of a host that was removed',
  async (t) => {
    const site = await openSite(t, { hosts: [] })
    const { agent, proxy } = await addHost(t, site)
    const old = await identityOf(site)
    const renewed = await site.vcenter.hosts.renewCertificate('esx-1')
    t.is(renewed.host, 'esx-1')
    t.deepEqual(new Date(renewed.expires), agent.certificateExpires)
    t.like(site.events.find(({ id }) => id === 'vmseal.host.certificate.Renewed')?.details, renewed)
    t.not((await identityOf(site)).keyHash, old.keyHash)
    t.deepEqual((await site.vcenter.hosts.reconnect('esx-1')).failed, [])

    // Somebody who has the old key and certificate, which are in time, at the address of the host.
    const { port } = agent.address
    await agent.stop()
    const listener = await HttpsListener.open({ host: '127.0.0.1', port }, () => {})
    t.teardown(() => listener.close())
    const posing = new HostServer({
      host: partialHost({ identify: async () => t.fail('it was asked') as never }),
      hostId: agent.host.id,
    })
    const privateKeyFile = path.join(site.directory, 'old.key')
    await writeFile(privateKeyFile, old.key, { mode: 0o600 })
    listener.serve({ ...old, privateKeyFile }, posing.answer)
    for (const act of [site.vcenter.hosts.reconnect('esx-1'), site.vcenter.hosts.renewCertificate('esx-1')])
      await t.throwsAsync(act, { code: 'VMSEAL_HOST_NOT_TRUSTED' })

    // Removed: neither the old nor the new key lets it in again without a join.
    await site.cluster.removeHost('esx-1')
    const token = `vmseal-join-1.${Buffer.alloc(64, 1).toString('base64url')}`
    const add = () => site.cluster.addHost({ address: proxy.address, token })
    await t.throwsAsync(add(), { code: 'VMSEAL_HOST_NOT_TRUSTED', message: /vmseal host leave/ })
    await listener.close()
    const back = await HostAgent.start({
      name: 'esx-1',
      datastores: { ds1: site.datastore },
      directory: path.join(site.directory, 'esx-1'),
      listen: { host: '127.0.0.1', port },
    })
    t.teardown(() => back.stop())
    await t.throwsAsync(add(), { code: 'VMSEAL_HOST_NOT_TRUSTED', message: /vmseal host leave/ })
    t.deepEqual(await site.vcenter.hosts.list(), [])
    await t.throwsAsync(site.vcenter.hosts.renewCertificate('esx-1'), { code: 'VMSEAL_NOT_FOUND' })
  },
)

test.serial(
  'the answer of a renewal is lost and vCenter is started anew: it finds the host by the key that it may show',
  async (t) => {
    const site = await openSite(t, { hosts: [] })
    const { agent, proxy } = await addHost(t, site)
    const old = await identityOf(site)
    agent.once('certificateRenewed', () => (proxy.down = true))
    await t.throwsAsync(site.vcenter.hosts.renewCertificate('esx-1'), { code: 'VMSEAL_HOST_UNREACHABLE' })
    t.not((await identityOf(site)).keyHash, old.keyHash, 'the host has taken it')
    await site.vcenter.close()
    proxy.down = false
    const again = await VCenter.open({ directory: path.join(site.directory, 'vcenter') })
    t.teardown(() => again.close())
    await until(async () => (await again.hosts.get('esx-1')).connectionState === 'connected')
    t.deepEqual((await again.hosts.reconnect('esx-1')).failed, [])
    // And a second renewal, at once: the key of the first one is the one to go.
    const between = await identityOf(site)
    await again.hosts.renewCertificate('esx-1')
    t.not((await identityOf(site)).keyHash, between.keyHash)
    t.deepEqual((await again.hosts.reconnect('esx-1')).failed, [])
  },
)

test.serial('lost again and again, with and without a reach of the host: nobody is locked out', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const { agent, proxy } = await addHost(t, site)
  for (let round = 0; round < 3; round += 1) {
    agent.once('certificateRenewed', () => (proxy.down = true))
    await t.throwsAsync(site.vcenter.hosts.renewCertificate('esx-1'), { code: 'VMSEAL_HOST_UNREACHABLE' })
    proxy.down = false
  }
  await site.vcenter.hosts.renewCertificate('esx-1')
  t.deepEqual((await site.vcenter.hosts.reconnect('esx-1')).failed, [])
})

test.serial(
  'an expired certificate is refused by code with the next step, which the command takes',
  async (t) => {
    const site = await openSite(t, { hosts: [] })
    const { agent } = await addHost(t, site)
    const vm = await makeVm(site, 'db01')
    // Made as if it were long ago: it ended a minute ago.
    shift = -825 * day - 60_000
    await t.throwsAsync(site.vcenter.hosts.renewCertificate('esx-1'), {
      code: 'VMSEAL_HOST_CERTIFICATE_EXPIRED',
    })
    shift = 0
    t.true((agent.certificateExpires?.getTime() ?? Infinity) < Date.now())
    const refused = await t.throwsAsync<VmsealError>(site.vcenter.hosts.reconnect('esx-1'), {
      code: 'VMSEAL_HOST_CERTIFICATE_EXPIRED',
    })
    t.regex(refused?.action ?? '', /vmseal host renew-certificate/)
    await until(() => site.events.some(({ id, details }) => id === 'vim.event.HostConnectionLostEvent' && (details as { error: string }).error === 'VMSEAL_HOST_CERTIFICATE_EXPIRED')) // prettier-ignore
    await t.throwsAsync(vm.powerOn(), { code: 'VMSEAL_HOST_UNREACHABLE' })
    const renewed = await site.vcenter.hosts.renewCertificate('esx-1')
    t.true(Date.parse(renewed.expires) - Date.now() > 824 * day)
    t.is((await vm.powerOn()).powerState, 'poweredOn')
    await vm.powerOff()
  },
)

test.serial(
  'a renewal that fails is an event and an alarm, not a lost host; it is tried again and clears',
  async (t) => {
    const site = await openSite(t, { hosts: [] })
    await addHost(t, site)
    const { newRequest } = Trust.prototype
    Trust.prototype.newRequest = () => Promise.reject(new VmsealError('VMSEAL_NO_SPACE'))
    try {
      shift = 551 * day
      await until(() => site.events.some(({ id }) => id === 'vmseal.host.certificate.RenewalFailed'))
    } finally {
      Trust.prototype.newRequest = newRequest
    }
    const [alarm] = await site.vcenter.alarms.list()
    t.like(alarm, { kind: 'host.certificate', status: 'yellow', entity: { type: 'host', name: 'esx-1' } })
    t.is((await site.vcenter.hosts.get('esx-1')).connectionState, 'connected')
    shift = 551 * day + 61 * 60 * 1000
    await until(() => site.events.some(({ id }) => id === 'vmseal.host.certificate.Renewed'))
    await until(async () => (await site.vcenter.alarms.list()).length === 0)
    t.pass()
  },
)

test.serial('a host of this process has no certificate', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  await t.throwsAsync(site.vcenter.hosts.renewCertificate('esx-1'), { code: 'VMSEAL_INVALID_STATE' })
})
