/** Rows E1 to E10, A11 and A12 of the feature table: when a VM locks, what it still allows, why, and how it unlocks. */
import test, { type ExecutionContext } from 'ava'
import { setTimeout as pause } from 'node:timers/promises'
import { Kms, type MissingKey, type VirtualMachine } from '../../src/index.js'
import { connectAsVCenter } from './kms-view.js'
import { encryption, openSite, plain, type Site } from './site.js'

function make(site: Site, name = 'db01', more: object = {}): Promise<VirtualMachine> {
  const { vcenter, cluster } = site
  return vcenter.virtualMachines.create({
    name, cluster, datastore: 'ds1', policy: encryption, disks: [{ capacityBytes: 2 ** 20 }], ...more,
  }) // prettier-ignore
}

async function homeKey(vm: VirtualMachine) {
  const key = (await vm.info()).homeKey
  if (!key) throw new Error('the set-up is not what the test needs')
  return key
}

/** The same KMS, on the same address. */
async function startAgain(t: ExecutionContext, site: Site): Promise<void> {
  const kms = await Kms.start({ directory: `${site.directory}/kms`, port: site.kms.endpoint.port })
  t.teardown(() => kms.stop())
}

async function until(t: ExecutionContext, what: string, holds: () => Promise<boolean>): Promise<void> {
  for (let turn = 0; turn < 400; turn += 1) {
    if (await holds()) return void t.pass(what)
    await pause(50)
  }
  t.fail(`${what}: it does not come`)
}

async function lose(site: Site, keyId: string, destroy = true): Promise<void> {
  const client = await connectAsVCenter(site)
  await client.revoke(keyId, 'CessationOfOperation')
  if (destroy) await client.destroy(keyId)
  client.close()
}

test('E1: the KMS down: a VM that runs goes on, and its host opens it again', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site)
  await vm.powerOn()
  const before = await vm.digest('scsi0:0')
  await site.kms.stop()
  t.deepEqual(await vm.digest('scsi0:0'), before)
  t.like(await vm.info(), { cryptoState: 'unlocked', powerState: 'poweredOn', missing: [] })
  await vm.powerOff()
  await vm.powerOn()
  t.deepEqual(await vm.digest('scsi0:0'), before)
  await t.throwsAsync(
    make(site, 'db02'),
    { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' },
    'what fails is a new key',
  )
})

test('E1: a VM that runs stays open when its key is taken from the host; it locks when it is off', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site)
  await vm.powerOn()
  await site.vcenter.keyProviders.keys.remove([await homeKey(vm)], { force: true })
  t.like(await vm.info(), { cryptoState: 'unlocked', powerState: 'poweredOn' })
  t.truthy((await vm.digest('scsi0:0')).sha256)
  await vm.powerOff()
  t.like(await vm.info(), { cryptoState: 'locked', powerState: 'poweredOff' })
})

for (const [onHost, obtainable] of [
  [true, true],
  [true, false],
  [false, true],
  [false, false],
] as const)
  test(`E2: key ${onHost ? '' : 'not '}on the host, ${obtainable ? '' : 'not '}to be had from the KMS: the VM ${onHost || obtainable ? 'opens' : 'is locked'}`, async (t) => {
    const site = await openSite(t, { hosts: ['esx-1'] })
    const vm = await make(site)
    const key = await homeKey(vm)
    if (!onHost) await site.hosts[0]?.removeKey(key)
    if (!obtainable) await site.kms.stop()
    if (onHost || obtainable) {
      t.is((await vm.powerOn()).powerState, 'poweredOn')
      return t.is((await vm.info()).cryptoState, 'unlocked')
    }
    await t.throwsAsync(vm.powerOn(), {
      code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
      message: /is locked on host/,
    })
    t.like(await vm.info(), { cryptoState: 'locked', powerState: 'poweredOff', connectionState: 'invalid' })
  })

