/** Shallow recrypt of everything under the keys of a provider: plan, rate, failures, and going on where it stood. */
import { rename } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import { Kms, VCenter, type RekeyOptions, type VirtualMachine } from '../../src/index.js'
import { filesWith, fingerprints } from './datastore-files.js'
import { encryption, openSite, type Site } from './site.js'

async function encryptedVms(
  site: Site,
  names: readonly string[],
): Promise<Map<string, { vm: VirtualMachine; sha256: string }>> {
  const vms = new Map<string, { vm: VirtualMachine; sha256: string }>()
  for (const name of names) {
    const { file, sha256 } = await site.image(name)
    const vm = await site.vcenter.virtualMachines.import({
      name,
      cluster: site.cluster,
      datastore: 'ds1',
      policy: encryption,
      disks: [file],
    })
    vms.set(name, { vm, sha256 })
  }
  site.seen('Create')
  return vms
}

async function keysOfAll(vcenter: VCenter): Promise<Map<string, string>> {
  const keys = new Map<string, string>()
  for (const vm of await vcenter.virtualMachines.list()) {
    const { homeKey, disks } = await vm.info()
    if (!homeKey) continue
    const ids = new Set(
      [homeKey, ...disks.map(({ key }) => key)].map((key) => `${key?.providerId}/${key?.keyId}`),
    )
    keys.set(vm.name, [...ids].join(' '))
  }
  return keys
}

const states = (outcomes: readonly { name: string; state: string }[]) =>
  outcomes.map(({ name, state }) => `${name} ${state}`)

test('D1: every VM of a provider: a dry run changes nothing, then each gets one new key, the VM that is on too', async (t) => {
  const site = await openSite(t)
  const vms = await encryptedVms(site, ['a', 'b', 'c'])
  await site.vcenter.virtualMachines.create({
    name: 'plain',
    cluster: site.cluster,
    datastore: 'ds1',
    disks: [{ capacityBytes: 1024 }],
  })
  await vms.get('b')!.vm.powerOn()
  const old = await keysOfAll(site.vcenter)
  const before = await fingerprints(site.datastore)
  const plan = await site.vcenter.rekey({ provider: 'kms-1', dryRun: true }).done
  t.like(plan, { provider: 'kms-1', newProvider: 'kms-1', dryRun: true, resumed: false, hosts: [] })
  t.deepEqual(states(plan.virtualMachines), ['a waiting', 'b waiting', 'c waiting'])
  t.deepEqual(await fingerprints(site.datastore), before)
  t.is(site.seen('Create'), 0)

  const task = site.vcenter.rekey({ provider: 'kms-1' })
  const progress: string[] = []
  task.on('progress', ({ doneBytes, totalBytes, unit }) =>
    progress.push(`${doneBytes}/${totalBytes} ${unit}`),
  )
  const result = await task.done
  t.deepEqual(states(result.virtualMachines), ['a done', 'b done', 'c done'])
  t.is(progress.at(-1), '3/3 virtualMachines')
  t.is(site.seen('Create'), 3)
  const now = await keysOfAll(site.vcenter)
  for (const [name, key] of old) {
    t.not(now.get(name), key)
    t.is((await vms.get(name)!.vm.digest('scsi0:0')).sha256, vms.get(name)!.sha256)
    t.deepEqual(await filesWith(site.datastore, key.split('/')[1]!), [], `the files of ${name}`)
    for (const host of site.hosts)
      t.false(
        (await host.listKeys()).some(({ keyId }) => key.endsWith(keyId)),
        `${host.name} ${name}`,
      )
  }
  for (const { name, key } of result.virtualMachines) t.is(now.get(name), `kms-1/${key?.keyId}`)
  await vms.get('b')!.vm.powerOff()
})

test('D6: every VM and host key to another provider; the old KMS goes, the hosts restart, all open', async (t) => {
  const site = await openSite(t)
  const vms = await encryptedVms(site, ['a', 'b'])
  const other = await Kms.start({ directory: path.join(site.directory, 'kms-2') })
  t.teardown(() => other.stop())
  await site.vcenter.keyProviders.add({
    id: 'kms-2',
    servers: [other.endpoint],
    credentials: await other.enrol('vcenter'),
  })
  const result = await site.vcenter.rekey({ provider: 'kms-1', newProvider: 'kms-2' }).done
  t.deepEqual(states([...result.virtualMachines, ...result.hosts]), [
    'a done',
    'b done',
    'esx-1 done',
    'esx-2 done',
  ])
  await site.kms.stop()
  for (const host of site.hosts) {
    await host.restart()
    t.like(await site.vcenter.hosts.connect(host), { failed: [], locked: [] })
  }
  for (const { vm, sha256 } of vms.values()) {
    await vm.powerOn()
    t.is((await vm.digest('scsi0:0')).sha256, sha256)
    await vm.powerOff()
  }
  t.deepEqual(
    (await site.vcenter.rekey({ provider: 'kms-1', newProvider: 'kms-2', dryRun: true }).done)
      .virtualMachines,
    [],
  )
})

