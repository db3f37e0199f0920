/** Rows B11 and B13 of the feature table: which disk may become one of which VM, and what a detached one keeps. */
import { cp, readFile } from 'node:fs/promises'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { VirtualMachine } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { filesWith, fingerprints } from './datastore-files.js'
import { encryption, openSite, plain, type Site } from './site.js'

/** A VM with one disk that holds an image; its home has `home`, its disk `disk` as policy. */
async function make(site: Site, name: string, home = encryption, disk = home) {
  const image = await site.image(name)
  const vm = await site.vcenter.virtualMachines.import({
    name, cluster: site.cluster, datastore: 'ds1', policy: home, disks: [{ source: image.file, policy: disk }],
  }) // prettier-ignore
  site.seen('Create')
  return { vm, sha256: image.sha256 }
}

async function refusedUntouched(
  t: ExecutionContext,
  site: Site,
  code: string,
  act: () => Promise<unknown>,
): Promise<void> {
  const before = await fingerprints(site.datastore)
  await t.throwsAsync(act, { code })
  t.deepEqual(await fingerprints(site.datastore), before)
  t.is(site.seen('Create'), 0)
}

const keyOf = async (vm: VirtualMachine, disk: number) => (await vm.info()).disks[disk]?.key

test('B13: a detached disk keeps its key id in its file and loses its policy; it comes back with one only', async (t) => {
  const site = await openSite(t)
  const { vm, sha256 } = await make(site, 'db01')
  const key = await keyOf(vm, 0)
  await vm.detachDisk('scsi0:0')
  t.deepEqual((await vm.info()).disks, [])
  const descriptor = await readFile(path.join(site.datastore, 'db01', 'db01.vmdk'), 'utf8')
  const jwe = /vmseal\.dek\.0\s*=\s*"([^"]+)"/.exec(descriptor)?.[1] ?? ''
  const header = JSON.parse(Buffer.from(jwe.split('.')[0] ?? '', 'base64url').toString()) as { kid?: string }
  t.is(header.kid ?? '', key?.keyId ?? '-', 'the file names the key')
  const seen = await site.hosts[0]?.describeDisk('ds1', 'db01/db01.vmdk')
  t.deepEqual(seen?.key, key)
  t.is(seen?.attachedTo, undefined)

  for (const policy of [undefined, plain])
    await refusedUntouched(t, site, 'VMSEAL_POLICY_NOT_ENCRYPTION', () => {
      return vm.attachDisk({ file: 'db01/db01.vmdk', ...(policy && { policy }) }).done
    })
  const before = await fingerprints(site.datastore)
  const info = await vm.attachDisk({ file: '[ds1] db01/db01.vmdk', policy: encryption }).done
  t.deepEqual(info.disks.map((disk) => [disk.policy, disk.key]), [[encryption, key]]) // prettier-ignore
  t.is(site.seen('Create'), 0, 'its key is the one it had')
  const after = await fingerprints(site.datastore)
  for (const file of ['db01/db01.vmdk', 'db01/db01-flat.vmdk'])
    t.is(after[file], before[file], 'it stays where it is')
  t.is((await vm.digest('scsi0:0', { host: 'esx-2' })).sha256, sha256)
  t.is((await vm.powerOn()).powerState, 'poweredOn')
})

test('B11: a new disk of an encrypted VM is encrypted by default, and plain when that is asked for', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm } = await make(site, 'db01')
  const encrypted = await vm.addDisk({ capacityBytes: 2 ** 20 }).done
  t.truthy(encrypted.disks[1]?.key)
  t.is(site.seen('Create'), 1)
  const both = await vm.addDisk({ capacityBytes: 2 ** 20, policy: plain }).done
  t.is(both.disks[2]?.key, undefined)
  t.is(site.seen('Create'), 0)
})

test('B11: an existing plain disk is attached plain, and refused with an encryption policy', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm: owner, sha256 } = await make(site, 'old', plain)
  await owner.detachDisk('scsi0:0')
  for (const home of [encryption, plain]) {
    const { vm } = await make(site, home === plain ? 'plain' : 'sealed', home)
    await refusedUntouched(t, site, 'VMSEAL_DISK_STATE', () => {
      return vm.attachDisk({ file: 'old/old.vmdk', policy: encryption }).done
    })
    const info = await vm.attachDisk({ file: 'old/old.vmdk' }).done
    t.like(info.disks[1], { policy: plain, device: 'scsi0:1' })
    t.is(info.disks[1]?.key, undefined)
    t.is((await vm.digest('scsi0:1')).sha256, sha256)
  }
  t.is(site.seen('Create'), 0)
  const sealed = await site.vcenter.virtualMachines.get('sealed')
  t.truthy((await sealed.applyPolicy({ disks: { 'scsi0:1': encryption } }).done).disks[1]?.key)
  t.is((await sealed.digest('scsi0:1')).sha256, sha256)
})