test('E3, E9: a host that restarts: its VMs are locked until the keys are pushed, in that order', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site)
  await site.hosts[0]?.restart()
  await site.vcenter.hosts.reconnect('esx-1')
  t.deepEqual(
    site.events.map(({ id }) => id).filter((id) => /\.VM(Locked|Unlocked)|Crypto\.Enabled|KeyPushed/.test(id)).slice(-4),
    [
      'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost',
      'com.vmware.vc.host.Crypto.Enabled',
      'vmseal.host.crypto.KeyPushed',
      'com.vmware.vc.vm.Crypto.VMUnlocked',
    ],
  ) // prettier-ignore
  t.is((await vm.info()).cryptoState, 'unlocked')
})

test('E4: a locked VM refuses every operation but unregister, reload and unlock, each refusal typed', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site)
  const key = await homeKey(vm)
  await site.kms.stop()
  await site.hosts[0]?.restart()
  await site.vcenter.hosts.reconnect('esx-1')

  const { file } = await site.image('more')
  const operations: Record<string, () => Promise<unknown>> = {
    applyPolicy: () => vm.applyPolicy({ home: plain, disks: plain }).done,
    apply: () => vm.apply({ home: plain, disks: plain }).done,
    addDisk: () => vm.addDisk({ source: file }).done,
    attachDisk: () => vm.attachDisk({ file: 'db01/db01.vmdk' }).done,
    detachDisk: () => vm.detachDisk('scsi0:0'),
    recrypt: () => vm.recrypt({ depth: 'shallow' }).done,
    powerOn: () => vm.powerOn(),
    powerOff: () => vm.powerOff(),
    digest: () => vm.digest('scsi0:0'),
    readDisk: () => vm.readDisk('scsi0:0', 0, 512),
    resumeConversion: () => vm.resumeConversion().done,
    createSnapshot: () => vm.createSnapshot({ name: 'one' }).done,
    revertToSnapshot: () => vm.revertToSnapshot('one').done,
    removeSnapshot: () => vm.removeSnapshot('one').done,
    removeAllSnapshots: () => vm.removeAllSnapshots().done,
    consolidateDisks: () => vm.consolidateDisks().done,
    clone: () => vm.clone({ name: 'copy' }).done,
    migrate: () => vm.migrate({ host: 'esx-1' }).done,
    liveMigrate: () => vm.liveMigrate({ host: 'esx-1', memory: file, memoryTarget: `${file}.memory` }).done,
    setMigrateEncryption: () => vm.setMigrateEncryption('required'),
    relocate: () => vm.relocate({ datastore: 'ds2' }).done,
    export: () => vm.export({ to: `${file}.export` }).done,
    writeDisk: () => vm.writeDisk('scsi0:0', 0, Buffer.alloc(512)),
    destroy: () => vm.destroy(),
  }
  const allowed = new Set([
    'constructor',
    'info',
    'compliance',
    'snapshots',
    'reload',
    'unlock',
    'unregister',
  ])
  const methods = Object.getOwnPropertyNames(Object.getPrototypeOf(vm)).filter((name) => !allowed.has(name))
  t.deepEqual(methods.filter((name) => !operations[name]), [], 'an operation that this test does not try') // prettier-ignore
  for (const [name, operation] of Object.entries(operations)) {
    const error = await t.throwsAsync(operation(), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' }, name)
    const { requiredKeys, subject } =
      (error as { details?: { requiredKeys?: unknown; subject?: string } }).details ?? {}
    t.deepEqual(requiredKeys, [key], name)
    t.regex(subject ?? '', /^\[ds1\] db01\//, name)
  }
  t.is((await vm.reload()).cryptoState, 'locked')
  await t.throwsAsync(vm.unlock(), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  await vm.unregister()
  t.deepEqual(await site.vcenter.virtualMachines.list(), [])
})

test('E5: the key of a disk missing: the VM is whole, power-on fails naming the disk, and without the disk it starts', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, 'db01', {
    perDiskKeys: true,
    disks: [{ capacityBytes: 2 ** 20 }, { capacityBytes: 2 ** 20 }],
  })
  const { disks } = await vm.info()
  const key = disks[1]?.key
  if (!key) throw new Error('the set-up is not what the test needs')
  await lose(site, key.keyId)
  await site.hosts[0]?.restart()
  await site.vcenter.hosts.reconnect('esx-1')

  const info = await vm.info()
  t.like(info, { cryptoState: 'unlocked', connectionState: 'connected', missingKeys: [key] })
  t.like(info.missing[0], { key, parts: ['scsi0:1'], hop: 'keyMissing', code: 'VMSEAL_KEY_MISSING_IN_KMS' })
  await t.throwsAsync(vm.powerOn(), {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
    message: new RegExp(
      `The disk \\[ds1\\] db01/${disks[1]?.file} is encrypted and a required key was not found`,
    ),
  })
  t.truthy((await vm.digest('scsi0:0')).sha256)
  await vm.detachDisk('scsi0:1')
  t.deepEqual((await vm.powerOn()).disks.map(({ device }) => device), ['scsi0:0']) // prettier-ignore
  t.deepEqual((await vm.info()).missing, [])
})

