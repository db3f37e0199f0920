/** Row B12 of the feature table and the vTPM of C6: refused by name, before a key is made or a byte changes. */
import { readFile, symlink, writeFile } from 'node:fs/promises'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { isVmsealError, errorCodes } from '../../src/index.js'
import { fingerprints } from './datastore-files.js'
import { encryption, openSite, plain, type Site } from './site.js'

async function make(site: Site, name: string, policy = encryption, more: object = {}) {
  const vm = await site.vcenter.virtualMachines.create({
    name, cluster: site.cluster, datastore: 'ds1', policy, disks: [{ capacityBytes: 2 ** 20 }], ...more,
  }) // prettier-ignore
  site.seen('Create')
  return vm
}

/** The refusal has the name of vSphere's fault, and nothing happened. */
async function refused(t: ExecutionContext, site: Site, fault: string, act: () => Promise<unknown>) {
  const before = await fingerprints(site.datastore)
  const error = await t.throwsAsync(act)
  if (!isVmsealError(error)) return t.fail(String(error))
  const { vsphere = '' } = errorCodes[error.code] as { readonly vsphere?: string }
  t.regex(vsphere, new RegExp(fault), `${error.code}: ${error.message}`)
  t.is(site.seen('Create'), 0, 'no key was made')
  t.deepEqual(await fingerprints(site.datastore), before)
}

const descriptor = (createType: string, extent: string) => `# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=ffffffff
createType="${createType}"
RW 2048 ${extent}
ddb.adapterType = "lsilogic"
`

test('B12: enc.notFile: a raw device mapping is no disk that can be attached', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, 'db01')
  const folder = path.join(site.datastore, 'db01')
  await writeFile(path.join(folder, 'lun-rdm.vmdk'), '')
  for (const createType of ['vmfsRawDeviceMap', 'vmfsPassthroughRawDeviceMap']) {
    await writeFile(path.join(folder, 'lun.vmdk'), descriptor(createType, 'VMFSRDM "lun-rdm.vmdk"'))
    await refused(t, site, 'enc\\.notFile', () => vm.attachDisk({ file: 'db01/lun.vmdk' }).done)
    await refused(t, site, 'enc\\.notFile', () => {
      return vm.attachDisk({ file: 'db01/lun.vmdk', policy: encryption }).done
    })
  }
})

test('B12: enc.sharedBacking: a disk of another VM, and one that is open for several writers', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, 'db01')
  await make(site, 'other')
  await refused(t, site, 'enc\\.sharedBacking', () => {
    return vm.attachDisk({ file: 'other/other.vmdk', policy: encryption }).done
  })
  await refused(t, site, 'AlreadyExists', () => {
    return vm.attachDisk({ file: 'db01/db01.vmdk', policy: encryption }).done
  })
  const cluster = await make(site, 'cluster', plain)
  const vmx = path.join(site.datastore, 'cluster', 'cluster.vmx')
  await writeFile(vmx, `${await readFile(vmx, 'utf8')}scsi0:0.sharing = "multi-writer"\n`)
  const wish = { home: encryption, disks: encryption }
  await refused(t, site, 'enc\\.sharedBacking', () => cluster.applyPolicy(wish).done)
  t.truthy((await cluster.applyPolicy({ home: encryption }).done).homeKey, 'the home alone may be')
  site.seen('Create')
  await refused(t, site, 'enc\\.sharedBacking', () => cluster.applyPolicy({ disks: encryption }).done)
  const vm2 = { datastore: 'ds1', vmx: 'cluster/cluster.vmx' }
  const { homeKey, disks } = (await site.hosts[0]?.readVirtualMachine(vm2)) ?? {}
  const crypto = { type: 'encrypt', key: homeKey ?? { keyId: '', providerId: '' } } as const
  await refused(t, site, 'enc\\.sharedBacking', async () => {
    await site.hosts[0]?.reconfigureVirtualMachine(vm2, {
      disks: [{ diskId: disks?.[0]?.diskId ?? '', crypto }],
    })
  })
  await cluster.detachDisk('scsi0:0')
  t.notRegex(await readFile(vmx, 'utf8'), /sharing/, 'the flag goes with the device')
})

