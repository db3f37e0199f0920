/** Conversion in place as tasks of vCenter: stopped in the middle, and gone on with after whatever stopped it. */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Kms, type VirtualMachine } from '../../src/index.js'
import { filesWith, fingerprints } from './datastore-files.js'
import { encryption, marker, openSite, plain, type Site } from './site.js'

const everything = { home: encryption, disks: encryption }
const inPlace = { conversion: 'inPlace' } as const
/** So slow that the first look finds the first steps done and the others not. */
const slowly = { conversion: 'inPlace', maxBytesPerSecond: 16 * 2 ** 20 } as const

async function plainVm(site: Site, megabytes: number, policy = plain) {
  const image = await site.image('a', megabytes)
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy, disks: [image.file],
  }) // prettier-ignore
  site.seen('Create')
  return { vm, image }
}

function flatOf(site: Site): string {
  return path.join(site.datastore, 'db01', 'db01-flat.vmdk')
}

async function isTidy(t: ExecutionContext, site: Site): Promise<void> {
  const names = Object.keys(await fingerprints(site.datastore))
  t.deepEqual(names.filter((name) => /-(job|copy|task)$|\.lck$|\.tmp-/.test(name)), []) // prettier-ignore
}

/** Cancels a conversion of the disk when it is under way. */
async function stopped(t: ExecutionContext, task: ReturnType<VirtualMachine['applyPolicy']>): Promise<void> {
  task.on('progress', ({ step, doneBytes }) => {
    if (step.includes('scsi0:0') && doneBytes > 2 ** 20) task.cancel()
  })
  await t.throwsAsync(task.done, { code: 'VMSEAL_CANCELLED' })
}

test('B8, D2: a VM is encrypted, deeply recrypted and decrypted where it lies', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, image } = await plainVm(site, 2)
  const { ino } = await stat(flatOf(site))
  const keys: (string | undefined)[] = []
  for (const change of [
    () => vm.applyPolicy(everything, inPlace).done,
    () => vm.recrypt({ depth: 'deep', ...inPlace }).done,
    () => vm.applyPolicy({ home: plain, disks: plain }, inPlace).done,
  ]) {
    const info = await change()
    keys.push(info.disks[0]?.key?.keyId)
    t.is(info.homeKey?.keyId, info.disks[0]?.key?.keyId)
    t.is((await stat(flatOf(site))).ino, ino, 'the file stays where it is')
    t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
    t.is((await filesWith(site.datastore, marker)).length > 0, info.homeKey === undefined)
    await isTidy(t, site)
    t.is((await vm.powerOn()).powerState, 'poweredOn')
    await vm.powerOff()
  }
  t.is(new Set(keys).size, 3)
  t.is(keys[2], undefined)
  t.is(site.seen('Create'), 2)
})

test('B8: cancelled in the middle, the VM says what it is and stays off; the task done again ends it with the same key', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, image } = await plainVm(site, 96)
  await stopped(t, vm.applyPolicy(everything, slowly))
  t.is(site.seen('Create'), 1)
  const half = await vm.info()
  t.like(half.disks[0]?.conversion, { mode: 'encrypt', totalBytes: 96 * 2 ** 20 })
  t.truthy(half.disks[0]?.key, 'the store names the key that the disk needs')
  const refused = { code: 'VMSEAL_DISK_IN_CONVERSION' } as const
  await t.throwsAsync(vm.powerOn(), refused)
  await t.throwsAsync(vm.digest('scsi0:0'), refused)

  // The host loses its memory; the keys return by id.
  await site.hosts[0]?.restart()
  await site.vcenter.hosts.reconnect('esx-1')
  t.deepEqual((await vm.info()).missingKeys, [])
  const info = await vm.applyPolicy(everything, inPlace).done
  t.deepEqual(info.disks[0]?.key, half.disks[0]?.key)
  t.is(info.disks[0]?.conversion, undefined)
  t.is(site.seen('Create'), 0, 'no other key was made')
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
  t.deepEqual(await filesWith(site.datastore, marker), [])
  await isTidy(t, site)
  t.is((await vm.powerOn()).powerState, 'poweredOn')
})