test('E6: unlock: at once, with the provider unregistered, with the key not to be had; and an open VM needs nothing', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site)
  const key = await homeKey(vm)
  site.seen('Get')
  t.is((await vm.unlock()).cryptoState, 'unlocked')
  t.is(site.seen('Get'), 0)
  await site.hosts[0]?.removeKey(key)
  t.is((await vm.reload()).cryptoState, 'locked', 'reload looks, and fetches nothing')
  t.is((await vm.unlock()).cryptoState, 'unlocked')
  t.is(site.seen('Get'), 1)

  await site.hosts[0]?.removeKey(key)
  await site.vcenter.keyProviders.remove('kms-1')
  await t.throwsAsync(vm.unlock(), {
    code: 'VMSEAL_INVALID_STATE',
    message: /'kms-1', which is not registered/,
  })
  await site.vcenter.keyProviders.add({ id: 'kms-1', servers: site.kms.endpoint, credentials: site.credentials }) // prettier-ignore
  await lose(site, key.keyId)
  await t.throwsAsync(vm.unlock(), { code: 'VMSEAL_KEY_MISSING_IN_KMS' })
  t.is((await vm.info()).cryptoState, 'locked')
})

const causes: readonly {
  readonly name: string
  readonly hop: MissingKey['hop']
  readonly event: string
  readonly cause: (site: Site, keyId: string) => Promise<unknown>
}[] = [
  { name: 'the KMS does not answer', hop: 'kmsUnreachable', event: 'KMSClusterError', cause: (site) => site.kms.stop() },
  { name: 'the KMS lost the key', hop: 'keyMissing', event: 'KeyMissingOnKMS', cause: (site, id) => lose(site, id) },
  {
    name: 'the key is deactivated', hop: 'keyNotActive', event: 'KeyMissingOnKMS',
    cause: (site, id) => lose(site, id, false),
  },
  {
    name: 'the provider is not registered', hop: 'providerNotRegistered', event: 'KMSClusterError',
    cause: (site) => site.vcenter.keyProviders.remove('kms-1'),
  },
] // prettier-ignore

