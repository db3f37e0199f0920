/** Row I7 of the feature table: the bundled policies stay as they are; own ones are cloned, changed by version and removed. */
import test from 'ava'
import { isVmsealError } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { encryption, openSite, plain } from './site.js'

test('I7: the bundled sample is cloned; filters come after encryption unless the clone says otherwise', async (t) => {
  const { vcenter } = await openSite(t, { hosts: [] })
  const { storagePolicies } = vcenter
  t.like(await storagePolicies.get(encryption), { filtersBeforeEncryption: false, version: 1, bundled: true })
  const gold = await storagePolicies.clone(encryption, 'gold')
  t.like(gold, { name: 'gold', encryption: true, filtersBeforeEncryption: false, bundled: false, version: 1 })
  const replicated = await storagePolicies.clone('gold', 'replicated', { filtersBeforeEncryption: true })
  t.true(replicated.filtersBeforeEncryption)
  t.not(replicated.id, gold.id)
  t.deepEqual(await storagePolicies.get('replicated'), replicated)
  await t.throwsAsync(storagePolicies.clone(encryption, 'gold'), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(storagePolicies.clone('none', 'x'), { code: 'VMSEAL_POLICY_UNKNOWN' })
  const senseless = { filtersBeforeEncryption: true }
  await t.throwsAsync(storagePolicies.clone(plain, 'x', senseless), { code: 'VMSEAL_INVALID_ARGUMENT' })
})

test('I7: a bundled policy is neither changed nor removed; an own one is, by version', async (t) => {
  const { vcenter } = await openSite(t, { hosts: [] })
  const { storagePolicies } = vcenter
  const before = await storagePolicies.list()
  for (const name of [encryption, plain]) {
    const refused = { code: 'VMSEAL_INVALID_STATE', message: /clone it/ }
    await t.throwsAsync(storagePolicies.update(name, { encryption: false }), refused)
    await t.throwsAsync(storagePolicies.update(name, { name: 'mine' }), refused)
    await t.throwsAsync(storagePolicies.remove(name), refused)
  }
  t.deepEqual(await storagePolicies.list(), before)
  await storagePolicies.clone(encryption, 'gold')
  t.is((await storagePolicies.update('gold', { filtersBeforeEncryption: true })).version, 2)
  t.is((await storagePolicies.update('gold', { filtersBeforeEncryption: true })).version, 2, 'no change')
  t.like(await storagePolicies.update('gold', { name: 'silver' }), { name: 'silver', version: 3 })
  await t.throwsAsync(storagePolicies.update('silver', { name: encryption }), {
    code: 'VMSEAL_ALREADY_EXISTS',
  })
  for (const changes of [{ name: '' }, { encryption: 1 as unknown as boolean }, { encryption: false }])
    await t.throwsAsync(storagePolicies.update('silver', changes), { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.is((await storagePolicies.get('silver')).version, 3)
  await storagePolicies.remove('silver')
  await t.throwsAsync(storagePolicies.get('silver'), { code: 'VMSEAL_POLICY_UNKNOWN' })
})

test('I7: a policy that a VM has is not removed, and changing it makes the VM out of date until it is applied', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { storagePolicies, virtualMachines } = site.vcenter
  await storagePolicies.clone(encryption, 'gold')
  const place = { cluster: site.cluster, datastore: 'ds1' }
  const vm = await virtualMachines.create({
    ...place,
    name: 'db01',
    policy: 'gold',
    disks: [{ capacityBytes: 512 }],
  })
  t.is((await vm.compliance()).status, 'compliant')
  await t.throwsAsync(storagePolicies.remove('gold'), { code: 'VMSEAL_INVALID_STATE', message: /db01/ })
  await storagePolicies.update('gold', { filtersBeforeEncryption: true })
  const stale = await vm.compliance()
  t.deepEqual(
    [stale.status, ...stale.parts.map(({ status }) => status)],
    ['outOfDate', 'outOfDate', 'outOfDate'],
  )
  t.regex(stale.parts[0]?.reason ?? '', /apply it again/)
  site.seen('Create')
  await vm.applyPolicy({ home: 'gold' }).done
  t.deepEqual((await vm.compliance()).parts.map(({ status }) => status), ['compliant', 'outOfDate']) // prettier-ignore
  await vm.applyPolicy({ disks: 'gold' }).done
  t.is((await vm.compliance()).status, 'compliant')
  t.is(site.seen('Create'), 0, 'the state was as it says')

  await storagePolicies.update('gold', { encryption: false, filtersBeforeEncryption: false })
  t.truthy((await vm.info()).homeKey, 'nothing happens to the VM')
  t.is((await vm.compliance()).status, 'outOfDate')
  t.is((await vm.applyPolicy({ home: 'gold', disks: 'gold' }).done).homeKey, undefined)
  t.is((await vm.compliance()).status, 'compliant')
  const younger = await virtualMachines.create({ ...place, name: 'db02', policy: 'gold', disks: [] })
  t.is((await younger.compliance()).status, 'compliant', 'it got the policy as it is now')
})

test('I7: changing an encryption policy needs Cryptographer.ManageEncryptionPolicy', async (t) => {
  const { vcenter } = await openSite(t, { hosts: [] })
  await vcenter.storagePolicies.clone(encryption, 'gold')
  await vcenter.storagePolicies.create({ name: 'tin', encryption: false })
  const clerk = await userWith(
    vcenter,
    allPrivileges.filter((privilege) => privilege !== 'Cryptographer.ManageEncryptionPolicy'),
  )
  for (const act of [
    () => clerk.storagePolicies.clone('gold', 'x'),
    () => clerk.storagePolicies.update('gold', { encryption: false }),
    () => clerk.storagePolicies.update('tin', { encryption: true }),
    () => clerk.storagePolicies.remove('gold'),
  ]) {
    const error = await t.throwsAsync(act, { code: 'VMSEAL_NO_PERMISSION' })
    t.is(isVmsealError(error) && error.details.privilege, 'Cryptographer.ManageEncryptionPolicy')
  }
  t.is((await clerk.storagePolicies.update('tin', { name: 'zinc' })).name, 'zinc')
})
