/** Row I1 of the feature table: VM home and each disk have a storage policy, and the crypto state follows it. */
import test from 'ava'
import fc from 'fast-check'
import { isVmsealError } from '../../src/errors.js'
import { encryption, openSite, plain } from './site.js'

const encrypts = (policy: string): boolean => policy === encryption || policy === 'gold'

test('I1: state follows policy under a random sequence of changes, with one key for each task that encrypts', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  await site.vcenter.storagePolicies.create({ name: 'gold', encryption: true })
  await site.vcenter.storagePolicies.create({ name: 'tin', encryption: false })
  const image = await site.image('a')
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [image.file, image.file],
  }) // prettier-ignore
  const model = { home: plain, disks: [plain, plain] }
  const policy = fc.constantFrom(encryption, plain, 'gold', 'tin')
  const wish = fc.record({ home: policy, first: policy, second: policy }, { requiredKeys: [] })
  let refused = 0
  for (const { home, first, second } of fc.sample(wish, { numRuns: 24, seed: 20_260 })) {
    const disks = {
      ...(first === undefined ? {} : { 'scsi0:0': first }),
      ...(second === undefined ? {} : { 'scsi0:1': second }),
    }
    const next = {
      home: home ?? model.home,
      disks: [first ?? model.disks[0], second ?? model.disks[1]] as string[],
    }
    const allowed = encrypts(next.home) || !next.disks.some(encrypts)
    const before = [model.home, ...model.disks].map(encrypts)
    const after = [next.home, ...next.disks].map(encrypts)
    const error = await vm.applyPolicy({ ...(home === undefined ? {} : { home }), disks }).done.then(
      () => undefined,
      (reason: unknown) => reason,
    )
    if (allowed) {
      t.is(error, undefined)
      Object.assign(model, next)
    } else {
      refused += 1
      t.true(isVmsealError(error, 'VMSEAL_ENCRYPTION_MISMATCH'))
    }
    const makesKey = allowed && after.some((encrypted, part) => encrypted && !before[part])
    t.is(site.seen('Create'), makesKey ? 1 : 0)
    const info = await vm.info()
    t.deepEqual([info.policy, ...info.disks.map((disk) => disk.policy)], [model.home, ...model.disks])
    t.deepEqual([info.homeKey, ...info.disks.map(({ key }) => key)].map(Boolean), [model.home, ...model.disks].map(encrypts)) // prettier-ignore
  }
  t.true(refused > 0)
  for (const disk of ['scsi0:0', 'scsi0:1']) t.is((await vm.digest(disk)).sha256, image.sha256)
})

test('I1: policies: the bundled ones cannot be replaced, names are checked, unknown ones are refused with the list', async (t) => {
  const { vcenter } = await openSite(t, { hosts: [] })
  const { storagePolicies } = vcenter
  t.like(await storagePolicies.get(encryption), { id: '4d5f673c-536f-11e6-beb8-9e71128cae77', encryption: true, bundled: true }) // prettier-ignore
  t.like(await storagePolicies.get(plain), { encryption: false, bundled: true })
  for (const name of [encryption, plain])
    await t.throwsAsync(storagePolicies.create({ name, encryption: true }), { code: 'VMSEAL_ALREADY_EXISTS' })
  const own = await storagePolicies.create({ name: 'gold', encryption: true })
  t.deepEqual(await storagePolicies.get('gold'), own)
  t.deepEqual((await storagePolicies.list()).map(({ name }) => name), [plain, encryption, 'gold']) // prettier-ignore
  for (const name of ['', ' gold', 'a\u0000b', 'x'.repeat(256)])
    await t.throwsAsync(storagePolicies.create({ name, encryption: true }), {
      code: 'VMSEAL_INVALID_ARGUMENT',
    })
  const unknown = await t.throwsAsync(storagePolicies.get('GOLD'), { code: 'VMSEAL_POLICY_UNKNOWN' })
  t.regex(unknown?.message ?? '', /'gold'/)
})
