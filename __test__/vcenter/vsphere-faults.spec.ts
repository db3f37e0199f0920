/** Each fault that vSphere has for encryption work, reached by what an administrator does: the code that bears its name, and no key made. */
import { appendFile, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Host, errorCodes, isVmsealError, type ErrorCode } from '../../src/index.js'
import { fingerprints } from './datastore-files.js'
import { encryption, openSite, plain, type Site } from './site.js'

const whole = { home: encryption, disks: encryption }
const off = { home: plain, disks: plain }

async function make(site: Site, policy: string, name = 'db01') {
  const vm = await site.vcenter.virtualMachines.create({
    name, cluster: site.cluster, datastore: 'ds1', policy, disks: [{ capacityBytes: 4096 }],
  }) // prettier-ignore
  site.seen('Create')
  return vm
}

async function refused(
  t: ExecutionContext,
  site: Site,
  code: ErrorCode,
  vsphere: RegExp,
  act: () => Promise<unknown>,
): Promise<void> {
  const before = await fingerprints(site.datastore)
  const error = await t.throwsAsync(act)
  t.is(isVmsealError(error) && error.code, code, error?.message)
  t.regex((errorCodes[code] as { readonly vsphere?: string }).vsphere ?? '', vsphere)
  t.is(site.seen('Create'), 0)
  t.deepEqual(await fingerprints(site.datastore), before)
}

test('L3: InvalidPowerState: a VM that is on is neither encrypted, decrypted nor deeply recrypted', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, encryption)
  await vm.powerOn()
  for (const act of [() => vm.applyPolicy(off).done, () => vm.recrypt({ depth: 'deep' }).done])
    await refused(t, site, 'VMSEAL_INVALID_POWER_STATE', /^InvalidPowerState$/, act)
})

test('L3: enc.snapshots: a VM with snapshots is neither encrypted, decrypted nor deeply recrypted', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, encryption)
  await appendFile(path.join(site.datastore, 'db01', 'db01.vmsd'), 'snapshot.numSnapshots = "2"\n')
  for (const act of [() => vm.applyPolicy(off).done, () => vm.recrypt({ depth: 'deep' }).done])
    await refused(t, site, 'VMSEAL_SNAPSHOTS_EXIST', /enc\.snapshots/, act)
})

test('L3: enc.encrypted and enc.notEncrypted: of VM home and of a disk, as a host is asked', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, encryption)
  await make(site, plain, 'open')
  const { homeKey, disks, datastore, vmx } = await vm.info()
  if (!homeKey) return t.fail()
  const [host] = site.hosts
  const openDisk = (await (await site.vcenter.virtualMachines.get('open')).info()).disks[0]?.diskId ?? ''
  const sealed = { datastore, vmx }
  const open = { datastore, vmx: 'open/open.vmx' }
  const encrypt = { type: 'encrypt', key: homeKey } as const
  const decrypt = { type: 'decrypt' } as const
  const diskId = disks[0]?.diskId ?? ''
  const ask = async (vmName: typeof sealed, spec: object) => host?.reconfigureVirtualMachine(vmName, spec)
  await refused(t, site, 'VMSEAL_INVALID_STATE', /^InvalidState$/, () => ask(sealed, { home: encrypt }))
  await refused(t, site, 'VMSEAL_INVALID_STATE', /^InvalidState$/, () => ask(open, { home: decrypt }))
  const [again, never] = [
    { disks: [{ diskId, crypto: encrypt }] },
    { disks: [{ diskId: openDisk, crypto: decrypt }] },
  ]
  await refused(t, site, 'VMSEAL_DISK_STATE', /^InvalidDeviceOperation$/, () => ask(sealed, again))
  await refused(t, site, 'VMSEAL_DISK_STATE', /^InvalidDeviceOperation$/, () => ask(open, never))
})

test('L3: enc.mismatch: an encrypted disk in a plain VM, and VM home decrypted before its disks', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, plain)
  const code = 'VMSEAL_ENCRYPTION_MISMATCH'
  await refused(t, site, code, /enc\.mismatch/, () => vm.applyPolicy({ disks: encryption }).done)
  await vm.applyPolicy(whole).done
  site.seen('Create')
  await refused(t, site, code, /enc\.mismatch/, () => vm.applyPolicy({ home: plain }).done)
})

test('L3: a clone: spec.disk.backing.crypto that does not go together, and a linked one with keys or policies of its own', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const [sealed, open] = [await make(site, encryption, 'sealed'), await make(site, plain, 'open')]
  const clone = (vm: typeof open, policy: { home?: string; disks?: string }, more = {}) =>
    vm.clone({ name: 'copy', policy, ...more }).done
  const code = 'VMSEAL_ENCRYPTION_MISMATCH'
  await refused(t, site, code, /enc\.mismatch/, () => clone(open, { disks: encryption }))
  await refused(t, site, code, /enc\.mismatch/, () => clone(sealed, { home: plain }))
  await sealed.createSnapshot({ name: 'golden' }).done
  const linked = { snapshot: 'golden', linked: true }
  for (const act of [
    () => clone(sealed, off, linked),
    () => sealed.clone({ name: 'copy', ...linked, keys: 'new' }).done,
  ])
    await refused(t, site, 'VMSEAL_DISK_CHAIN', /^InvalidDeviceOperation/, act)
})

