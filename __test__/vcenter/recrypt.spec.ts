/** Rows D1 to D6 of the feature table through vCenter: recrypt as a task. */
import { cp, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import { Kms, VCenter, type VirtualMachine } from '../../src/index.js'
import { filesWith, fingerprints } from './datastore-files.js'
import { connectAsVCenter } from './kms-view.js'
import { encryption, openSite, plain, type Site } from './site.js'

async function encryptedVm(site: Site) {
  const images = [await site.image('a'), await site.image('b')]
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: images.map(({ file }) => file), host: 'esx-1',
  }) // prettier-ignore
  const { homeKey } = await vm.info()
  if (!homeKey) throw new Error('the VM is not encrypted')
  site.seen('Create')
  const sameContents = async (why?: string): Promise<boolean> => {
    const digests = await Promise.all(images.map((_, index) => vm.digest(`scsi0:${index}`)))
    if (digests.every(({ sha256 }, index) => sha256 === images[index]?.sha256)) return true
    throw new Error(`the contents changed: ${why}`)
  }
  return { vm, key: homeKey, sameContents }
}

async function keyIds(vm: VirtualMachine): Promise<(string | undefined)[]> {
  const { homeKey, disks } = await vm.info()
  return [homeKey?.keyId, ...disks.map(({ key }) => key?.keyId)]
}

async function heldBy(site: Site): Promise<string[][]> {
  return Promise.all(site.hosts.map(async (host) => (await host.listKeys()).map(({ keyId }) => keyId)))
}

test('D1: shallow, while the VM is on: one new key for all, on every host; the old one leaves them', async (t) => {
  const site = await openSite(t)
  const { vm, key, sameContents } = await encryptedVm(site)
  await vm.powerOn()
  const before = await fingerprints(site.datastore)
  const info = await vm.recrypt({ depth: 'shallow' }).done
  t.is(info.powerState, 'poweredOn')
  t.is(site.seen('Create'), 1)
  const [newKey, ...others] = await keyIds(vm)
  t.true(newKey !== key.keyId && others.every((id) => id === newKey) && others.length === 2)
  const after = await fingerprints(site.datastore)
  for (const [name, sum] of Object.entries(before))
    if (/-flat\.vmdk$|\.nvram$/.test(name)) t.is(after[name], sum, name)
  t.deepEqual(await filesWith(site.datastore, key.keyId), [])
  t.true(await sameContents())
  for (const held of await heldBy(site)) t.true(held.includes(newKey!) && !held.includes(key.keyId))
  await vm.powerOff()
  await vm.powerOn({ host: 'esx-2' })
  t.true(await sameContents())
  const operations = site.events.filter(({ id }) => id === 'com.vmware.vc.crypto.Operation')
  t.like(operations.at(-1), { details: { operation: 'recrypt', outcome: 'success', vm: 'db01' } })
})

test('D2: deep: other KEK and DEKs; refused while on; the old files are refused afterwards, but for a new registration', async (t) => {
  const site = await openSite(t)
  const { vm, key, sameContents } = await encryptedVm(site)
  await vm.powerOn()
  site.seen('Create')
  await t.throwsAsync(vm.recrypt({ depth: 'deep' }).done, { code: 'VMSEAL_INVALID_POWER_STATE' })
  t.is(site.seen('Create'), 0, 'a refusal makes no key')
  await vm.powerOff()

  const folder = path.join(site.datastore, 'db01')
  const backup = path.join(site.directory, 'backup')
  await cp(folder, backup, { recursive: true })
  const before = await fingerprints(site.datastore)
  await vm.recrypt({ depth: 'deep' }).done
  const sums = new Set(Object.values(before))
  for (const [name, sum] of Object.entries(await fingerprints(site.datastore)))
    if (/-flat\.vmdk$|\.nvram$/.test(name)) t.false(sums.has(sum), name)
  t.true((await keyIds(vm)).every((id) => id !== undefined && id !== key.keyId))
  t.true(await sameContents())

  await rm(folder, { recursive: true })
  await cp(backup, folder, { recursive: true })
  await site.vcenter.keyProviders.keys.query([key])
  for (const attempt of [
    () => vm.info(),
    () => vm.powerOn(),
    () => vm.digest('scsi0:0'),
    () => vm.recrypt({ depth: 'deep' }).done,
  ])
    await t.throwsAsync(attempt(), { code: 'VMSEAL_ROLLBACK_DETECTED' })
  await vm.unregister()
  const again = await site.vcenter.virtualMachines.register({
    cluster: site.cluster,
    datastore: 'ds1',
    vmx: 'db01/db01.vmx',
  })
  t.like(
    site.events.find(({ id }) => id === 'vmseal.vm.crypto.RolledBack'),
    {
      details: { vm: 'db01', generations: { home: 1, 'scsi0:0': 1, 'scsi0:1': 1 } },
    },
  )
  await again.powerOn()
  t.deepEqual(new Set(await keyIds(again)), new Set([key.keyId]))
  await again.powerOff()
})