test('a VM that fails is told and the others are done; again, it gets the key that was made for it', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vms = await encryptedVms(site, ['a', 'b', 'c'])
  const folder = path.join(site.datastore, 'b')
  const aside = path.join(site.directory, 'b')
  await rename(folder, aside)
  const first = await site.vcenter.rekey({ provider: 'kms-1' }).done
  t.deepEqual(states(first.virtualMachines), ['a done', 'b failed', 'c done'])
  const failed = first.virtualMachines[1]
  t.is(failed?.error?.code, 'VMSEAL_NOT_FOUND')
  t.is(site.seen('Create'), 3)

  await rename(aside, folder)
  const plan = await site.vcenter.rekey({ provider: 'kms-1', dryRun: true }).done
  t.like(plan, { resumed: true })
  t.deepEqual(states(plan.virtualMachines), ['b waiting'])
  const second = await site.vcenter.rekey({ provider: 'kms-1' }).done
  t.deepEqual(states(second.virtualMachines), ['b done'])
  t.deepEqual(second.virtualMachines[0]?.key, failed?.key)
  t.is(site.seen('Create'), 0)
  t.is((await vms.get('b')!.vm.digest('scsi0:0')).sha256, vms.get('b')!.sha256)
  // It has ended: the next one is a new one, of all.
  t.is((await site.vcenter.rekey({ provider: 'kms-1', dryRun: true }).done).virtualMachines.length, 3)
})

test('a rate limit holds the others back; cancelled, closed and opened again it goes on where it stood', async (t) => {
  const site = await openSite(t)
  const names = ['a', 'b', 'c', 'd', 'e']
  const vms = await encryptedVms(site, names)
  const task = site.vcenter.rekey({ provider: 'kms-1', rateLimit: 1 })
  task.on('progress', () => task.cancel())
  await t.throwsAsync(task.done, { code: 'VMSEAL_CANCELLED' })
  t.is(site.seen('Create'), 1, 'one in the first minute')
  await site.vcenter.close()

  const vcenter = await VCenter.open({ directory: path.join(site.directory, 'vcenter') })
  t.teardown(() => vcenter.close())
  for (const host of site.hosts) await vcenter.hosts.connect(host)
  const result = await vcenter.rekey({ provider: 'kms-1' }).done
  t.true(result.resumed)
  t.is(result.virtualMachines.length, 4)
  t.is(site.seen('Create'), 4, 'one for each VM, all in all')
  t.is(new Set((await keysOfAll(vcenter)).values()).size, 5)
  for (const name of names) {
    const vm = await vcenter.virtualMachines.get(name)
    t.is((await vm.digest('scsi0:0')).sha256, vms.get(name)!.sha256)
  }
})

test('refused: no such new provider, another rekey under way, nonsense', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  await encryptedVms(site, ['a'])
  const refused = async (options: unknown, code: string): Promise<void> => {
    await t.throwsAsync(site.vcenter.rekey(options as RekeyOptions).done, { code }, JSON.stringify(options))
  }
  await refused({ provider: 'kms-1', newProvider: 'nobody' }, 'VMSEAL_KEY_PROVIDER_UNREACHABLE')
  for (const options of [{}, { provider: '' }, { provider: 'kms-1', newProvider: 5 }])
    await refused(options, 'VMSEAL_INVALID_ARGUMENT')
  for (const rateLimit of [0, -1, Number.NaN, Infinity, '5'])
    await refused({ provider: 'kms-1', rateLimit }, 'VMSEAL_INVALID_ARGUMENT')
  t.is(site.seen('Create'), 0)
  await site.hosts[0]?.stop()
  t.deepEqual(states((await site.vcenter.rekey({ provider: 'kms-1' }).done).virtualMachines), ['a failed'])
  await refused({ provider: 'kms-1', newProvider: 'kms-2' }, 'VMSEAL_INVALID_STATE')
})
