/** Row F5: while a host leaves encryption mode no VM comes to it, and one that is on its way keeps it in. */
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { Host } from '../../src/index.js'
import { encryption, openSite, type Site } from './site.js'
import { addThrough } from './tampered-host.js'

const place = { cluster: 'prod', datastore: 'ds1', policy: encryption, disks: [] }

/** A host of which one operation does something else first. */
async function hostThat(
  t: ExecutionContext,
  site: Site,
  name: string,
  operation: string,
  first: () => Promise<void>,
): Promise<Host> {
  let done = false
  const host = await addThrough(t, site, name, async (method, act) => {
    if (method === operation && !done) {
      done = true
      await first()
    }
    return act()
  })
  await site.vcenter.hosts.configureCryptoKey(name)
  return host
}

test('F5: a VM that is made while a host leaves encryption mode goes to another host; one that names it is refused', async (t) => {
  const site = await openSite(t, { hosts: ['esx-2'] })
  const { vcenter } = site
  const moving = await vcenter.virtualMachines.create({ ...place, name: 'old' })
  const running = await vcenter.virtualMachines.create({ ...place, name: 'running' })
  await running.powerOn()
  const seen: string[] = []
  await hostThat(t, site, 'esx-1', 'removeKey', async () => {
    site.seen('Create')
    const named = { ...place, name: 'named', host: 'esx-1' }
    const refusals = [
      () => vcenter.virtualMachines.create(named),
      () => vcenter.virtualMachines.create({ ...named, policy: 'Datastore Default' }),
      () => moving.migrate({ host: 'esx-1' }).done,
      () => running.liveMigrate({ host: 'esx-1', memory: '/dev/null', memoryTarget: '/dev/null' }).done,
      () => moving.clone({ name: 'copy', host: 'esx-1' }).done,
    ]
    for (const act of refusals) await t.throwsAsync(act(), { code: 'VMSEAL_INVALID_STATE', message: /esx-1/ })
    t.is(site.seen('Create'), 0, 'refused before a key is made')
    const vm = await vcenter.virtualMachines.create({ ...place, name: 'new' })
    seen.push((await vm.info()).host ?? '')
  })
  await vcenter.hosts.disableEncryption('esx-1')
  t.deepEqual(seen, ['esx-2'])
  t.is((await vcenter.hosts.get('esx-1')).cryptoState, 'pendingIncapable')
  const later = await vcenter.virtualMachines.create({ ...place, name: 'later' })
  t.is((await later.info()).host, 'esx-2', 'nor does a VM go to one that waits for its restart')
  for (const vm of await vcenter.virtualMachines.list()) t.is((await vm.info()).cryptoState, 'unlocked')
})

test('F5: a host does not leave encryption mode while a VM is on its way to it, and keeps its keys', async (t) => {
  const site = await openSite(t, { hosts: ['esx-2'] })
  const { vcenter } = site
  const host = await hostThat(t, site, 'esx-1', 'createVirtualMachine', async () => {
    await t.throwsAsync(vcenter.hosts.disableEncryption('esx-1'), {
      code: 'VMSEAL_INVALID_STATE',
      message: /VirtualMachines\.create of new/,
    })
  })
  const vm = await vcenter.virtualMachines.create({ ...place, name: 'new', host: 'esx-1' })
  t.like(await vm.info(), { host: 'esx-1', cryptoState: 'unlocked' })
  t.deepEqual(await host.listKeys(), [(await vm.info()).homeKey])
  t.is((await vcenter.hosts.get('esx-1')).cryptoState, 'safe')
})

test('F5: nor while a VM that runs is on its way to it', async (t) => {
  const site = await openSite(t, { hosts: ['esx-2'] })
  const { vcenter } = site
  const vm = await vcenter.virtualMachines.create({ ...place, name: 'running' })
  await vm.powerOn()
  const memory = path.join(site.directory, 'memory')
  await writeFile(memory, randomBytes(4096))
  await hostThat(t, site, 'esx-1', 'prepareMigration', async () => {
    await t.throwsAsync(vcenter.hosts.disableEncryption('esx-1'), {
      code: 'VMSEAL_INVALID_STATE',
      message: /VirtualMachine\.liveMigrate of running/,
    })
  })
  const wish = { host: 'esx-1', memory, memoryTarget: `${memory}.in` }
  t.like(await vm.liveMigrate(wish).done, { host: 'esx-1', powerState: 'poweredOn', cryptoState: 'unlocked' })
})

test('F5: a VM of the host that is encrypted while its keys are being taken keeps the host in, with its keys', async (t) => {
  const site = await openSite(t, { hosts: ['esx-2'] })
  const { vcenter } = site
  const other = await vcenter.virtualMachines.create({ ...place, name: 'other' })
  const host = await hostThat(t, site, 'esx-1', 'removeKey', async () => {
    await (await vcenter.virtualMachines.get('plain')).applyPolicy({ home: encryption }).done
  })
  const spec = { ...place, name: 'plain', host: 'esx-1', policy: 'Datastore Default' }
  const vm = await vcenter.virtualMachines.create(spec)
  await t.throwsAsync(vcenter.hosts.disableEncryption('esx-1'), {
    code: 'VMSEAL_INVALID_STATE',
    message: /plain/,
  })
  t.like(await vm.info(), { host: 'esx-1', cryptoState: 'unlocked' })
  t.is((await vcenter.hosts.get('esx-1')).cryptoState, 'safe')
  const held = new Set((await host.listKeys()).map(({ keyId }) => keyId))
  for (const each of [vm, other]) t.true(held.has((await each.info()).homeKey?.keyId ?? ''))
  await vm.migrate({ host: 'esx-2' }).done
  await vm.migrate({ host: 'esx-1' }).done
  t.is((await vm.powerOn()).powerState, 'poweredOn')
})