test('D2: a deep recrypt in place goes on after the host lost both keys and the KMS was away', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, image } = await plainVm(site, 96, encryption)
  const before = await vm.info()
  await stopped(t, vm.recrypt({ depth: 'deep', ...slowly }))
  const half = await vm.info()
  t.is(half.disks[0]?.conversion?.mode, 'recrypt')
  const { port } = site.kms.endpoint
  await site.kms.stop()
  await site.hosts[0]?.restart()
  await site.vcenter.hosts.reconnect('esx-1')
  const files = await fingerprints(site.datastore)
  await t.throwsAsync(vm.resumeConversion().done, { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  t.deepEqual(await fingerprints(site.datastore), files)

  const kms = await Kms.start({ directory: path.join(site.directory, 'kms'), port })
  t.teardown(() => kms.stop())
  await vm.unlock()
  const info = await vm.resumeConversion().done
  t.is(info.disks[0]?.conversion, undefined)
  t.not(info.disks[0]?.key?.keyId, before.disks[0]?.key?.keyId)
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
  await isTidy(t, site)
  await t.throwsAsync(vm.resumeConversion().done, { code: 'VMSEAL_INVALID_STATE' })
})

test('D2: a deep recrypt in place that was stopped is ended by the same task, with the key that it began with', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, image } = await plainVm(site, 96, encryption)
  await vm.addDisk({ capacityBytes: 2 ** 20 }).done
  site.seen('Create')
  await stopped(t, vm.recrypt({ depth: 'deep', ...slowly }))
  const half = await vm.info()
  t.not(half.disks[1]?.key?.keyId, half.homeKey?.keyId, 'the second disk was not reached')
  const info = await vm.recrypt({ depth: 'deep', ...inPlace }).done
  t.is(site.seen('Create'), 1, 'one key for the whole recrypt')
  t.deepEqual(info.disks.map(({ key }) => key), [half.homeKey, half.homeKey]) // prettier-ignore
  t.deepEqual(info.homeKey, half.homeKey)
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
  await isTidy(t, site)
})

test('a VM in conversion is unregistered and registered from its files, which say where it stands', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, image } = await plainVm(site, 96, encryption)
  await stopped(t, vm.applyPolicy({ home: plain, disks: plain }, slowly))
  await vm.unregister()
  const again = await site.vcenter.virtualMachines.register({
    cluster: site.cluster, datastore: 'ds1', vmx: 'db01/db01.vmx',
  }) // prettier-ignore
  t.is((await again.info()).disks[0]?.conversion?.mode, 'decrypt')
  // The wish of the task that was interrupted ends the conversion, and then what is left of it.
  const info = await again.applyPolicy({ home: plain, disks: plain }, inPlace).done
  t.deepEqual(
    [info.homeKey, info.disks[0]?.key, info.disks[0]?.conversion],
    [undefined, undefined, undefined],
  )
  t.is((await again.digest('scsi0:0')).sha256, image.sha256)
  await isTidy(t, site)
})

test('a KMS that is lost in the middle of a conversion does not stop it', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, image } = await plainVm(site, 64)
  const task = vm.applyPolicy(everything, inPlace)
  let stopping: Promise<void> | undefined
  task.on('progress', () => void (stopping ??= site.kms.stop()))
  await task.done
  await stopping
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
})

test('a copy takes its source away only after it was read back, overwritten when that is asked for', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, image } = await plainVm(site, 2)
  const steps = new Set<string>()
  const task = vm.applyPolicy(everything, { discardSource: 'overwrite' })
  task.on('progress', ({ step }) => steps.add(step))
  await task.done
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
  t.deepEqual(await filesWith(site.datastore, marker), [])
  await isTidy(t, site)
  await vm.recrypt({ depth: 'deep', discardSource: 'unlink' }).done
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
})

test('ways of conversion that do not exist, or do not fit, are refused before a key is made', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm } = await plainVm(site, 1)
  const argument = { code: 'VMSEAL_INVALID_ARGUMENT' } as const
  const sideways = { conversion: 'sideways' } as unknown as typeof inPlace
  const burn = { discardSource: 'burn' } as unknown as { discardSource: 'unlink' }
  for (const options of [sideways, burn, { ...inPlace, discardSource: 'unlink' as const }])
    await t.throwsAsync(vm.applyPolicy(everything, options).done, argument)
  for (const maxBytesPerSecond of [0, -1, 1.5, Number.NaN, Infinity, '1' as unknown as number]) {
    await t.throwsAsync(vm.applyPolicy(everything, { maxBytesPerSecond }).done, argument)
    await t.throwsAsync(vm.resumeConversion({ maxBytesPerSecond }).done, argument)
  }
  await t.throwsAsync(vm.recrypt({ depth: 'shallow', ...inPlace }).done, argument)
  await t.throwsAsync(vm.recrypt({ depth: 'shallow', maxBytesPerSecond: 1 }).done, argument)
  await t.throwsAsync(vm.recrypt({ depth: 'deep', sectorSize: 4096, ...inPlace }).done, argument)
  t.is(site.seen('Create'), 0)
})
