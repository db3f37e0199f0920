/**
 * vCenter killed before each write of its store, and before and after each request to a host, in the middle of an
 * operation; then another one on what was durable at that moment. The host and the KMS go on, as other machines do.
 */
import test, { type ExecutionContext } from 'ava'
import { cp, mkdir } from 'node:fs/promises'
import path from 'node:path'
import { Host, VCenter, type HostApi } from '../../src/index.js'
import { SqliteDatabase } from '../../src/store/sqlite-database.js'
import { connectAsVCenter } from './kms-view.js'
import { encryption, openSite, plain, type Site } from './site.js'
import { through } from './tampered-host.js'

/** Counts the steps of the vCenter that is armed, and at one of them ends it: nothing of it gets through any more. */
class Killer {
  armed: SqliteDatabase | undefined
  steps = 0
  last = Infinity
  readonly dead = new Error('killed')

  step(): void {
    this.steps += 1
    if (this.steps > this.last) throw this.dead
  }

  /** The host as vCenter reaches it: a request has a step before it, and one before its answer. */
  reach(host: Host): HostApi {
    return through(host, async (_, act) => {
      if (this.armed) this.step()
      const answer = await act()
      if (this.armed) this.step()
      return answer
    })
  }
}

/** The killer of the sweep that is running; the sweeps of this file run one after another. */
let killer = new Killer()
const { run, transaction } = SqliteDatabase.prototype
SqliteDatabase.prototype.run = function (...values) {
  if (killer.armed === this && !inTransaction.has(this)) killer.step()
  return run.apply(this, values)
}
const inTransaction = new Set<SqliteDatabase>()
SqliteDatabase.prototype.transaction = function <Result>(work: () => Result): Result {
  if (killer.armed === this) killer.step()
  inTransaction.add(this)
  try {
    return transaction.call(this, work) as Result
  } finally {
    inTransaction.delete(this)
  }
}
let opened: SqliteDatabase | undefined
const open = SqliteDatabase.open
SqliteDatabase.open = (file, migrations) => {
  const database = open.call(SqliteDatabase, file, migrations)
  if (file.endsWith('vcenter.db')) opened = database
  return database
}

async function openVCenter(
  directory: string,
  host: HostApi,
): Promise<{ vcenter: VCenter; database: SqliteDatabase }> {
  const vcenter = await VCenter.open({ directory })
  const database = opened
  await vcenter.hosts.connect(host)
  if (!database) throw new Error('the set-up is not what the test needs')
  return { vcenter, database }
}

type Act = (vcenter: VCenter, name: string, host: Host) => Promise<unknown>

/** Kills `act` at each of its steps, or at every `stride`th; returns how many there are. */
async function sweep(
  t: ExecutionContext,
  prepare: Act,
  act: Act,
  again: Act,
  stride = 1,
  /** VMs that a registration begins with, or ends without, have files and are not in the inventory. */
  mayBeOutside = false,
): Promise<number> {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const [host] = site.hosts
  if (!host) throw new Error('the set-up is not what the test needs')
  await site.vcenter.close()
  let from = path.join(site.directory, 'vcenter')
  for (let last = 0; ; last += stride) {
    const name = `vm-${last}`
    killer = new Killer()
    const first = await openVCenter(from, killer.reach(host))
    await prepare(first.vcenter, name, host)
    killer.armed = first.database
    killer.last = last
    const outcome = await act(first.vcenter, name, host).then(
      () => 'done' as const,
      (error: unknown) => error,
    )
    if (outcome === 'done' && killer.steps <= last) {
      killer.armed = undefined
      await first.vcenter.close()
      return killer.steps
    }
    const next = path.join(site.directory, `vcenter-${last}`)
    await mkdir(next)
    await cp(from, next, { recursive: true, filter: (file) => !file.endsWith('.lock') })
    await first.vcenter.close().catch(() => {})
    killer.armed = undefined
    from = next

    const second = await openVCenter(next, host)
    try {
      await verify(t, site, second.vcenter, host, `killed at step ${last}`, mayBeOutside)
      await again(second.vcenter, name, host)
      await verify(t, site, second.vcenter, host, `killed at step ${last}, done again`, mayBeOutside)
    } finally {
      await second.vcenter.close()
    }
  }
}

