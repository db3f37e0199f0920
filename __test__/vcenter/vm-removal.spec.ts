/** A VM whose files are removed while the disk under them fails. */
import { existsSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { VmsealError, type VirtualMachine } from '../../src/index.js'
import { encryption, openSite, type Site } from './site.js'
import { addThrough } from './tampered-host.js'

function makeVm({ vcenter, cluster }: Site): Promise<VirtualMachine> {
  return vcenter.virtualMachines.create({
    name: 'db01', cluster, datastore: 'ds1', policy: encryption, disks: [{ capacityBytes: 65536 }],
  }) // prettier-ignore
}

/** Nobody asks for it: vCenter comes back to it by itself. */
async function untilGone({ vcenter }: Site): Promise<number> {
  for (let turn = 0; turn < 600 && (await vcenter.virtualMachines.list()).length > 0; turn += 1)
    await sleep(50)
  return (await vcenter.virtualMachines.list()).length
}

test('a destruction that failed half-way is finished when the disk works again, without a restart', async (t) => {
  const site = await openSite(t)
  const vm = await makeVm(site)
  const folder = path.join(site.datastore, 'db01')
  // No call can unlink it.
  const obstacle = path.join(folder, 'db01.vmsd')
  await rm(obstacle, { force: true })
  await mkdir(obstacle)
  await t.throwsAsync(vm.destroy(), { code: 'VMSEAL_IO' })
  t.false(existsSync(path.join(folder, 'db01.vmx')), 'a part of it is gone')
  await rm(obstacle, { recursive: true })
  t.is(await untilGone(site), 0)
  t.false(existsSync(folder))
})

test('so is one that a full disk stopped half-way', async (t) => {
  const site = await openSite(t, { hosts: [] })
  let isFull = true
  await addThrough(t, site, 'esx-1', async (method, act) => {
    if (method !== 'destroyVirtualMachine' || !isFull) return act()
    isFull = false
    await rm(path.join(site.datastore, 'db01', 'db01.vmx'))
    throw new VmsealError('VMSEAL_NO_SPACE')
  })
  const vm = await makeVm(site)
  await t.throwsAsync(vm.destroy(), { code: 'VMSEAL_NO_SPACE' })
  t.is(await untilGone(site), 0)
})

test('a destruction that failed before anything was removed leaves the VM whole', async (t) => {
  const site = await openSite(t)
  const vm = await makeVm(site)
  const obstacle = path.join(site.datastore, 'db01', 'db01.vmseal-task')
  await mkdir(path.join(obstacle, 'full'), { recursive: true })
  await t.throwsAsync(vm.destroy())
  await rm(obstacle, { recursive: true })
  await site.vcenter.hosts.reconnect('esx-1')
  t.is((await vm.info()).connectionState, 'connected')
  t.is((await vm.powerOn()).powerState, 'poweredOn')
})