for (const depth of ['shallow', 'deep'] as const)
  test(`D5: ${depth} of one disk, of home only, of disks only, with a key of one's own`, async (t) => {
    const site = await openSite(t, { hosts: ['esx-1'] })
    const { vm, key, sameContents } = await encryptedVm(site)
    const old = key.keyId
    await vm.recrypt({ depth, home: false, disks: ['scsi0:1'] }).done
    const [, , one] = await keyIds(vm)
    t.deepEqual(await keyIds(vm), [old, old, one])
    await vm.recrypt({ depth, disks: false }).done
    const [home] = await keyIds(vm)
    t.deepEqual(await keyIds(vm), [home, old, one])
    t.is(new Set([home, old, one]).size, 3)
    t.true((await heldBy(site))[0]?.includes(old), 'a disk still needs it')
    await vm.recrypt({ depth, home: false }).done
    const [, both] = await keyIds(vm)
    t.deepEqual(await keyIds(vm), [home, both, both])
    t.false((await heldBy(site))[0]?.includes(old))
    site.seen('Create')
    const chosen = await site.vcenter.keyProviders.keys.create()
    t.is(site.seen('Create'), 1)
    await vm.recrypt({ depth, key: chosen.keyId }).done
    t.deepEqual(await keyIds(vm), Array(3).fill(chosen.keyId))
    t.is(site.seen('Create'), 0, 'no key is made where one is given')
    t.true(await sameContents())
    if (depth === 'deep') return
    const untouched = await fingerprints(site.datastore)
    await vm.recrypt({ depth, key: chosen.keyId }).done
    t.deepEqual(await fingerprints(site.datastore), untouched, 'it was so already')
  })

test('D6: to another provider; with the old KMS gone and the hosts restarted it opens', async (t) => {
  const site = await openSite(t)
  const { vm, sameContents } = await encryptedVm(site)
  const other = await Kms.start({ directory: path.join(site.directory, 'kms-2') })
  t.teardown(() => other.stop())
  await site.vcenter.keyProviders.add({
    id: 'kms-2',
    servers: [other.endpoint],
    credentials: await other.enrol('vcenter'),
  })
  const info = await vm.recrypt({ depth: 'shallow', keyProvider: 'kms-2' }).done
  t.deepEqual(
    [info.homeKey, ...info.disks.map(({ key }) => key)].map((key) => key?.providerId),
    Array(3).fill('kms-2'),
  )
  // The host keys, too, are of the old provider until they are changed.
  await site.vcenter.keyProviders.setDefault('kms-2')
  for (const { name } of site.hosts) await site.vcenter.hosts.changeHostKey(name)
  await site.kms.stop()
  for (const host of site.hosts) {
    await host.restart()
    await site.vcenter.hosts.connect(host)
  }
  await vm.powerOn()
  t.true(await sameContents())
  await vm.powerOff()
})

