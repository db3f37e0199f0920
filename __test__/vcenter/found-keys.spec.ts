/** Keys that a vCenter finds in the files of a VM: a host went on for an earlier one that ended. Found by the simulation. */
import { rename } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { VCenter, type CryptoKeyId, type Host } from '../../src/index.js'
import type { Store, VmRecord } from '../../src/store/store.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { encryption, openSite } from './site.js'

/** A VM on esx-1 whose vCenter ended: `change` makes of its store what that vCenter leaves, and esx-2 lacks the key. */
async function leftBehind(
  t: ExecutionContext,
  change: (store: Store, record: VmRecord, key: CryptoKeyId) => Promise<unknown>,
) {
  const site = await openSite(t)
  const { vcenter, cluster } = site
  const [first, second] = site.hosts as [Host, Host]
  const vm = await vcenter.virtualMachines.create({
    name: 'db01', cluster, host: 'esx-1', datastore: 'ds1', policy: encryption, disks: [],
  }) // prettier-ignore
  const key = (await vm.info()).homeKey
  await vcenter.close()
  const directory = path.join(site.directory, 'vcenter')
  const store = openSqliteStore(path.join(directory, 'vcenter.db'))
  const record = await store.virtualMachines.findByName('db01')
  if (!key || !record) throw new Error('the set-up is not what the test needs')
  await change(store, record, key)
  await store.close()
  await second.removeKey(key)
  const again = await VCenter.open({ directory })
  t.teardown(() => again.close())
  const isServed = async (): Promise<void> => {
    await again.hosts.connect(first)
    t.deepEqual((await (await again.virtualMachines.get('db01')).info()).homeKey, key)
    for (let turn = 0; turn < 600 && (await second.listKeys()).length === 0; turn += 1) await sleep(50)
    t.deepEqual(await second.listKeys(), [key])
  }
  return { again, second, home: path.join(site.datastore, path.dirname(record.vmx)), isServed }
}

test('F6: a key that only the files name, because vCenter ended before it noted it, reaches hosts that were up to date', async (t) => {
  // It ended while the host encrypted the VM, and had reached only that host with the key.
  const { again, second, isServed } = await leftBehind(t, async ({ virtualMachines }, record) =>
    t.true(await virtualMachines.update({ ...record, homeKey: null, homeGeneration: null })),
  )
  t.deepEqual((await again.hosts.connect(second)).pushed, [], 'nobody knows of the key yet')
  await isServed()
})

test('F6: the keys of a VM that a host made for a vCenter that ended reach hosts that were up to date', async (t) => {
  // Its request reached the host after it had ended.
  const { again, second, home, isServed } = await leftBehind(t, async (store, record, key) => {
    const { id: vmId, clusterId, datastore, vmx, homePolicyId } = record
    await store.vmIntents.begin({
      kind: 'create', vmId, clusterId, datastore, vmx, keys: [key], homePolicyId, diskPolicyIds: {},
      beganAt: new Date().toISOString(),
    }) // prettier-ignore
    await store.virtualMachines.remove(vmId)
  })
  await rename(home, `${home}-to-come`)
  t.deepEqual((await again.hosts.connect(second)).pushed, [], 'no file names the key yet')
  await rename(`${home}-to-come`, home)
  await isServed()
})
