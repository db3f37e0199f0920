/** Row I6 of the feature table: alarms open and clear with events, stay over a restart, and are acknowledged. */
import test from 'ava'
import path from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { Kms, VCenter, isVmsealError, type AlarmEvent, type VCenterEvent } from '../../src/index.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { alarmChanges } from '../../src/vcenter/alarm-rules.js'
import { Alarms } from '../../src/vcenter/alarms.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { EventLog } from '../../src/vcenter/events.js'
import { userWith } from './authorization/users.js'
import { connectAsVCenter } from './kms-view.js'
import { encryption, openSite, type Site } from './site.js'

const create = (site: Site, name = 'db01') =>
  site.vcenter.virtualMachines.create({
    name, cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [],
  }) // prettier-ignore

const kindsOf = async (vcenter: VCenter) =>
  (await vcenter.alarms.list()).map(({ kind, entity }) => `${kind} ${entity.name}`).toSorted()

/** The events that open an alarm and those that clear it; each is of one object. */
const cases: readonly [open: string, clear: string, details: object, clearing?: object][] = [
  ['com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost', 'com.vmware.vc.vm.Crypto.VMUnlocked', { vm: 'a', reasons: [] }],
  ['com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnKMS', 'vim.event.VmRemovedEvent', { vm: 'a', reasons: [] }],
  ['com.vmware.vc.vm.Crypto.VMLocked.KMSClusterError', 'com.vmware.vc.vm.Crypto.VMUnlocked', { vm: 'a', reasons: [] }],
  ['com.vmware.vc.vm.crypto.RekeyFail', 'com.vmware.vc.crypto.Operation', { vm: 'a' }, { operation: 'recrypt', outcome: 'success' }],
  ['com.vmware.vc.vm.crypto.DiskchainUsingMixedKeys', 'com.vmware.vc.crypto.Operation', { vm: 'a' }, { operation: 'recrypt', outcome: 'success' }],
  ['com.vmware.vc.vm.crypto.NoDiskSpace', 'com.vmware.vc.crypto.Operation', { vm: 'a' }, { operation: 'reconfigure', outcome: 'success' }],
  ['com.vmware.vc.host.Crypto.ReqEnable.KeyMissingOnKMS', 'com.vmware.vc.host.Crypto.Enabled', { host: 'h' }],
  ['com.vmware.vc.host.Crypto.ReqEnable.KMSClusterError', 'vim.event.HostRemovedEvent', { host: 'h' }],
  ['com.vmware.vc.host.Crypto.HostKey.NewKey.KeyMissingOnKMS', 'vim.event.HostRemovedEvent', { host: 'h', lost: { keyId: '1' } }],
  ['com.vmware.vc.host.Crypto.SendKeyError.HostError', 'vmseal.host.crypto.KeyPushed', { host: 'h', providerId: 'p' }],
  ['vim.event.HostConnectionLostEvent', 'vim.event.HostConnectedEvent', { host: 'h' }],
  ['com.vmware.vc.kms.crypto.Unreachable', 'vmseal.kms.crypto.Reachable', { providerId: 'p' }],
  ['com.vmware.vc.kms.crypto.Unreachable', 'vmseal.kms.crypto.KeyCreated', { providerId: 'p' }],
  ['vmseal.kms.crypto.ServerNotTrusted', 'vmseal.kms.crypto.ServerTrusted', { providerId: 'p', server: 's' }],
  ['com.vmware.vc.vecs.KMSClientCertExpirationEvent', 'vmseal.kms.crypto.CertificateRenewed', { providerId: 'p', daysToExpiry: 3 }],
  ['com.vmware.vc.vecs.KMSServerCertExpirationEvent', 'vmseal.kms.crypto.CertificateRenewed', { providerId: 'p', server: 's', daysToExpiry: -1 }],
] // prettier-ignore

for (const [opens, clears, details, clearing = {}] of cases)
  test(`I6: ${opens} opens an alarm that ${clears} clears`, (t) => {
    const changesOf = (id: string, more: object = {}) =>
      alarmChanges({ id, details: { ...details, ...more } } as unknown as VCenterEvent)
    const [opened, ...others] = changesOf(opens)
    t.deepEqual(others, [])
    if (!opened || opened.to === 'green') return t.fail()
    t.regex(opened.to, /yellow|red/)
    const cleared = changesOf(clears, clearing).filter(
      ({ kind, entity }) => kind === opened.kind && entity.name === opened.entity.name,
    )
    t.deepEqual(cleared.map(({ to, entity }) => [to, entity]), [['green', opened.entity]]) // prettier-ignore
    const failed = { ...clearing, outcome: 'error' }
    if (clears.endsWith('.Operation')) t.deepEqual(changesOf(clears, failed), [])
    return undefined
  })