test('B11: an encrypted disk of another VM is attached under its key, and bound to the new VM by a DEK of its own', async (t) => {
  const site = await openSite(t)
  const { vm: owner, sha256 } = await make(site, 'old')
  const key = await keyOf(owner, 0)
  await owner.detachDisk('scsi0:0')
  if (key) await site.hosts[1]?.removeKey(key)
  const { vm } = await make(site, 'db01')
  const info = await vm.attachDisk({ file: 'old/old.vmdk', policy: encryption }).done
  t.is(site.seen('Create'), 0)
  t.deepEqual(info.disks[1]?.key, key, 'another key than that of the VM')
  for (const host of site.hosts)
    t.true(
      (await host.listKeys()).some(({ keyId }) => keyId === key?.keyId),
      `${host.name} can run it`,
    )
  t.notDeepEqual(info.homeKey, key)
  t.is(info.disks[1]?.policy, encryption)
  const prints = await fingerprints(site.datastore)
  t.not(prints['old/old-flat.vmdk'], prints[`db01/${info.disks[1]?.file.replace('.vmdk', '-flat.vmdk')}`])
  t.deepEqual(await filesWith(site.datastore, 'this text is in plain sight'), [])
  // Neither needs the other: what one guest writes the other does not see, and files of one do not open in the other.
  await owner.destroy()
  t.is((await vm.digest('scsi0:1', { host: 'esx-2' })).sha256, sha256)
  t.is((await vm.powerOn()).powerState, 'poweredOn')
})

test('B11: an encrypted disk under the same key as the VM is attached too', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, sha256 } = await make(site, 'db01')
  const key = await keyOf(vm, 0)
  const image = await site.image('other')
  const other = await site.vcenter.virtualMachines.import({
    name: 'other', cluster: site.cluster, datastore: 'ds1', policy: encryption,
    ...(key && { homeKeyId: key.keyId }), disks: [{ source: image.file, ...(key && { keyId: key.keyId }) }],
  }) // prettier-ignore
  await other.detachDisk('scsi0:0')
  const info = await vm.attachDisk({ file: 'other/other.vmdk', policy: encryption }).done
  t.deepEqual(new Set(info.disks.map((disk) => disk.key?.keyId)), new Set([key?.keyId]))
  t.is((await vm.digest('scsi0:0')).sha256, sha256)
  t.is((await vm.digest('scsi0:1')).sha256, image.sha256)
})

test('B11: an encrypted disk is refused by a plain VM, and without its key', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm: owner } = await make(site, 'old')
  const key = await keyOf(owner, 0)
  await owner.detachDisk('scsi0:0')
  const { vm: plainVm } = await make(site, 'plain', plain)
  const file = 'old/old.vmdk'
  await refusedUntouched(t, site, 'VMSEAL_ENCRYPTION_MISMATCH', () => {
    return plainVm.attachDisk({ file, policy: encryption }).done
  })
  const { vm } = await make(site, 'db01')
  await owner.unregister()
  if (!key) return t.fail()
  await site.vcenter.keyProviders.keys.remove([key])
  await site.kms.stop()
  await refusedUntouched(t, site, 'VMSEAL_ENCRYPTION_KEY_REQUIRED', () => {
    return vm.attachDisk({ file, policy: encryption }).done
  })
})

test('B11: attaching needs AddDisk for an encrypted disk, and RegisterVM if its key has to be fetched', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm: owner } = await make(site, 'old')
  const key = await keyOf(owner, 0)
  await owner.detachDisk('scsi0:0')
  await owner.unregister()
  const { vm } = await make(site, 'db01')
  const as = async (missing: string) => {
    const privileges = allPrivileges.filter((privilege) => privilege !== missing)
    return (await userWith(site.vcenter, privileges)).virtualMachines.get('db01')
  }
  const spec = { file: 'old/old.vmdk', policy: encryption }
  for (const missing of ['Cryptographer.AddDisk', 'VirtualMachine.Config.AddExistingDisk']) {
    const clerk = await as(missing)
    await refusedUntouched(t, site, 'VMSEAL_NO_PERMISSION', () => clerk.attachDisk(spec).done)
  }
  if (!key) return t.fail()
  await site.vcenter.keyProviders.keys.remove([key])
  const clerk = await as('Cryptographer.RegisterVM')
  await refusedUntouched(t, site, 'VMSEAL_NO_PERMISSION', () => clerk.attachDisk(spec).done)
  t.is((await vm.attachDisk(spec).done).disks.length, 2, 'with both it is fetched')
  t.true(site.operations.includes('Get'))
})

test('B11: a disk of an older DEK than vCenter has seen does not come back', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm } = await make(site, 'db01')
  const folder = path.join(site.datastore, 'db01')
  const old = path.join(site.directory, 'old')
  await cp(folder, old, { recursive: true })
  const [disk] = (await vm.recrypt({ depth: 'deep' }).done).disks
  await vm.detachDisk('scsi0:0')
  for (const name of ['db01.vmdk', 'db01-flat.vmdk', 'db01.vmdk.vmseal'])
    await cp(path.join(old, name), path.join(folder, name))
  t.not(disk?.file, 'db01.vmdk')
  await site.vcenter.keyProviders.keys.create()
  site.seen('Create')
  await refusedUntouched(t, site, 'VMSEAL_ROLLBACK_DETECTED', () => {
    return vm.attachDisk({ file: 'db01/db01.vmdk', policy: encryption }).done
  })
  t.is((await vm.attachDisk({ file: `db01/${disk?.file}`, policy: encryption }).done).disks.length, 1)
})
