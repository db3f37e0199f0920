/** Keys that a vCenter finds in the files of a VM: a host went on for an earlier one that ended. Found by the simulation. */
import { rename } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { VCenter, type Host } from '../../src/index.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { encryption, openSite } from './site.js'

test('F6: a key that only the files name, because vCenter ended before it noted it, reaches hosts that were up to date', async (t) => {
  const site = await openSite(t)
  const { vcenter, cluster, hosts } = site
  const [first, second] = hosts as [Host, Host]
  const vm = await vcenter.virtualMachines.create({
    name: 'db01', cluster, host: 'esx-1', datastore: 'ds1', policy: encryption, disks: [],
  }) // prettier-ignore
  const key = (await vm.info()).homeKey
  if (!key) throw new Error('the set-up is not what the test needs')
  await vcenter.close()
  // As a vCenter leaves it that ended while the host encrypted the VM, and had reached only that host with the key.
  const directory = path.join(site.directory, 'vcenter')
  const store = openSqliteStore(path.join(directory, 'vcenter.db'))
  const record = await store.virtualMachines.findByName('db01')
  if (!record) throw new Error('the set-up is not what the test needs')
  t.true(await store.virtualMachines.update({ ...record, homeKey: null, homeGeneration: null }))
  await store.close()
  await second.removeKey(key)

  const again = await VCenter.open({ directory })
  t.teardown(() => again.close())
  t.deepEqual((await again.hosts.connect(second)).pushed, [], 'nobody knows of the key yet')
  await again.hosts.connect(first)
  t.deepEqual((await (await again.virtualMachines.get('db01')).info()).homeKey, key)
  for (let turn = 0; turn < 600 && (await second.listKeys()).length === 0; turn += 1) await sleep(50)
  t.deepEqual(await second.listKeys(), [key])
})

test('F6: the keys of a VM that a host made for a vCenter that ended reach hosts that were up to date', async (t) => {
  const site = await openSite(t)
  const { vcenter, cluster, hosts } = site
  const [first, second] = hosts as [Host, Host]
  const vm = await vcenter.virtualMachines.create({
    name: 'db01', cluster, host: 'esx-1', datastore: 'ds1', policy: encryption, disks: [],
  }) // prettier-ignore
  const { homeKey: key, datastore, vmx } = await vm.info()
  if (!key) throw new Error('the set-up is not what the test needs')
  await vcenter.close()
  // As a vCenter leaves it whose request reached the host after it had ended.
  const directory = path.join(site.directory, 'vcenter')
  const store = openSqliteStore(path.join(directory, 'vcenter.db'))
  const record = await store.virtualMachines.findByName('db01')
  if (!record) throw new Error('the set-up is not what the test needs')
  const { id: vmId, clusterId, homePolicyId } = record
  const kind = 'create' as const
  const beganAt = new Date().toISOString()
  await store.vmIntents.begin({
    kind, vmId, clusterId, datastore, vmx, keys: [key], homePolicyId, diskPolicyIds: {}, beganAt,
  }) // prettier-ignore
  await store.virtualMachines.remove(vmId)
  await store.close()
  await second.removeKey(key)

  const again = await VCenter.open({ directory })
  t.teardown(() => again.close())
  const home = path.join(site.datastore, path.dirname(vmx))
  await rename(home, `${home}-to-come`)
  t.deepEqual((await again.hosts.connect(second)).pushed, [], 'no file names the key yet')
  await rename(`${home}-to-come`, home)
  await again.hosts.connect(first)
  t.deepEqual((await (await again.virtualMachines.get('db01')).info()).homeKey, key)
  for (let turn = 0; turn < 600 && (await second.listKeys()).length === 0; turn += 1) await sleep(50)
  t.deepEqual(await second.listKeys(), [key])
})
