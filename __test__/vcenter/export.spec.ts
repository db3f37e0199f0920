/** Export under a KEK of another site, and restore there: privileges first, keys last, and the old KMS is not asked. */
import { appendFile, mkdir, readdir } from 'node:fs/promises'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Host, Kms, VCenter, isVmsealError, type Cluster, type VirtualMachine } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { encryption, openSite, plain, type Site } from './site.js'

const operation = 'com.vmware.vc.crypto.Operation'

interface OtherSite {
  readonly kms: Kms
  readonly vcenter: VCenter
  readonly cluster: Cluster
  readonly host: Host
  readonly datastore: string
  /** Keys that its KMS has made since the last call. */
  made(): number
}

/** A vCenter that knows kms-2 alone, which the first site knows too. */
async function openOther(t: ExecutionContext, site: Site): Promise<OtherSite> {
  const directory = path.join(site.directory, 'other')
  const datastore = path.join(directory, 'ds')
  await mkdir(datastore, { recursive: true })
  const kms = await Kms.start({ directory: path.join(directory, 'kms') })
  let creates = 0
  kms.on('operation', (seen) => (creates += seen.operation === 'Create' ? 1 : 0))
  const servers = [kms.endpoint]
  // One client of the KMS, as a KMS that two sites share has to allow.
  const credentials = await kms.enrol('sites')
  await site.vcenter.keyProviders.add({ id: 'kms-2', servers, credentials })
  const vcenter = await VCenter.open({ directory: path.join(directory, 'vcenter') })
  await vcenter.keyProviders.add({ id: 'kms-2', servers, credentials })
  const cluster = await vcenter.clusters.create('backup')
  const host = await Host.start({ name: 'esx-9', datastores: { ds: datastore } })
  await cluster.addHost(host)
  await vcenter.hosts.configureCryptoKey('esx-9')
  t.teardown(async () => {
    await vcenter.close()
    await host.stop()
    await kms.stop()
  })
  creates = 0
  const made = (): number => {
    const count = creates
    creates = 0
    return count
  }
  return { kms, vcenter, cluster, host, datastore, made }
}

async function make(site: Site, policy = encryption): Promise<{ vm: VirtualMachine; sha256: string }> {
  const { file, sha256 } = await site.image('db01')
  const place = { cluster: 'prod', datastore: 'ds1', host: 'esx-1' }
  const vm = await site.vcenter.virtualMachines.import({ ...place, name: 'db01', policy, disks: [file] })
  site.seen('Create')
  site.events.length = 0
  return { vm, sha256 }
}

test('M3: a VM exported for another site opens there, where its old KMS is unknown and gone', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, sha256 } = await make(site)
  const other = await openOther(t, site)
  const to = path.join(site.directory, 'export')
  const exported = await vm.export({ to, provider: 'kms-2' }).done
  t.like(exported, { name: 'db01', vmId: vm.id, folder: to, host: 'esx-1' })
  t.is(exported.key.providerId, 'kms-2')
  t.is(other.made(), 1, 'the key of the export')
  t.is(site.seen('Create'), 0)
  t.false((await site.hosts[0]!.listKeys()).some(({ keyId }) => keyId === exported.key.keyId))
  t.like(await vm.info(), { cryptoState: 'unlocked', powerState: 'poweredOff' })
  const told = site.events.filter(({ id }) => id === operation)
  t.deepEqual(told.map(({ details }) => (details as { outcome?: string }).outcome), ['began', 'success']) // prettier-ignore
  t.like(told[0]?.details, { operation: 'export', vm: 'db01', host: 'esx-1' })
  await site.vcenter.close()
  await site.kms.stop()

  const place = { from: to, cluster: 'backup', datastore: 'ds' }
  const restored = await other.vcenter.virtualMachines.restore({ ...place, name: 'db01' })
  t.is(other.made(), 1, 'J8: without a key id a new key')
  const info = await restored.info()
  t.not(restored.id, vm.id)
  t.like(info, { policy: encryption, cryptoState: 'unlocked', datastore: 'ds', host: 'esx-9' })
  t.not(info.homeKey?.keyId, exported.key.keyId)
  t.is((await restored.digest('scsi0:0')).sha256, sha256)
  t.deepEqual(
    (await other.host.listKeys()).map(({ keyId }) => keyId),
    [info.homeKey?.keyId],
    'the key of the export is taken from the host again',
  )
  t.is((await restored.powerOn()).powerState, 'poweredOn')
  await t.throwsAsync(other.vcenter.virtualMachines.restore({ ...place, name: 'db01' }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  t.is(other.made(), 0)
})