test('L3: enc.diskChain: a disk with a parent is no disk that can be taken in', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, plain)
  await vm.detachDisk('scsi0:0')
  const file = path.join(site.datastore, 'db01', 'db01.vmdk')
  const text = await readFile(file, 'utf8')
  await writeFile(file, text.replace(/parentCID=\w+/, 'parentCID=12345678'))
  await refused(t, site, 'VMSEAL_DESCRIPTOR_UNSUPPORTED', /^NotSupported$/, () => {
    return vm.attachDisk({ file: 'db01/db01.vmdk' }).done
  })
})

test('B10, L3: NoDiskSpace: a conversion that has no room leaves all as it was, and its event', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, encryption)
  const full = await Host.start({
    name: 'full',
    datastores: { ds1: site.datastore },
    freeBytes: async () => 10,
  })
  t.teardown(() => full.stop())
  await site.cluster.addHost(full)
  site.seen('Create')
  await refused(t, site, 'VMSEAL_NO_SPACE', /^NoDiskSpace$/, () => vm.applyPolicy(off, { host: 'full' }).done)
  t.true(site.events.some(({ id }) => id === 'com.vmware.vc.vm.crypto.NoDiskSpace'))
})

test('L3: policyChangeFailure: a key for a part whose policy is no encryption policy', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, plain)
  await refused(t, site, 'VMSEAL_POLICY_NOT_ENCRYPTION', /badPolicy/, () => {
    return vm.applyPolicy({ home: plain }, { keyIds: { home: 'key' } }).done
  })
})

test('L3: enc.keyNotFound: a key id that the KMS does not know', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, plain)
  await refused(t, site, 'VMSEAL_KEY_MISSING_IN_KMS', /KeyStateMissingInKMS/, () => {
    return vm.applyPolicy(whole, { keyIds: { home: 'no-such-key' } }).done
  })
})

test('L3: keysafe.locator: a VM home whose wrapped DEK cannot be read is told from one whose key is missing', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, encryption)
  const vmx = path.join(site.datastore, 'db01', 'db01.vmx')
  const text = await readFile(vmx, 'utf8')
  await writeFile(vmx, text.replace(/(vmseal\.dek\.0 = ")[^"]*/, '$1not-a-jwe'))
  const error = await t.throwsAsync(vm.applyPolicy(off).done)
  t.is(isVmsealError(error) && error.code, 'VMSEAL_ENVELOPE_INVALID')
})

test('L3: configSpec.crypto: no default key provider', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, plain)
  await site.vcenter.keyProviders.setDefault(null)
  const code = 'VMSEAL_NO_DEFAULT_KEY_PROVIDER'
  await refused(t, site, code, /configSpec\.crypto/, () => vm.applyPolicy(whole).done)
  await refused(t, site, code, /configSpec\.crypto/, () => make(site, encryption, 'db02'))
})

test('L3: KeyGenerateFail: the KMS is away: nothing is made, and the event tells', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, plain)
  await site.kms.stop()
  const error = await t.throwsAsync(vm.applyPolicy(whole).done)
  t.is(isVmsealError(error) && error.code, 'VMSEAL_KEY_PROVIDER_UNREACHABLE')
  t.true(site.events.some(({ id }) => id === 'com.vmware.vc.kms.crypto.KeyGenerateFail'))
  t.is((await vm.info()).homeKey, undefined)
})

test('L3: EncryptionKeyRequired: neither the host nor the KMS has the key: its id is in the fault', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, encryption)
  const { homeKey } = await vm.info()
  await site.kms.stop()
  if (homeKey) await site.hosts[0]?.removeKey(homeKey)
  const error = await t.throwsAsync(vm.applyPolicy(off).done)
  t.is(isVmsealError(error) && error.code, 'VMSEAL_ENCRYPTION_KEY_REQUIRED')
  t.deepEqual(isVmsealError(error) && error.details.requiredKeys, [homeKey])
})

test('L3: RekeyFail and DiskchainUsingMixedKeys: a recrypt that stops half way is told, and healed by the next', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await make(site, encryption)
  const ids = (): string[] => site.events.map(({ id }) => id)
  const [host] = site.hosts
  const { datastore, vmx, homeKey } = await vm.info()
  if (!host || !homeKey) return t.fail()
  // The files of a home between two wraps, as a crash leaves them.
  const file = path.join(site.datastore, 'db01', 'db01.vmx')
  const wrapOf = (text: string): string => /vmseal\.dek\.0 = "([^"]+)"/.exec(text)?.[1] ?? ''
  const before = await readFile(file, 'utf8')
  await vm.recrypt({ depth: 'shallow' }).done
  const after = await readFile(file, 'utf8')
  await writeFile(file, `${after}vmseal.dek.1 = "${wrapOf(before)}"\n`)
  await vm.reload()
  t.is((await vm.info()).formerKeys?.[0]?.keyId, homeKey.keyId)
  t.is(ids().filter((id) => id === 'com.vmware.vc.vm.crypto.DiskchainUsingMixedKeys').length, 1)
  t.true((await site.vcenter.alarms.list()).some(({ kind }) => kind === 'vm.recrypt'))
  await vm.recrypt({ depth: 'shallow' }).done
  t.is((await vm.info()).formerKeys, undefined)
  t.false((await site.vcenter.alarms.list()).some(({ kind }) => kind === 'vm.recrypt'))

  await writeFile(path.join(site.datastore, 'db01', 'db01.vmx.lck'), 'not a lock of ours')
  const failed = await t.throwsAsync(vm.recrypt({ depth: 'shallow' }).done)
  t.true(isVmsealError(failed), `${datastore} ${vmx}`)
  t.true(ids().includes('com.vmware.vc.vm.crypto.RekeyFail'))
  return undefined
})