test('D5: refused by name before a key is made: nothing encrypted, plain disk, no disk, no provider, bad options', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm } = await encryptedVm(site)
  await vm.applyPolicy({ disks: { 'scsi0:1': plain } }).done
  const image = await site.image('c')
  const plainVm = await site.vcenter.virtualMachines.import({
    name: 'plain',
    cluster: site.cluster,
    datastore: 'ds1',
    disks: [image.file],
  })
  site.seen('Create')
  const before = await fingerprints(site.datastore)
  const refused = async (code: string, target: VirtualMachine, options: unknown): Promise<void> => {
    await t.throwsAsync(
      target.recrypt(options as Parameters<VirtualMachine['recrypt']>[0]).done,
      { code },
      JSON.stringify(options),
    )
  }
  for (const depth of ['shallow', 'deep']) {
    await refused('VMSEAL_INVALID_STATE', plainVm, { depth })
    await refused('VMSEAL_INVALID_STATE', vm, { depth, home: false, disks: false })
    await refused('VMSEAL_DISK_STATE', vm, { depth, disks: ['scsi0:1'] })
    await refused('VMSEAL_NOT_FOUND', vm, { depth, disks: ['scsi0:5'] })
    await refused('VMSEAL_KEY_PROVIDER_UNREACHABLE', vm, { depth, keyProvider: 'nobody' })
    await refused('VMSEAL_KEY_MISSING_IN_KMS', vm, { depth, key: 'no-such-key' })
    await refused('VMSEAL_INVALID_ARGUMENT', vm, { depth, disks: 'scsi0:0' })
  }
  await refused('VMSEAL_INVALID_ARGUMENT', vm, { depth: 'shallow', sectorSize: 4096 })
  await refused('VMSEAL_INVALID_ARGUMENT', vm, { depth: 'deep', sectorSize: 1024 })
  await refused('VMSEAL_INVALID_ARGUMENT', vm, { depth: 'halfway' })
  await refused('VMSEAL_INVALID_ARGUMENT', vm, {})
  t.is(site.seen('Create'), 0)
  t.deepEqual(await fingerprints(site.datastore), before)
  // With the KMS gone and the host restarted the old key cannot be had.
  await site.kms.stop()
  await site.hosts[0]?.restart()
  await refused('VMSEAL_ENCRYPTION_KEY_REQUIRED', vm, { depth: 'shallow' })
  t.deepEqual(await fingerprints(site.datastore), before)
})

test('D3: vCenter gone in the middle: its store names every key of the files again, and doing it again ends it', async (t) => {
  const site = await openSite(t)
  const { vm, key, sameContents } = await encryptedVm(site)
  // As a vCenter that is killed after the host began: the host is done with a part, the store knows nothing of it.
  const next = await site.vcenter.keyProviders.keys.create()
  await vm.addDisk({ capacityBytes: 1024 * 1024 }).done
  const { disks } = await vm.info()
  const [host] = site.hosts
  const pushed = await vm.recrypt({ depth: 'shallow', home: false, disks: [disks[0]!.device], key: next })
    .done
  t.is(pushed.disks[0]?.key?.keyId, next.keyId)
  await site.vcenter.close()
  const { datastore, vmx } = pushed
  await host!.reconfigureVirtualMachine(
    { datastore, vmx },
    { disks: [{ diskId: disks[1]!.diskId, crypto: { type: 'shallowRecrypt', newKey: next } }] },
  )
  for (const one of site.hosts) await one.restart()

  const vcenter = await VCenter.open({ directory: path.join(site.directory, 'vcenter') })
  t.teardown(() => vcenter.close())
  for (const one of site.hosts) await vcenter.hosts.connect(one)
  const found = await vcenter.virtualMachines.get('db01')
  t.deepEqual((await keyIds(found)).slice(0, 3), [key.keyId, next.keyId, next.keyId])
  await found.powerOn()
  await found.recrypt({ depth: 'shallow' }).done
  t.is(new Set(await keyIds(found)).size, 1)
  await found.powerOff()
  t.is(typeof sameContents, 'function')
})

