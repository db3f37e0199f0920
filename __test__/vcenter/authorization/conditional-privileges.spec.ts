/**
 * Privileges that an operation asks for only when what it has to do calls for them. Every one that the table names has a case here: the
 * operation without it is refused by its name, no key is made, and no byte changes.
 */
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Host, isVmsealError, type VCenterSession, type VirtualMachine } from '../../../src/index.js'
import { operationTable } from '../../../src/vcenter/authorization/operation-table.js'
import { allPrivileges, type Privilege } from '../../../src/vcenter/authorization/privileges.js'
import { fingerprints } from '../datastore-files.js'
import { encryption, openSite, plain, type Site } from '../site.js'
import { userWith } from './users.js'

type Act = (session: VCenterSession) => Promise<unknown>

const all = { home: encryption, disks: encryption }
const none = { home: plain, disks: plain }
const place = { cluster: 'prod', datastore: 'ds1' }
/** A host that is not in encryption mode. */
const off = { host: 'esx-off' }
const live = { ...off, memory: '/dev/null', memoryTarget: '/dev/null' }
const on = (name: string, act: (vm: VirtualMachine) => Promise<unknown>): Act => {
  return async (session) => act(await session.virtualMachines.get(name))
}
const ofDisk = { 'Cryptographer.Access': on('sealed', (vm) => vm.digest('scsi0:0')) }
const ofPolicy = (act: Act) => ({ 'Cryptographer.ManageEncryptionPolicy': act })
const made = (act: 'create' | 'import') => {
  const spec = { ...place, name: 'new', policy: encryption, disks: [] }
  return {
    'Cryptographer.EncryptNew': (({ virtualMachines }) => virtualMachines[act](spec)) satisfies Act,
    'Cryptographer.RegisterHost': (({ virtualMachines }) =>
      virtualMachines[act]({ ...spec, ...off })) satisfies Act,
  }
}

