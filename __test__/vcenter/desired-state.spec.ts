/** Row M10 of the feature table: a declared state is applied in one task with one new key; a second time nothing happens. */
import test from 'ava'
import fc from 'fast-check'
import { Kms, isVmsealError, type DesiredState } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { fingerprints } from './datastore-files.js'
import { encryption, openSite, plain } from './site.js'

test('M10: several changes are one task with one new key; a second apply does nothing and makes no key', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const image = await site.image('a')
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [image.file, image.file],
  }) // prettier-ignore
  const state = { home: encryption, disks: { 'scsi0:0': encryption } }
  const before = await fingerprints(site.datastore)
  const planned = await vm.apply(state, { dryRun: true }).done
  t.deepEqual(planned.changes, [
    { part: 'home', change: 'encrypt', from: plain, to: encryption },
    { part: 'scsi0:0', change: 'encrypt', from: plain, to: encryption },
  ])
  t.deepEqual(await fingerprints(site.datastore), before)
  t.is(site.seen('Create'), 0, 'a dry run changes nothing')

  const tasks = (await site.vcenter.tasks.list()).length
  const done = await vm.apply(state).done
  t.deepEqual(done.changes, planned.changes)
  t.is(site.seen('Create'), 1)
  t.is((await site.vcenter.tasks.list()).length, tasks + 1)
  t.deepEqual(done.virtualMachine.disks[0]?.key, done.virtualMachine.homeKey)
  t.is((await vm.compliance()).status, 'compliant')

  const settled = await fingerprints(site.datastore)
  t.deepEqual((await vm.apply(state).done).changes, [])
  t.deepEqual(await fingerprints(site.datastore), settled)
  t.is(site.seen('Create'), 0)
})

test('M10: keys come to be of the declared provider, under the one key that the new parts get', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const second = await Kms.start({ directory: `${site.directory}/kms-2` })
  t.teardown(() => second.stop())
  let created = 0
  second.on('operation', ({ operation }) => (created += Number(operation === 'Create')))
  const credentials = await second.enrol('vcenter')
  await site.vcenter.keyProviders.add({ id: 'kms-2', servers: [second.endpoint], credentials })
  const image = await site.image('a')
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption,
    disks: [image.file, { source: image.file, policy: plain }],
  }) // prettier-ignore
  site.seen('Create')
  const state = { home: encryption, disks: encryption, keyProvider: 'kms-2' }
  const { changes, virtualMachine } = await vm.apply(state).done
  t.deepEqual(changes.map(({ part, change, from, to }) => `${part} ${change} ${from} ${to}`), [
    'home recrypt kms-1 kms-2',
    'scsi0:0 recrypt kms-1 kms-2',
    `scsi0:1 encrypt ${plain} ${encryption}`,
  ]) // prettier-ignore
  const keys = [virtualMachine.homeKey, ...virtualMachine.disks.map(({ key }) => key)]
  t.deepEqual(new Set(keys.map((key) => key?.providerId)), new Set(['kms-2']))
  t.is(new Set(keys.map((key) => key?.keyId)).size, 1)
  t.is(created, 1)
  t.is(site.seen('Create'), 0)
  for (const disk of ['scsi0:0', 'scsi0:1']) t.is((await vm.digest(disk)).sha256, image.sha256)
  t.deepEqual((await vm.apply(state).done).changes, [], 'never recrypted for an equal intent')
  await vm.powerOn()
  t.deepEqual(
    (await vm.apply({ keyProvider: 'kms-1' }).done).changes.length,
    3,
    'a VM that is on is recrypted too',
  )
  t.is(created, 1)
  t.is(site.seen('Create'), 1)
})

test('M10: whatever is declared, a second apply finds nothing to do', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  await site.vcenter.storagePolicies.clone(encryption, 'gold')
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [{ capacityBytes: 4096 }, { capacityBytes: 4096 }],
  }) // prettier-ignore
  const policy = fc.constantFrom(encryption, plain, 'gold')
  const declared = fc.record(
    { home: policy, disks: fc.oneof(policy, fc.record({ 'scsi0:0': policy, 'scsi0:1': policy }, { requiredKeys: [] })) },
    { requiredKeys: [] },
  ) // prettier-ignore
  let applied = 0
  for (const state of fc.sample(declared, { numRuns: 20, seed: 7 })) {
    const plan = await vm.apply(state as DesiredState, { dryRun: true }).done.catch((error: unknown) => error)
    const before = await vm.info()
    const outcome = await vm.apply(state as DesiredState).done.catch((error: unknown) => error)
    if (isVmsealError(outcome)) {
      t.is(outcome.code, 'VMSEAL_ENCRYPTION_MISMATCH')
      t.true(isVmsealError(plan, outcome.code), 'the dry run said so')
      t.deepEqual(await vm.info(), before)
      t.is(site.seen('Create'), 0)
      continue
    }
    applied += 1
    const { changes } = outcome as { changes: readonly { change: string }[] }
    t.deepEqual((plan as { changes: unknown }).changes, changes)
    t.is(site.seen('Create'), changes.some(({ change }) => change === 'encrypt') ? 1 : 0)
    t.deepEqual((await vm.apply(state as DesiredState).done).changes, [])
    t.is(site.seen('Create'), 0)
    t.true(['compliant', 'notApplicable'].includes((await vm.compliance()).status))
  }
  t.true(applied > 5)
})

test('M10: refused before a key is made: what cannot be, is not known, or is not allowed', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter } = site
  const vm = await vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [{ capacityBytes: 4096 }],
  }) // prettier-ignore
  const before = await fingerprints(site.datastore)
  const states: [unknown, string][] = [
    [{ disks: encryption }, 'VMSEAL_ENCRYPTION_MISMATCH'],
    [{ home: 'GOLD' }, 'VMSEAL_POLICY_UNKNOWN'],
    [{ disks: { 'scsi0:9': encryption } }, 'VMSEAL_NOT_FOUND'],
    [{ disks: { ethernet0: encryption } }, 'VMSEAL_DEVICE_NOT_DISK'],
    [{ home: encryption, keyProvider: 'nobody' }, 'VMSEAL_KEY_PROVIDER_UNREACHABLE'],
    [{ policy: encryption }, 'VMSEAL_INVALID_ARGUMENT'],
    [{ home: 7 }, 'VMSEAL_INVALID_ARGUMENT'],
    [{ disks: { 'scsi0:0': null } }, 'VMSEAL_INVALID_ARGUMENT'],
    [null, 'VMSEAL_INVALID_ARGUMENT'],
    ['home', 'VMSEAL_INVALID_ARGUMENT'],
  ]
  for (const [state, code] of states)
    for (const dryRun of [true, false])
      await t.throwsAsync(vm.apply(state as DesiredState, { dryRun }).done, { code }, JSON.stringify(state))
  const without = async (missing: string) => {
    const held = allPrivileges.filter((privilege) => privilege !== missing)
    return (await userWith(vcenter, held)).virtualMachines.get('db01')
  }
  for (const missing of ['StorageProfile.Apply', 'Cryptographer.Encrypt'])
    await t.throwsAsync((await without(missing)).apply({ home: encryption }).done, {
      code: 'VMSEAL_NO_PERMISSION',
    })
  t.deepEqual(site.operations, [])
  t.deepEqual(await fingerprints(site.datastore), before)
})