async function verify(
  t: ExecutionContext,
  site: Site,
  vcenter: VCenter,
  host: Host,
  when: string,
  mayBeOutside: boolean,
): Promise<void> {
  const tasks = await vcenter.tasks.list()
  t.deepEqual(tasks.filter(({ state }) => state === 'queued' || state === 'running'), [], when) // prettier-ignore

  const files = await host.findVirtualMachines('ds1')
  const vms = await vcenter.virtualMachines.list()
  const [known, there] = [vms.map((vm) => `${vm.name}/${vm.name}.vmx`), files.map(({ vmx }) => vmx)]
  if (mayBeOutside)
    t.deepEqual(known.filter((vmx) => !there.includes(vmx)), [], when) // prettier-ignore
  else t.deepEqual(known.toSorted(), there.toSorted(), when)
  const used = new Set<string | undefined>()
  for (const vm of vms) {
    const info = await vm.info()
    const { homeKey, disks, vmId } = await host.readVirtualMachine(info)
    t.is(info.id, vmId, when)
    t.deepEqual([info.homeKey, ...info.disks.map(({ key }) => key)], [homeKey, ...disks.map(({ key }) => key)], when) // prettier-ignore
    t.is(info.cryptoState, 'unlocked', when)
    for (const key of [homeKey, ...disks.map(({ key: disk }) => disk)]) used.add(key?.keyId)
  }
  const { cryptoKeyId } = await host.identify()
  t.deepEqual((await vcenter.hosts.get('esx-1')).cryptoKeyId, cryptoKeyId, when)
  used.add(cryptoKeyId?.keyId)

  // A key at the KMS is used, held by a host, waits for the next task that needs one, or is in the report.
  const { keys } = vcenter.keyProviders
  const reported = new Set((await keys.unused('kms-1')).map(({ key }) => key.keyId))
  const inView = new Set([...reported, ...used, ...(await keys.list()).map(({ keyId }) => keyId)])
  const spare = await (await vcenter.keyProviders.open('kms-1')).unusedCreations()
  const client = await connectAsVCenter(site)
  const orphans = (await client.locate()).filter((id) => !inView.has(id))
  client.close()
  t.true(orphans.length <= spare, `${when}: ${orphans.length} keys that nobody knows of`)
  for (const id of used) t.false(reported.has(id ?? ''), `${when}: a key in use is reported as unused`)
}

async function make(vcenter: VCenter, name: string, policy?: string): Promise<unknown> {
  const spec = { name, cluster: 'prod', datastore: 'ds1', disks: [{ capacityBytes: 512 * 1024 }] }
  return vcenter.virtualMachines.create(policy === undefined ? spec : { ...spec, policy })
}

async function exists(vcenter: VCenter, name: string): Promise<boolean> {
  return (await vcenter.virtualMachines.list()).some((vm) => vm.name === name)
}

const nothing: Act = async () => {}
const makePlain: Act = (vcenter, name) => make(vcenter, name)
const makeEncrypted: Act = (vcenter, name) => make(vcenter, name, encryption)

test.serial('killed in the middle of a creation', async (t) => {
  const steps = await sweep(t, nothing, (vcenter, name) => make(vcenter, name, encryption), async (vcenter, name) => {
    if (!(await exists(vcenter, name))) await make(vcenter, name, encryption)
  }) // prettier-ignore
  t.true(steps > 15, `${steps} steps`)
})

test.serial('killed in the middle of an encryption', async (t) => {
  const encrypt: Act = async (vcenter, name) =>
    (await vcenter.virtualMachines.get(name)).applyPolicy({ home: encryption, disks: encryption }).done
  const steps = await sweep(t, makePlain, encrypt, encrypt)
  t.true(steps > 15, `${steps} steps`)
})

test.serial(
  'B8: killed in the middle of an encryption, a deep recrypt and a decryption in place',
  async (t) => {
    const inPlace = { conversion: 'inPlace' } as const
    const apply =
      (policy: string): Act =>
      async (vcenter, name) =>
        (await vcenter.virtualMachines.get(name)).applyPolicy({ home: policy, disks: policy }, inPlace).done
    const recrypt: Act = async (vcenter, name) =>
      (await vcenter.virtualMachines.get(name)).recrypt({ depth: 'deep', ...inPlace }).done
    const sealed: Act = (vcenter, name) => make(vcenter, name, encryption)
    for (const [prepare, act, stride] of [
      [makePlain, apply(encryption), 2],
      [sealed, recrypt, 3],
      [sealed, apply(plain), 3],
    ] as const) {
      const steps = await sweep(t, prepare, act, act, stride)
      t.true(steps > 10, `${steps} steps`)
    }
  },
)

test.serial('killed in the middle of a removal', async (t) => {
  const destroy: Act = async (vcenter, name) => (await vcenter.virtualMachines.get(name)).destroy()
  const steps = await sweep(
    t,
    (vcenter, name) => make(vcenter, name, encryption),
    destroy,
    async (vcenter, name, host) => {
      if (await exists(vcenter, name)) await destroy(vcenter, name, host)
    },
  )
  t.true(steps > 8, `${steps} steps`)
})

test.serial('killed in the middle of a change of the host key', async (t) => {
  const change: Act = (vcenter) => vcenter.hosts.changeHostKey('esx-1')
  const steps = await sweep(t, nothing, change, change)
  t.true(steps > 8, `${steps} steps`)
})