const cases: Readonly<Record<string, Partial<Record<Privilege, Act>>>> = {
  'VirtualMachine.applyPolicy': {
    'Cryptographer.Encrypt': on('plain', (vm) => vm.applyPolicy(all).done),
    'Cryptographer.Decrypt': on('sealed', (vm) => vm.applyPolicy(none).done),
    'Cryptographer.RegisterHost': on('plain', (vm) => vm.applyPolicy(all, off).done),
  },
  'VirtualMachine.apply': {
    'Cryptographer.Encrypt': on('plain', (vm) => vm.apply(all).done),
    'Cryptographer.Decrypt': on('sealed', (vm) => vm.apply(none).done),
    'Cryptographer.Recrypt': on('sealed', (vm) => vm.apply({ keyProvider: 'kms-2' }).done),
    'Cryptographer.RegisterHost': on('plain', (vm) => vm.apply(all, off).done),
  },
  'VirtualMachine.resumeConversion': {
    'Cryptographer.Encrypt': on('encrypting', (vm) => vm.resumeConversion().done),
    'Cryptographer.Decrypt': on('decrypting', (vm) => vm.resumeConversion().done),
    'Cryptographer.Recrypt': on('recrypting', (vm) => vm.resumeConversion().done),
  },
  'VirtualMachine.addDisk': {
    'Cryptographer.EncryptNew': on('sealed', (vm) => vm.addDisk({ capacityBytes: 4096 }).done),
    'Cryptographer.RegisterHost': on('sealed', (vm) => vm.addDisk({ capacityBytes: 4096 }, off).done),
  },
  'VirtualMachine.attachDisk': {
    'Cryptographer.AddDisk': on('sealed', (vm) => vm.attachDisk({ file: 'sealed/sealed_1.vmdk', policy: encryption }).done), // prettier-ignore
    // Its key is on no host any more.
    'Cryptographer.RegisterVM': on('sealed', (vm) => vm.attachDisk({ file: 'old/old_1.vmdk', policy: encryption }).done), // prettier-ignore
  },
  'VirtualMachine.digest': ofDisk,
  'VirtualMachine.readDisk': { 'Cryptographer.Access': on('sealed', (vm) => vm.readDisk('scsi0:0', 0, 512)) },
  'VirtualMachine.writeDisk': {
    'Cryptographer.Access': on('sealed', (vm) => vm.writeDisk('scsi0:0', 0, Buffer.alloc(512))),
  },
  'VirtualMachine.relocate': {
    'Datastore.AllocateSpace': on('sealed', (vm) => vm.relocate({ datastore: 'ds1' }).done),
    'Cryptographer.Migrate': on('sealed', (vm) => vm.relocate({ datastore: 'ds1' }).done),
  },
  'VirtualMachine.export': {
    'Cryptographer.Access': on('sealed', (vm) => vm.export({ to: `${exported}-2` }).done),
    'Cryptographer.RegisterHost': on('away', (vm) => vm.export({ to: `${exported}-2` }).done),
  },
  'VirtualMachine.migrate': {
    'Cryptographer.Migrate': on('sealed', (vm) => vm.migrate(off).done),
    'Cryptographer.RegisterHost': on('sealed', (vm) => vm.migrate(off).done),
  },
  'VirtualMachine.liveMigrate': {
    'Cryptographer.Migrate': on('running', (vm) => vm.liveMigrate(live).done),
    'Cryptographer.RegisterHost': on('running', (vm) => vm.liveMigrate(live).done),
  },
  'VirtualMachine.clone': {
    'VirtualMachine.Inventory.CreateFromExisting': on('plain', (vm) => vm.clone({ name: 'new' }).done),
    'Datastore.AllocateSpace': on('plain', (vm) => vm.clone({ name: 'new' }).done),
    'Cryptographer.Clone': on('sealed', (vm) => vm.clone({ name: 'new' }).done),
    'Cryptographer.Encrypt': on('plain', (vm) => vm.clone({ name: 'new', policy: all }).done),
    'Cryptographer.Decrypt': on('sealed', (vm) => vm.clone({ name: 'new', policy: none }).done),
    'Cryptographer.Recrypt': on('sealed', (vm) => vm.clone({ name: 'new', keys: 'new' }).done),
    'Cryptographer.RegisterHost': on('sealed', (vm) => vm.clone({ name: 'new', ...off }).done),
  },
  'VirtualMachines.create': made('create'),
  'VirtualMachines.import': made('import'),
  'VirtualMachines.restore': {
    'Cryptographer.RegisterVM': ({ virtualMachines }) => virtualMachines.restore(restored()),
    'Cryptographer.EncryptNew': ({ virtualMachines }) => virtualMachines.restore(restored()),
    'Cryptographer.RegisterHost': ({ virtualMachines }) => virtualMachines.restore({ ...restored(), ...off }),
  },
  // Nothing is refused here: the VM stays locked. See below.
  'VirtualMachines.register': { 'Cryptographer.RegisterVM': async () => {} },
  'Cluster.addHost': {
    'Cryptographer.RegisterHost': async ({ clusters }) => (await clusters.get('prod')).addHost(late as Host),
  },
  'StoragePolicies.create': ofPolicy(({ storagePolicies }) => storagePolicies.create({ name: 'x', encryption: true })), // prettier-ignore
  'StoragePolicies.clone': ofPolicy(({ storagePolicies }) => storagePolicies.clone(encryption, 'x')),
  'StoragePolicies.update': ofPolicy(({ storagePolicies }) => storagePolicies.update('own', { name: 'x' })),
  'StoragePolicies.remove': ofPolicy(({ storagePolicies }) => storagePolicies.remove('own')),
  'Tasks.cancel': {
    'Global.CancelTask': ({ tasks }) => tasks.cancel(task),
  },
}

let late: Host | undefined
let task = ''
/** A folder of the host. */
let exported = ''
const restored = () => ({ ...place, from: exported, name: 'new' })

test.serial(
  'I2: every privilege that an operation asks for on the way has a case here, and no other has',
  (t) => {
    const named = (rows: Readonly<Record<string, readonly string[]>>) =>
      Object.entries(rows).flatMap(([operation, ids]) => ids.map((id) => `${operation} ${id}`))
    const table = [...operationTable.values()].flatMap(({ name, rows }) =>
      Object.entries(rows).map(([method, { within }]) => [`${name}.${method}`, within] as const),
    )
    const own = Object.entries(cases).map(([operation, acts]) => [operation, Object.keys(acts)] as const)
    t.deepEqual(named(Object.fromEntries(own)).toSorted(), named(Object.fromEntries(table)).toSorted())
  },
)