for (const { name, hop, event, cause } of causes)
  test(`E8, E10: ${name}: one reason in the VM and in the event: key, hop, since when, what to do`, async (t) => {
    const site = await openSite(t, { hosts: ['esx-1'] })
    const vm = await make(site)
    const key = await homeKey(vm)
    await cause(site, key.keyId)
    // The host stays safe: what is missing is the key of the VM.
    await site.hosts[0]?.removeKey(key)
    const begun = Date.now()
    await site.vcenter.hosts.reconnect('esx-1')
    const info = await vm.info()
    t.like(info, { cryptoState: 'locked', connectionState: 'invalid', missingKeys: [key] })
    t.is(info.missing.length, 1)
    t.like(info.missing[0], { key, hop, parts: ['home', 'scsi0:0'] })
    t.true(Date.parse(info.missing[0]?.since ?? '') >= begun)
    t.regex(info.missing[0]?.action ?? '', /\w{4}/)
    t.regex(info.missing[0]?.message ?? '', /\w{4}/)
    const told = site.events.filter(({ id }) => id.includes('.VMLocked.'))
    t.deepEqual(told.map(({ id }) => id.split('.').at(-1)), ['KeyMissingOnHost', event]) // prettier-ignore
    t.deepEqual((told[1]?.details as { reasons?: unknown } | undefined)?.reasons, info.missing)
    // Asked again, it is the same reason since the same time, and no second event.
    await site.vcenter.hosts.reconnect('esx-1')
    t.deepEqual((await vm.info()).missing, info.missing)
    t.is(site.events.filter(({ id }) => id.includes('.VMLocked.')).length, 2)
  })

test('E8: a key that was never asked for is missing on the host, and nowhere else', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site)
  const key = await homeKey(vm)
  await site.hosts[0]?.removeKey(key)
  t.like((await vm.info()).missing[0], { key, hop: 'hostCache' })
  const event = site.events.find(({ id }) => id === 'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost')
  t.like(event?.details, { vm: 'db01', host: 'esx-1', keys: [key] })
})

test('E9: the KMS comes back: the VM unlocks without a call, and the retries end', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site)
  await site.kms.stop()
  await site.hosts[0]?.restart()
  const sync = await site.vcenter.hosts.reconnect('esx-1')
  t.deepEqual(sync.locked, ['db01'])
  await startAgain(t, site)
  await until(t, 'unlocked', async () => (await vm.info()).cryptoState === 'unlocked')
  t.is((await site.vcenter.hosts.get('esx-1')).cryptoState, 'safe')
  t.deepEqual((await vm.info()).missing, [])
})

test('E9: a restart that nobody told vCenter of: looking at the VM is enough', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site)
  await site.hosts[0]?.restart()
  t.is((await vm.info()).cryptoState, 'locked')
  await until(t, 'unlocked', async () => (await vm.info()).cryptoState === 'unlocked')
})

test('E9: the provider is added again under its id: the VM unlocks without a call', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site)
  await site.vcenter.keyProviders.remove('kms-1')
  await site.hosts[0]?.removeKey(await homeKey(vm))
  await site.vcenter.hosts.reconnect('esx-1')
  t.is((await vm.info()).missing[0]?.hop, 'providerNotRegistered')
  await site.vcenter.keyProviders.add({ id: 'kms-1', servers: site.kms.endpoint, credentials: site.credentials }) // prettier-ignore
  await until(t, 'unlocked', async () => (await vm.info()).cryptoState === 'unlocked')
})

test('A12: the key cache of a host can be looked at: before and after a push, a removal and a restart', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1', 'esx-2'] })
  const { keys } = site.vcenter.keyProviders
  const hostsOf = async (key: { keyId: string; providerId: string }) => (await keys.query([key]))[0]?.hosts
  const key = await keys.create()
  t.deepEqual(await hostsOf(key), [])
  await make(site, 'db01', { homeKeyId: key })
  t.deepEqual(await hostsOf(key), ['esx-1', 'esx-2'])
  t.true((await site.hosts[0]?.listKeys())?.some(({ keyId }) => keyId === key.keyId))
  await site.hosts[1]?.removeKey(key)
  t.deepEqual(await hostsOf(key), ['esx-1'])
  await site.hosts[0]?.restart()
  t.deepEqual(await hostsOf(key), [])
  await site.vcenter.hosts.reconnect('esx-1')
  t.deepEqual(await hostsOf(key), ['esx-1'])
})