test('J8: a restore keeps the key id of the export when asked, and the identity of a VM that is lost', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, sha256 } = await make(site)
  const { homeKey, disks } = await vm.info()
  const to = path.join(site.directory, 'export')
  const exported = await vm.export({ to, keyId: homeKey! }).done
  t.deepEqual(exported.key, homeKey)
  t.is(site.seen('Create'), 0, 'an existing key')
  t.true((await site.hosts[0]!.listKeys()).length > 0, 'the VM needs it still')
  const { virtualMachines } = site.vcenter
  const place = { from: to, cluster: 'prod', datastore: 'ds1', reuseKey: true }
  await t.throwsAsync(virtualMachines.restore({ ...place, name: 'again', identity: 'same' }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  await vm.destroy()
  const restored = await virtualMachines.restore({ ...place, name: 'again', identity: 'same' })
  const info = await restored.info()
  t.is(restored.id, vm.id)
  t.like(info, { name: 'again', homeKey, cryptoState: 'unlocked' })
  t.deepEqual(info.disks.map(({ diskId, key }) => [diskId, key]), disks.map(({ diskId }) => [diskId, homeKey])) // prettier-ignore
  t.is((await restored.digest('scsi0:0')).sha256, sha256)
  t.is(site.seen('Create'), 0)
  const perDisk = await virtualMachines.restore({ from: to, cluster: 'prod', datastore: 'ds1', name: 'per-disk', perDiskKeys: true }) // prettier-ignore
  t.is(site.seen('Create'), 2)
  t.is((await perDisk.digest('scsi0:0')).sha256, sha256)
})

test('J8: without Access a disk is not read, digested or exported, and a restore needs each of its privileges', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm } = await make(site)
  const to = path.join(site.directory, 'export')
  const lacking = async (missing: string) =>
    userWith(
      site.vcenter,
      allPrivileges.filter((privilege) => privilege !== missing),
    )
  const refused = async (what: string, privilege: string, act: () => Promise<unknown>) => {
    const error = await t.throwsAsync(act(), { code: 'VMSEAL_NO_PERMISSION' }, what)
    t.is(isVmsealError(error) && error.details.privilege, privilege, what)
  }
  const blind = await (await lacking('Cryptographer.Access')).virtualMachines.get('db01')
  await refused('read', 'Cryptographer.Access', () => blind.readDisk('scsi0:0', 0, 512))
  await refused('digest', 'Cryptographer.Access', () => blind.digest('scsi0:0'))
  await refused('export', 'Cryptographer.Access', () => blind.export({ to }).done)
  const files = 'VirtualMachine.Provisioning.GetVmFiles'
  const other = await (await lacking(files)).virtualMachines.get('db01')
  await refused('export', files, async () => other.export({ to }).done)
  t.is(site.seen('Create'), 0)
  t.false((await readdir(site.directory)).includes('export'))
  await vm.export({ to }).done
  t.is(site.seen('Create'), 1)

  const before = await readdir(site.datastore)
  for (const missing of [
    'VirtualMachine.Inventory.Create',
    'VirtualMachine.Provisioning.PutVmFiles',
    'Datastore.AllocateSpace',
    'Cryptographer.RegisterVM',
    'Cryptographer.EncryptNew',
  ]) {
    const { virtualMachines } = await lacking(missing)
    const spec = { from: to, cluster: 'prod', datastore: 'ds1', name: 'restored' }
    await refused('restore', missing, () => virtualMachines.restore(spec))
  }
  t.is(site.seen('Create'), 0)
  t.deepEqual(await readdir(site.datastore), before)
  // Under the key of the export no key is made, so the privilege for that is not needed.
  const { virtualMachines } = await lacking('Cryptographer.EncryptNew')
  const spec = { from: to, cluster: 'prod', datastore: 'ds1', name: 'restored', reuseKey: true }
  t.is((await virtualMachines.restore(spec)).name, 'restored')
  t.is(site.seen('Create'), 0)
})

test('M3: what cannot be exported or restored is refused before a key is made', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm } = await make(site)
  const to = path.join(site.directory, 'export')
  const exporting = (options: object) => vm.export({ to, ...options }).done
  await t.throwsAsync(exporting({ to: 'relative' }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(exporting({ keyId: 'x', provider: 'kms-1' }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(exporting({ provider: 'kms-7' }), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  await t.throwsAsync(exporting({ keyId: 'nobody' }), { code: 'VMSEAL_KEY_MISSING_IN_KMS' })
  await t.throwsAsync(exporting({ signal: AbortSignal.abort() }), { code: 'VMSEAL_CANCELLED' })
  await vm.powerOn()
  await t.throwsAsync(exporting({}), { code: 'VMSEAL_INVALID_POWER_STATE' })
  await vm.powerOff()
  t.is(site.seen('Create'), 0)
  await exporting({})
  t.is(site.seen('Create'), 1)

  const restoring = (change: object) =>
    site.vcenter.virtualMachines.restore({
      from: to,
      cluster: 'prod',
      datastore: 'ds1',
      name: 'x',
      ...change,
    })
  await t.throwsAsync(restoring({ from: 'relative' }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(restoring({ identity: 'other' }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(restoring({ reuseKey: true, perDiskKeys: true }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(restoring({ name: '../x' }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(restoring({ name: 'db01' }), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(restoring({ policy: plain }), { code: 'VMSEAL_POLICY_NOT_ENCRYPTION' })
  await t.throwsAsync(restoring({ from: site.directory }), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(restoring({ datastore: 'ds9' }), { code: 'VMSEAL_HOST_UNREACHABLE' })
  await t.throwsAsync(restoring({ signal: AbortSignal.abort() }), { code: 'VMSEAL_CANCELLED' })
  await appendFile(path.join(to, 'vm', 'vm-flat.vmdk'), 'x')
  await t.throwsAsync(restoring({}), { code: 'VMSEAL_EXPORT_INVALID' })
  t.is(site.seen('Create'), 0)
  t.deepEqual(await readdir(site.datastore), ['db01'])
  t.is((await site.vcenter.virtualMachines.list()).length, 1)
})