test('I6: a KMS that is away and the VM that locks for it are alarms until they are back, over a restart of vCenter', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await create(site)
  t.deepEqual(await site.vcenter.alarms.list(), [])
  await site.kms.stop()
  await site.hosts[0]?.restart()
  await site.vcenter.hosts.reconnect('esx-1')
  const open = ['host.needsEncryptionMode esx-1', 'keyProvider.unreachable kms-1', 'vm.locked db01']
  t.deepEqual(await kindsOf(site.vcenter), open)
  const locked = (await site.vcenter.alarms.list()).find(({ kind }) => kind === 'vm.locked')
  t.like(locked, { status: 'red', acknowledgedBy: null, entity: { type: 'vm', name: 'db01' } })
  t.regex(locked?.message ?? '', /\. (Wait|Check|Switch)/, 'it says the next step')

  const directory = path.join(site.directory, 'vcenter')
  await site.vcenter.close()
  const again = await VCenter.open({ directory })
  t.teardown(() => again.close())
  t.deepEqual(await kindsOf(again), open)
  const kms = await Kms.start({ directory: `${site.directory}/kms`, port: site.kms.endpoint.port })
  t.teardown(() => kms.stop())
  const [host] = site.hosts
  if (host) await again.hosts.connect(host)
  for (let turn = 0; turn < 600 && (await again.alarms.list()).length > 0; turn += 1) await pause(50)
  t.deepEqual(await kindsOf(again), [])
  t.is((await (await again.virtualMachines.get(vm.name)).info()).cryptoState, 'unlocked')
  const changes = (await again.events.list()).flatMap((event) =>
    event.id === 'vim.event.AlarmStatusChangedEvent' ? [event] : [],
  )
  t.true(changes.every(({ actor }) => actor === 'system'))
  t.is(changes.filter(({ details }) => details.to === 'green').length, open.length)
})

test('I6: acknowledging says who sees to it; clearing by hand is for what no event clears; each needs its privilege', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { alarms, hosts } = site.vcenter
  const hostKey = (await hosts.get('esx-1')).cryptoKeyId
  const client = await connectAsVCenter(site)
  await client.revoke(hostKey?.keyId ?? '', 'CessationOfOperation')
  await client.destroy(hostKey?.keyId ?? '')
  client.close()
  await create(site)
  await site.hosts[0]?.restart()
  await hosts.reconnect('esx-1')
  const name = { kind: 'host.hostKeyReplaced', entity: { type: 'host', name: 'esx-1' } } as const
  t.like(
    (await alarms.list()).find(({ kind }) => kind === name.kind),
    { status: 'yellow', ...name },
  )

  for (const [missing, act] of [
    ['Alarm.Acknowledge', 'acknowledge'],
    ['Alarm.SetStatus', 'clear'],
  ] as const) {
    const clerk = await userWith(
      site.vcenter,
      allPrivileges.filter((privilege) => privilege !== missing),
    )
    const error = await t.throwsAsync(async () => clerk.alarms[act](name), { code: 'VMSEAL_NO_PERMISSION' })
    t.is(isVmsealError(error) && error.details.privilege, missing)
  }
  const alice = await userWith(site.vcenter, allPrivileges)
  const heard: AlarmEvent[] = []
  const stop = new AbortController()
  const listening = (async () => {
    for await (const event of alice.alarms.subscribe({ signal: stop.signal }))
      if (heard.push(event) === 2) return
  })()
  await pause(20)
  t.is((await alice.alarms.acknowledge(name)).acknowledgedBy, alice.user)
  await t.throwsAsync(alarms.acknowledge(name), { code: 'VMSEAL_INVALID_STATE' })
  await alice.alarms.clear(name)
  for (const act of ['acknowledge', 'clear'] as const)
    await t.throwsAsync(async () => alarms[act](name), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(alarms.acknowledge({} as never), { code: 'VMSEAL_NOT_FOUND' })
  await listening
  stop.abort()
  t.deepEqual(heard.map(({ id, actor }) => [id, actor]), [
    ['vim.event.AlarmAcknowledgedEvent', alice.user],
    ['vim.event.AlarmStatusChangedEvent', alice.user],
  ]) // prettier-ignore
  t.true((await site.vcenter.events.verify()).ok)
})