test('D3: an interrupted recrypt whose new key is lost: both keys count, the old one unlocks, and it heals', async (t) => {
  const site = await openSite(t)
  const { vm, key, sameContents } = await encryptedVm(site)
  const vmx = path.join(site.datastore, 'db01', 'db01.vmx')
  const wrapOf = async (): Promise<string> =>
    /vmseal\.dek\.0 = "(.*)"/.exec(await readFile(vmx, 'utf8'))?.[1] ?? ''
  const oldWrap = await wrapOf()
  await vm.recrypt({ depth: 'shallow', disks: false }).done
  const text = await readFile(vmx, 'utf8')
  await writeFile(vmx, `${text}vmseal.dek.1 = "${oldWrap}"\n`)
  const half = await vm.info()
  t.deepEqual(half.formerKeys, [key])
  const [used] = await site.vcenter.keyProviders.keys.query([key])
  t.deepEqual(used?.virtualMachines, ['db01'])

  const client = await connectAsVCenter(site)
  await client.revoke(half.homeKey!.keyId, 'CessationOfOperation')
  await client.destroy(half.homeKey!.keyId)
  client.close()
  for (const host of site.hosts) {
    await host.restart()
    const { failed } = await site.vcenter.hosts.connect(host)
    t.deepEqual(failed.map((failure) => failure.key), [half.homeKey!]) // prettier-ignore
  }
  t.like(await vm.unlock(), { cryptoState: 'unlocked', missingKeys: [] })
  await vm.powerOn()
  const healed = await vm.recrypt({ depth: 'shallow' }).done
  t.is(healed.formerKeys, undefined)
  const ids = await keyIds(vm)
  t.true(new Set(ids).size === 1 && ![key.keyId, half.homeKey!.keyId].includes(ids[0]!))
  t.true(await sameContents())
  await vm.powerOff()
})

test('B9, C4, D4: on, with snapshots, or encrypted already: refused, and no key is made; shallow goes with snapshots', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, key } = await encryptedVm(site)
  const image = await site.image('c')
  const plainVm = await site.vcenter.virtualMachines.import({
    name: 'plain', cluster: site.cluster, datastore: 'ds1', disks: [image.file],
  }) // prettier-ignore
  const changes = [
    () => plainVm.applyPolicy({ home: encryption, disks: encryption }).done,
    () => vm.applyPolicy({ home: plain, disks: plain }).done,
    () => vm.recrypt({ depth: 'deep' }).done,
  ]
  site.seen('Create')
  for (const one of [vm, plainVm]) await one.powerOn()
  for (const change of changes) await t.throwsAsync(change(), { code: 'VMSEAL_INVALID_POWER_STATE' })
  for (const one of [vm, plainVm]) await one.powerOff()

  const before: string[] = []
  for (const name of ['db01', 'plain']) {
    const vmsd = path.join(site.datastore, name, `${name}.vmsd`)
    before.push(await readFile(vmsd, 'utf8'))
    await writeFile(vmsd, `${before.at(-1)}snapshot.numSnapshots = "1"\n`)
  }
  const untouched = await fingerprints(site.datastore)
  for (const change of changes) await t.throwsAsync(change(), { code: 'VMSEAL_SNAPSHOTS_EXIST' })
  t.deepEqual(await fingerprints(site.datastore), untouched)
  t.is(site.seen('Create'), 0)
  await vm.recrypt({ depth: 'shallow' }).done
  t.false((await keyIds(vm)).includes(key.keyId))

  // Encrypted already, which is what the policy asks for: nothing is done, and no key is made.
  site.seen('Create')
  const ids = await keyIds(vm)
  await vm.applyPolicy({ home: encryption, disks: encryption }).done
  t.deepEqual([await keyIds(vm), site.seen('Create')], [ids, 0])
})
