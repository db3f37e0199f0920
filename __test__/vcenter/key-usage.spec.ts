/** Rows G5 and M5 of the feature table: who needs a key, down to the file, and that a key which anything needs is never destroyed. */
import { cp, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { isVmsealError, type VirtualMachine } from '../../src/index.js'
import { connectAsVCenter } from './kms-view.js'
import { encryption, openSite, plain, type Site } from './site.js'

async function make(site: Site, name: string, more: object = {}): Promise<VirtualMachine> {
  return site.vcenter.virtualMachines.create({
    name, cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [{ capacityBytes: 4096 }], ...more,
  }) // prettier-ignore
}

test('G5: a key in view: parts of VMs, hosts that hold it, whose host key it is, and every file that names it', async (t) => {
  const site = await openSite(t)
  const { vcenter } = site
  const { keys } = vcenter.keyProviders
  const shared = await keys.create()
  const vm = await make(site, 'db01', { homeKeyId: shared, disks: [{ capacityBytes: 4096, keyId: shared }] })
  await make(site, 'db02', {
    disks: [
      { capacityBytes: 4096, policy: plain },
      { capacityBytes: 4096, keyId: shared },
    ],
  })
  const [usage] = await keys.usage([shared])
  t.deepEqual(usage, {
    key: shared,
    parts: [
      { virtualMachine: 'db01', part: 'home' },
      { virtualMachine: 'db01', part: 'scsi0:0' },
      { virtualMachine: 'db02', part: 'scsi0:1' },
    ],
    hostKeyOf: [],
    heldBy: ['esx-1', 'esx-2'],
    files: [
      '[ds1] db01/db01.vmdk',
      '[ds1] db01/db01.vmdk.vmseal',
      '[ds1] db01/db01.vmx',
      '[ds1] db02/db02_1.vmdk',
      '[ds1] db02/db02_1.vmdk.vmseal',
    ],
  })
  const hostKey = (await vcenter.hosts.get('esx-1')).cryptoKeyId
  if (!hostKey) return t.fail()
  t.like((await keys.usage([hostKey]))[0], { parts: [], hostKeyOf: ['esx-1'], files: [] })
  t.like((await keys.usage(['nobody']))[0], { parts: [], hostKeyOf: [], heldBy: [], files: [] })
  await vm.detachDisk('scsi0:0')
  await vm.unregister()
  const [after] = await keys.usage([shared])
  t.deepEqual(after?.parts, [{ virtualMachine: 'db02', part: 'scsi0:1' }])
  t.is(after?.files.length, usage?.files.length, 'the files stay, and name it')
})

test('M5: a key that only a file names is in the report with the file, and is not destroyed', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { keys } = site.vcenter.keyProviders
  const vm = await make(site, 'db01', { perDiskKeys: true })
  const key = (await vm.info()).disks[0]?.key
  if (!key) return t.fail()
  await vm.detachDisk('scsi0:0')
  await site.hosts[0]?.removeKey(key)
  const orphan = await keys.create()
  const report = await keys.unused('kms-1')
  t.deepEqual(report.find((entry) => entry.key.keyId === key.keyId)?.files, [
    '[ds1] db01/db01.vmdk',
    '[ds1] db01/db01.vmdk.vmseal',
  ])
  t.is(report.find((entry) => entry.key.keyId === orphan.keyId)?.files, undefined)
  await t.throwsAsync(keys.destroyUnused('kms-1', [orphan.keyId, key.keyId]), {
    code: 'VMSEAL_INVALID_STATE',
    message: /db01\.vmdk/,
  })
  t.false(site.operations.includes('Destroy'), 'nor the other one')
  const broken = path.join(site.datastore, 'db01', 'strange.vmx')
  await writeFile(broken, 'no .vmx "at all')
  await t.throwsAsync(keys.destroyUnused('kms-1', [orphan.keyId]), {
    code: 'VMSEAL_INVALID_STATE',
    message: /strange/,
  })
  await rm(broken)
  t.deepEqual(await keys.destroyUnused('kms-1', [orphan.keyId]), [orphan.keyId])
  t.is((await vm.attachDisk({ file: 'db01/db01.vmdk', policy: encryption }).done).disks.length, 1)
})

test('M5: after any history, destroying all that is reported destroys no key that anything needs', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter, datastore } = site
  const { keys } = vcenter.keyProviders
  const step = fc.record({
    act: fc.constantFrom(
      'make',
      'recrypt',
      'detach',
      'unregister',
      'destroy',
      'decrypt',
      'copy',
      'spare',
      'sweep',
    ),
    pick: fc.nat(9),
  })
  let [made, swept, refusedSweeps] = [0, 0, 0]
  for (const { act, pick } of fc.sample(step, { numRuns: 60, seed: 5 })) {
    const machines = await vcenter.virtualMachines.list()
    const vm = machines[pick % Math.max(machines.length, 1)]
    const disk = vm && (await vm.info()).disks[0]
    if (act === 'make' && machines.length < 6)
      await make(site, `vm-${(made += 1)}`, { perDiskKeys: pick % 2 === 0 })
    else if (act === 'spare') await keys.create()
    else if (act === 'sweep') {
      // What no VM uses is taken from the host, so that nothing but the files stands up for it.
      for (const key of (await site.hosts[0]?.listKeys()) ?? [])
        await keys
          .remove([key])
          .catch((error: unknown) => t.true(isVmsealError(error, 'VMSEAL_INVALID_STATE')))
      for (const { key, files } of await keys.unused('kms-1')) {
        const outcome = await keys.destroyUnused('kms-1', [key.keyId]).catch((error: unknown) => error)
        if (files) t.true(isVmsealError(outcome, 'VMSEAL_INVALID_STATE'))
        else t.deepEqual(outcome, [key.keyId])
        if (files) refusedSweeps += 1
        else swept += 1
      }
    } else if (!vm) continue
    else if (act === 'recrypt' && (await vm.info()).homeKey)
      await vm.recrypt({ depth: pick % 2 ? 'deep' : 'shallow' }).done
    else if (act === 'detach' && disk) await vm.detachDisk(disk.device)
    else if (act === 'unregister') await vm.unregister()
    else if (act === 'destroy') await vm.destroy()
    else if (act === 'decrypt') await vm.applyPolicy({ home: plain, disks: plain }).done
    else if (act === 'copy')
      await cp(path.join(datastore, vm.name), path.join(datastore, `copy of ${vm.name} ${(made += 1)}`), {
        recursive: true,
      })
  }
  t.true(swept > 3 && refusedSweeps > 0, `${swept} ${refusedSweeps}`)
  // Every key that the inventory or a file names can still be had.
  const client = await connectAsVCenter(site)
  const named = (await site.hosts[0]?.findKeys('ds1'))?.found ?? []
  t.true(named.length > 0)
  for (const { files, key } of named) {
    const [state] = await client.getAttributes(key.keyId, ['State'])
    t.is(state?.value as string, 'Active', files.join())
  }
  client.close()
  for (const vm of await vcenter.virtualMachines.list()) t.is((await vm.info()).cryptoState, 'unlocked')
})