test.serial('killed in the middle of a decryption', async (t) => {
  const decrypt: Act = async (vcenter, name) =>
    (await vcenter.virtualMachines.get(name)).applyPolicy({ home: plain, disks: plain }).done
  const steps = await sweep(t, makeEncrypted, decrypt, decrypt)
  t.true(steps > 8, `${steps} steps`)
})

test.serial('killed in the middle of a shallow recrypt', async (t) => {
  const recrypt: Act = async (vcenter, name) =>
    (await vcenter.virtualMachines.get(name)).recrypt({ depth: 'shallow' }).done
  const steps = await sweep(t, makeEncrypted, recrypt, recrypt)
  t.true(steps > 15, `${steps} steps`)
})

test.serial('killed while a disk is taken out', async (t) => {
  const detach: Act = async (vcenter, name) => {
    const vm = await vcenter.virtualMachines.get(name)
    const [disk] = (await vm.info()).disks
    if (disk) await vm.detachDisk(disk.device)
  }
  const steps = await sweep(t, makeEncrypted, detach, detach)
  t.true(steps > 6, `${steps} steps`)
})

test.serial('killed in the middle of a deep recrypt', async (t) => {
  const recrypt: Act = async (vcenter, name) =>
    (await vcenter.virtualMachines.get(name)).recrypt({ depth: 'deep' }).done
  const steps = await sweep(t, makeEncrypted, recrypt, recrypt, 3)
  t.true(steps > 15, `${steps} steps`)
})

test.serial('killed while a disk is added: it is there with its key, or nothing of it is', async (t) => {
  const add: Act = async (vcenter, name) =>
    (await vcenter.virtualMachines.get(name)).addDisk({ capacityBytes: 512 * 1024, policy: encryption }).done
  const addIfMissing: Act = async (vcenter, name, host) => {
    const vm = await vcenter.virtualMachines.get(name)
    if ((await vm.info()).disks.length === 1) await add(vcenter, name, host)
    const { disks } = await vm.info()
    t.deepEqual(disks.map(({ device, key }) => [device, key !== undefined]), [['scsi0:0', true], ['scsi0:1', true]]) // prettier-ignore
  }
  const steps = await sweep(t, makeEncrypted, add, addIfMissing, 2)
  t.true(steps > 10, `${steps} steps`)
})

test.serial(
  'killed in the middle of an unlock: the keys are on the host and the VM is unlocked',
  async (t) => {
    const lock: Act = async (vcenter, name, host) => {
      await makeEncrypted(vcenter, name, host)
      const vm = await vcenter.virtualMachines.get(name)
      for (const key of await host.listKeys()) await host.removeKey(key)
      t.is((await host.readVirtualMachine(await vm.info())).cryptoState, 'locked')
    }
    const unlock: Act = async (vcenter, name) => (await vcenter.virtualMachines.get(name)).unlock()
    const steps = await sweep(t, lock, unlock, unlock)
    t.true(steps > 3, `${steps} steps`)
  },
)

const register: Act = (vcenter, name) =>
  vcenter.virtualMachines.register({ cluster: 'prod', datastore: 'ds1', vmx: `${name}/${name}.vmx` })
const unregister: Act = async (vcenter, name) => (await vcenter.virtualMachines.get(name)).unregister()

test.serial(
  'killed in the middle of a registration: the VM is in the inventory, whole, or not at all',
  async (t) => {
    const leave: Act = async (vcenter, name, host) => {
      await makeEncrypted(vcenter, name, host)
      await unregister(vcenter, name, host)
    }
    const registerIfMissing: Act = async (vcenter, name, host) => {
      if (!(await exists(vcenter, name))) await register(vcenter, name, host)
      t.is((await (await vcenter.virtualMachines.get(name)).info()).cryptoState, 'unlocked')
    }
    const steps = await sweep(t, leave, register, registerIfMissing, 1, true)
    t.true(steps > 5, `${steps} steps`)
  },
)

test.serial(
  'killed in the middle of an unregistration: the VM is in the inventory, whole, or not at all; its files stay',
  async (t) => {
    const unregisterIfThere: Act = async (vcenter, name, host) => {
      if (await exists(vcenter, name)) await unregister(vcenter, name, host)
      t.true((await host.findVirtualMachines('ds1')).some(({ vmx }) => vmx === `${name}/${name}.vmx`))
      t.false(await exists(vcenter, name))
      // And nothing stands in the way of taking it in again.
      await register(vcenter, name, host)
    }
    const steps = await sweep(t, makeEncrypted, unregister, unregisterIfThere, 1, true)
    t.true(steps > 2, `${steps} steps`)
  },
)