test.serial(
  'I2: each privilege that an operation asks for on the way, taken away: refused by name, no key is made, no byte changes',
  async (t) => {
    const site = await prepared(t)
    const { vcenter } = site
    const stateOf = async () => ({
      files: await fingerprints(site.datastore),
      keys: site.operations.filter((operation) => operation === 'Create').length,
      policies: await vcenter.storagePolicies.list(),
      vms: await vcenter.virtualMachines.search(),
      hosts: await vcenter.hosts.list(),
    })
    const before = await stateOf()
    for (const [operation, acts] of Object.entries(cases))
      for (const [privilege, act] of Object.entries(acts)) {
        if (operation === 'VirtualMachines.register') continue
        const others = allPrivileges.filter((other) => other !== privilege)
        const error = await act(await userWith(vcenter, others)).then(
          () => undefined,
          (reason: unknown) => reason,
        )
        const what = `${operation} without ${privilege}`
        if (!isVmsealError(error)) throw new Error(`${what} came to ${String(error)}`)
        t.is(error.code, 'VMSEAL_NO_PERMISSION', `${what}: ${error.message}`)
        t.is(error.details.privilege, privilege, what)
        t.deepEqual(await stateOf(), before, what)
      }
  },
)

test.serial(
  'I2, E11: registered without Cryptographer.RegisterVM a VM stays locked: no key is fetched, no byte changes',
  async (t) => {
    const site = await prepared(t)
    const { vcenter, hosts } = site
    await (await vcenter.virtualMachines.get('sealed')).unregister()
    for (const host of hosts) for (const key of await host.listKeys()) await host.removeKey(key)
    const files = await fingerprints(site.datastore)
    site.seen('Get')
    const session = await userWith(
      vcenter,
      allPrivileges.filter((other) => other !== 'Cryptographer.RegisterVM'),
    )
    const vm = await session.virtualMachines.register({ ...place, vmx: 'sealed/sealed.vmx', host: 'esx-1' })
    t.is((await vm.info()).cryptoState, 'locked')
    t.is(site.seen('Get'), 0)
    t.deepEqual(await fingerprints(site.datastore), files)
  },
)

/** VMs in every state that the cases want; `esx-off` is not safe, and whoever made them may not make it so. */
async function prepared(t: ExecutionContext): Promise<Site> {
  const site = await openSite(t, { hosts: [] })
  const { vcenter, cluster } = site
  const start = async (name: string) => {
    const host = await Host.start({ name, datastores: { ds1: site.datastore } })
    t.teardown(() => host.stop())
    return host
  }
  const worker = await start('esx-1')
  await cluster.addHost(inConversion(worker))
  await vcenter.hosts.configureCryptoKey('esx-1')
  await cluster.addHost(await start('esx-off'))
  late = await start('esx-late')
  await vcenter.keyProviders.add({ id: 'kms-2', servers: [site.kms.endpoint], credentials: site.credentials })
  await vcenter.storagePolicies.clone(encryption, 'own')
  const maker = await userWith(
    vcenter,
    allPrivileges.filter((other) => other !== 'Cryptographer.RegisterHost'),
  )
  const disks = [{ capacityBytes: 4096 }, { capacityBytes: 4096 }]
  for (const [name, policy] of [
    ['sealed', encryption],
    ['old', encryption],
    ['plain', plain],
    ['encrypting', encryption],
    ['decrypting', encryption],
    ['recrypting', encryption],
    ['running', encryption],
  ] as const)
    await maker.virtualMachines.create({ ...place, name, policy, disks, host: 'esx-1' })
  for (const name of ['sealed', 'old']) await (await vcenter.virtualMachines.get(name)).detachDisk('scsi0:1')
  await (await vcenter.virtualMachines.get('running')).powerOn()
  const old = await vcenter.virtualMachines.get('old')
  const { homeKey } = await old.info()
  await old.unregister()
  if (homeKey) await worker.removeKey(homeKey)
  await maker.virtualMachines.create({ ...place, name: 'away', ...off, disks: [] })
  exported = path.join(site.directory, 'export')
  await (await vcenter.virtualMachines.get('sealed')).export({ to: exported }).done
  const held = vcenter.tasks.start({
    name: 'test.hold',
    entity: 'nothing',
    lane: 'hold',
    run: ({ signal }) => new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve())),
  })
  task = held.id
  t.is((await vcenter.hosts.get('esx-off')).cryptoState, 'incapable')
  return { ...site, hosts: [worker] }
}

/** A host that finds a conversion unfinished in VMs that are called so. */
function inConversion(host: Host): Host {
  const modes = { encrypting: 'encrypt', decrypting: 'decrypt', recrypting: 'recrypt' } as const
  return new Proxy(host, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      if (name !== 'readVirtualMachine') return value.bind(target) as unknown
      return async (...values: Parameters<Host['readVirtualMachine']>) => {
        const config = await target.readVirtualMachine(...values)
        const mode = modes[config.name as keyof typeof modes]
        if (mode === undefined) return config
        const conversion = { mode, doneBytes: 0, totalBytes: 4096 }
        return { ...config, disks: config.disks.map((disk) => ({ ...disk, conversion })) }
      }
    },
  })
}