test('I6: a VM that is taken out takes its alarms along; a repeated cause opens none twice', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await create(site)
  await site.vcenter.keyProviders.remove('kms-1')
  await site.hosts[0]?.restart()
  for (let turn = 0; turn < 3; turn += 1) await site.vcenter.hosts.reconnect('esx-1')
  await vm.info()
  t.is((await kindsOf(site.vcenter)).filter((name) => name === 'vm.locked db01').length, 1)
  await vm.unregister()
  t.false((await kindsOf(site.vcenter)).includes('vm.locked db01'))
})

test('I6: events that a vCenter which ended did not come to are considered by the next one', async (t) => {
  const site = await openSite(t, { hosts: [] })
  await site.vcenter.close()
  const directory = path.join(site.directory, 'vcenter')
  const store = openSqliteStore(path.join(directory, 'vcenter.db'))
  const details = { host: 'esx-9', error: 'VMSEAL_HOST_UNREACHABLE', message: 'away' }
  await store.events.append({ id: 'vim.event.HostConnectionLostEvent', time: '2026-01-01T00:00:00Z', actor: 'system', details }) // prettier-ignore
  await store.close()
  for (let turn = 0; turn < 2; turn += 1) {
    const vcenter = await VCenter.open({ directory })
    t.deepEqual(await kindsOf(vcenter), ['host.connection esx-9'])
    t.is(
      (await vcenter.events.list()).filter(({ id }) => id === 'vim.event.AlarmStatusChangedEvent').length,
      1,
    )
    await vcenter.close()
  }
})

test('I6: what many events of one moment open and clear is as if they had come one by one, and is read once', async (t) => {
  const store = openSqliteStore(':memory:')
  t.teardown(() => store.close())
  let reads = 0
  const table = { ...store.alarms, list: () => ((reads += 1), store.alarms.list()) }
  const now = () => new Date('2026-01-01T00:00:00.000Z')
  const events: EventLog = new EventLog(store.events, now, () => {}, (event) => alarms.consider(event)) // prettier-ignore
  const alarms = new Alarms(table, events, now)
  const names = Array.from({ length: 64 }, (_, index) => `vm-${index}`)
  const byName = (a: string, b: string): number => (a < b ? -1 : 1)
  const vmKeys = (vm: string) => ({ vm, host: 'esx-1', keys: [] })
  const lock = (vm: string) =>
    events.append('com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost', { ...vmKeys(vm), reasons: [] })
  await Promise.all([
    ...names.map(lock),
    // Of the first one all at the same moment: it ends locked.
    events.append('com.vmware.vc.vm.Crypto.VMUnlocked', vmKeys('vm-0')),
    lock('vm-0'),
    lock('vm-1'),
  ])
  t.is(reads, 1)
  const open = await store.alarms.list()
  t.deepEqual(open.map(({ entity }) => entity.name).toSorted(byName), names.toSorted(byName))
  t.is(open.find(({ entity }) => entity.name === 'vm-1')?.sequence, 67)
  const changes = (await events.list()).flatMap((event) =>
    event.id === 'vim.event.AlarmStatusChangedEvent' ? [event.details] : [],
  )
  t.is(changes.length, 66, 'the second lock of vm-1 changes no status')
  t.deepEqual(
    changes.filter(({ entity }) => entity.name === 'vm-0').map(({ from, to }) => `${from} ${to}`),
    ['green red', 'red green', 'green red'],
  )
  t.is(await store.alarms.getPosition(), 67)
  t.true((await events.verify()).ok)
})

test('I6: alarms that cannot be written down fail whoever tells of them, and the next ones do not', async (t) => {
  const store = openSqliteStore(':memory:')
  t.teardown(() => store.close())
  const full = new Error('the disk is full')
  let broken = true
  const open: typeof store.alarms.open = (alarm) => (broken ? Promise.reject(full) : store.alarms.open(alarm))
  const now = () => new Date()
  const events: EventLog = new EventLog(store.events, now, () => {}, (event) => alarms.consider(event)) // prettier-ignore
  const alarms = new Alarms({ ...store.alarms, open }, events, now)
  const lose = (host: string) =>
    events.append('vim.event.HostConnectionLostEvent', {
      host,
      error: 'VMSEAL_HOST_UNREACHABLE',
      message: '',
    })
  const outcomes = await Promise.allSettled([lose('a'), lose('b')])
  t.deepEqual(outcomes.map((outcome) => (outcome as PromiseRejectedResult).reason as unknown), [full, full]) // prettier-ignore
  broken = false
  await lose('c')
  t.deepEqual((await alarms.list()).map(({ entity }) => entity.name), ['c']) // prettier-ignore
})