test('B12: enc.notDisk: other devices and other files', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, 'db01')
  for (const device of ['ide1:0', 'sata0:1', 'floppy0', 'ethernet0', 'vtpm', 'scsi0:7'])
    await refused(t, site, 'enc\\.notDisk', () => vm.applyPolicy({ disks: { [device]: encryption } }).done)
  await refused(t, site, 'NotFound', () => vm.applyPolicy({ disks: { 'scsi0:5': encryption } }).done)
  for (const file of ['db01/db01.vmx', 'db01/db01.nvram', 'db01/cd.iso'])
    await refused(t, site, 'enc\\.notDisk', () => vm.attachDisk({ file }).done)
})

test('B12: enc.badPolicy: a key for a part whose policy does not encrypt it', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { virtualMachines, keyProviders } = site.vcenter
  const { keyId } = await keyProviders.keys.create()
  site.seen('Create')
  const base = { name: 'x', cluster: site.cluster, datastore: 'ds1' }
  const disk = { capacityBytes: 2 ** 20 }
  for (const act of [
    () => virtualMachines.create({ ...base, homeKeyId: keyId, disks: [] }),
    () => virtualMachines.create({ ...base, disks: [{ ...disk, keyId }] }),
    () => virtualMachines.create({ ...base, policy: encryption, disks: [{ ...disk, policy: plain, keyId }] }),
  ])
    await refused(t, site, 'enc\\.badPolicy', act)
  const vm = await make(site, 'db01', plain)
  for (const act of [
    () => vm.applyPolicy({ home: plain }, { keyIds: { home: keyId } }).done,
    () => vm.applyPolicy({}, { keyIds: { disks: { 'scsi0:0': keyId } } }).done,
    () => vm.applyPolicy({ home: encryption }, { keyIds: { disks: { 'scsi0:0': keyId } } }).done,
    () => vm.addDisk({ ...disk, policy: plain, keyId }).done,
  ])
    await refused(t, site, 'enc\\.badPolicy', act)
  await vm.applyPolicy({ home: encryption, disks: encryption }, { keyIds: { home: keyId } }).done
  site.seen('Create')
  const again = { home: encryption, disks: encryption }
  t.is((await vm.applyPolicy(again, { keyIds: { home: keyId } }).done).homeKey?.keyId, keyId, 'nothing to do')
  const other = { keyIds: { home: 'another-key' } }
  await refused(t, site, 'InvalidState', () => vm.applyPolicy(again, other).done)
  await refused(t, site, 'InvalidDeviceOperation', () => {
    return vm.applyPolicy(again, { keyIds: { disks: { 'scsi0:0': 'another-key' } } }).done
  })
})

test('B12: paths that leave the datastore, links and files that are not there are refused', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, 'db01')
  await writeFile(
    path.join(site.directory, 'out.vmdk'),
    descriptor('monolithicFlat', 'FLAT "out-flat.vmdk" 0'),
  )
  await symlink(path.join(site.directory, 'out.vmdk'), path.join(site.datastore, 'db01', 'link.vmdk'))
  const codeOf = async (file: unknown) => {
    const error = await t.throwsAsync(vm.attachDisk({ file: file as string }).done)
    return isVmsealError(error) ? error.code : error?.message
  }
  for (const file of [
    '../out.vmdk',
    'db01/../../out.vmdk',
    '/etc/passwd',
    'db01',
    '',
    7,
    '[ds2] db01/db01.vmdk',
    'db01/..',
  ])
    t.is(await codeOf(file), 'VMSEAL_INVALID_ARGUMENT', String(file))
  t.is(await codeOf('db01/link.vmdk'), 'VMSEAL_IO')
  t.is(await codeOf('db01/none.vmdk'), 'VMSEAL_NOT_FOUND')
  t.is(await codeOf('none/none.vmdk'), 'VMSEAL_NOT_FOUND')
  t.is((await vm.info()).disks.length, 1)
})

test('C6: a virtual TPM keeps VM home encrypted: enc.required.vtpm', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const settings = { 'vtpm.present': 'TRUE' }
  await refused(t, site, 'enc\\.required\\.vtpm', () => make(site, 'x', plain, { settings }))
  const vm = await make(site, 'db01', encryption, { settings })
  const whole = { home: plain, disks: plain }
  await refused(t, site, 'enc\\.required\\.vtpm', () => vm.applyPolicy(whole).done)
  const info = await vm.applyPolicy({ disks: plain }).done
  t.truthy(info.homeKey)
  t.is(info.disks[0]?.key, undefined, 'its disks may be plain')
  t.truthy((await vm.recrypt({ depth: 'deep' }).done).homeKey)
})
