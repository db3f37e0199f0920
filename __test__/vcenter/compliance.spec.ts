/** Policy and state compared: each of the four answers, for VM home and disks, with its reason. */
import test from 'ava'
import { complianceOf } from '../../src/vcenter/compliance.js'
import type { VmRecord } from '../../src/store/store.js'
import { encryption, openSite, plain } from './site.js'

test('I1: compliance: compliant, not applicable, and not compliant when a host was told to do otherwise', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  await site.vcenter.storagePolicies.create({ name: 'tin', encryption: false })
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption,
    disks: [{ capacityBytes: 512 }, { capacityBytes: 512, policy: plain }, { capacityBytes: 512, policy: 'tin' }],
  }) // prettier-ignore
  const before = await vm.compliance()
  t.like(before, { name: 'db01', status: 'compliant', seen: 'now' })
  t.deepEqual(
    before.parts.map(({ part, policy, encrypted, status }) => [part, policy, encrypted, status]),
    [
      ['home', encryption, true, 'compliant'],
      ['scsi0:0', encryption, true, 'compliant'],
      ['scsi0:1', plain, false, 'notApplicable'],
      ['scsi0:2', 'tin', false, 'compliant'],
    ],
  )
  // Behind vCenter's back.
  const { disks, homeKey, datastore, vmx } = await vm.info()
  if (!homeKey) return t.fail()
  const changes = [
    { diskId: disks[0]?.diskId ?? '', crypto: { type: 'decrypt' } as const },
    { diskId: disks[1]?.diskId ?? '', crypto: { type: 'encrypt', key: homeKey } as const },
  ]
  await site.hosts[0]?.reconfigureVirtualMachine({ datastore, vmx }, { disks: changes })
  const after = await vm.compliance()
  t.is(after.status, 'nonCompliant')
  t.deepEqual(after.parts.map(({ status }) => status), ['compliant', 'nonCompliant', 'nonCompliant', 'compliant']) // prettier-ignore
  t.regex(after.parts[1]?.reason ?? '', /the policy encrypts and the part is plain: apply the policy/)
  t.regex(after.parts[2]?.reason ?? '', /does not encrypt and the part is encrypted/)
  await vm.applyPolicy({ disks: { 'scsi0:0': encryption, 'scsi0:1': plain } }).done
  t.is((await vm.compliance()).status, 'compliant')
})

test('I1: compliance of a VM whose host is away is what was seen last', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [],
  }) // prettier-ignore
  await site.hosts[0]?.stop()
  t.like(await vm.compliance(), { status: 'compliant', seen: 'before' })
})

test('I1: compliance: a policy that is not known, and one that was applied before it was changed', (t) => {
  const record = {
    id: 'vm', name: 'db01', homePolicyId: 'gone', homeKey: null,
    disks: [{ diskId: 'd', device: 'scsi0:0', policyId: 'p', key: { keyId: '1', providerId: 'k' } }],
  } as unknown as VmRecord // prettier-ignore
  const policies = [
    { id: 'p', name: 'gold', encryption: true, filtersBeforeEncryption: false, bundled: false, version: 3 },
  ]
  const judge = (version: number, policyId = 'p') =>
    complianceOf(record, { policies, applied: new Map([['d', { policyId, version }]]) }, 'now')
  t.deepEqual(judge(3).parts.map(({ status, policy }) => [policy, status]), [['gone', 'notApplicable'], ['gold', 'compliant']]) // prettier-ignore
  t.is(judge(2).status, 'outOfDate')
  t.is(judge(3, 'another').status, 'outOfDate', 'the note is of another policy')
  t.is(complianceOf(record, { policies, applied: new Map() }, 'now').parts[1]?.status, 'outOfDate')
})
