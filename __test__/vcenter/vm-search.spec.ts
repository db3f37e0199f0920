/** The inventory in lists: what a search finds is what the VMs are, page by page, and no host is asked. */
import { randomUUID } from 'node:crypto'
import path from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { VCenter, type VirtualMachineQuery } from '../../src/index.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { give, userWith } from './authorization/users.js'
import { encryption, openSite, plain } from './site.js'

test('a search finds VMs by name, cluster, host, policy, key, provider and state', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { virtualMachines } = site.vcenter
  const place = { cluster: site.cluster, datastore: 'ds1' }
  const disk = { capacityBytes: 4096 }
  const db = await virtualMachines.create({
    ...place,
    name: 'DB_01',
    policy: encryption,
    disks: [disk, { ...disk, policy: plain }],
  })
  await virtualMachines.create({ ...place, name: 'dbX01', disks: [disk] })
  const web = await virtualMachines.create({ ...place, name: 'web', policy: encryption, disks: [] })
  await web.powerOn()
  const { homeKey } = await db.info()
  if (!homeKey) return t.fail()
  const found = async (query: VirtualMachineQuery) =>
    (await virtualMachines.search(query)).map(({ name }) => name)
  t.deepEqual(await found({}), ['DB_01', 'dbX01', 'web'])
  t.deepEqual(await found({ name: 'db' }), ['DB_01', 'dbX01'])
  t.deepEqual(await found({ name: 'db_' }), ['DB_01'], 'no wildcard')
  t.deepEqual(await found({ key: homeKey }), ['DB_01'])
  t.deepEqual(await found({ keyProvider: 'kms-1' }), ['DB_01', 'web'])
  t.deepEqual(await found({ encrypted: false }), ['dbX01'])
  t.deepEqual(await found({ policy: plain }), ['DB_01', 'dbX01'])
  t.deepEqual(await found({ powerState: 'poweredOn', cryptoState: 'unlocked' }), ['web'])
  t.deepEqual(await found({ cluster: 'prod', host: 'esx-1', datastore: 'ds1', limit: 2 }), ['DB_01', 'dbX01'])
  t.deepEqual(await found({ after: 'dbX01' }), ['web'])
  await site.hosts[0]?.stop()
  t.deepEqual((await virtualMachines.search({ name: 'DB_01' }))[0], {
    id: db.id, name: 'DB_01', clusterId: site.cluster.id, cluster: 'prod', host: 'esx-1', datastore: 'ds1', policy: encryption, homeKey,
    disks: 2, encryptedDisks: 1, cryptoState: 'unlocked', powerState: 'poweredOff',
  }) // prettier-ignore
  await t.throwsAsync(virtualMachines.search({ cluster: 'none' }), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(virtualMachines.search({ policy: 'none' }), { code: 'VMSEAL_POLICY_UNKNOWN' })
  const senseless = [
    { limit: 0 },
    { limit: 1.5 },
    { name: 7 },
    { encrypted: 'yes' },
    { owner: 'me' },
    { key: { keyId: '1' } },
    null,
  ]
  for (const query of senseless)
    await t.throwsAsync(virtualMachines.search(query as VirtualMachineQuery), {
      code: 'VMSEAL_INVALID_ARGUMENT',
    })
  return undefined
})

test('a search shows a user the VMs that he may read, and no others', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter } = site
  const make = (name: string) =>
    vcenter.virtualMachines.create({ name, cluster: site.cluster, datastore: 'ds1', disks: [] })
  await make('mine')
  await make('theirs')
  const session = await userWith(vcenter, allPrivileges, { on: { virtualMachine: 'mine' } })
  t.deepEqual(
    (await session.virtualMachines.search()).map(({ name }) => name),
    ['mine'],
  )
  await give(vcenter, session.user, 'Read-only', { on: { cluster: 'prod' } })
  t.deepEqual(
    (await session.virtualMachines.search()).map(({ name }) => name),
    ['mine', 'theirs'],
  )
})

test('whatever is in the inventory, pages put together are the whole, and a search is a filter of all', async (t) => {
  const { vcenter, directory } = await openSite(t, { hosts: [] })
  await vcenter.close()
  const store = openSqliteStore(path.join(directory, 'vcenter', 'vcenter.db'))
  const [cluster] = await store.clusters.list()
  const policies = await store.storagePolicies.list()
  const random = fc.record({
    name: fc.stringMatching(/^[a-cA-C%_]{1,8}$/),
    key: fc.option(fc.record({ providerId: fc.constantFrom('k1', 'k2'), keyId: fc.constantFrom('1', '2') })),
    diskKey: fc.option(
      fc.record({ providerId: fc.constantFrom('k1', 'k2'), keyId: fc.constantFrom('1', '2') }),
    ),
    locked: fc.boolean(),
  })
  const vms = new Map(fc.sample(random, { numRuns: 150, seed: 3 }).map((vm) => [vm.name, vm]))
  for (const { name, key, diskKey, locked } of vms.values())
    await store.virtualMachines.insert({
      id: randomUUID(), revision: 1, name, clusterId: cluster?.id ?? '', hostId: null, datastore: 'ds1', vmx: `${name}/${name}.vmx`,
      homePolicyId: policies[key ? 1 : 0]?.id ?? '', homeKey: key, homeGeneration: key ? 1 : null, formerKeys: [],
      cryptoState: locked ? 'locked' : 'unlocked', powerState: 'poweredOff',
      disks: [{ diskId: randomUUID(), device: 'scsi0:0', file: 'a.vmdk', capacityBytes: 512, policyId: policies[0]?.id ?? '', key: diskKey, generation: null }],
    }) // prettier-ignore
  const used = await store.virtualMachines.usedKeys()
  t.is(used.length, 4)
  for (const key of used) {
    const users = new Set(
      (await store.virtualMachines.partsOfKey(key)).map(({ virtualMachine }) => virtualMachine),
    )
    t.deepEqual(users, new Set((await store.virtualMachines.search({ key })).map(({ name }) => name)))
  }
  await store.close()
  const again = await VCenter.open({ directory: path.join(directory, 'vcenter') })
  t.teardown(() => again.close())
  const search = async (query: VirtualMachineQuery) =>
    (await again.virtualMachines.search(query)).map(({ name }) => name)
  const all = await search({})
  t.deepEqual(all.toSorted(), [...vms.keys()].toSorted())
  t.deepEqual(
    (await again.virtualMachines.list()).map(({ name }) => name),
    all,
  )
  const pages: string[] = []
  for (
    let page = await search({ limit: 7 });
    page.length > 0;
    page = await search({ limit: 7, after: page.at(-1) ?? '' })
  )
    pages.push(...page)
  t.deepEqual(pages, all)
  const query = fc.record(
    { name: fc.stringMatching(/^[a-c%_]{1,2}$/), keyProvider: fc.constantFrom('k1', 'k2'), cryptoState: fc.constantFrom('locked' as const, 'unlocked' as const), encrypted: fc.boolean() },
    { requiredKeys: [] },
  ) // prettier-ignore
  for (const one of fc.sample(query, { numRuns: 40, seed: 9 }) as VirtualMachineQuery[]) {
    const expected = all.filter((name) => {
      const vm = vms.get(name)
      const providers: unknown[] = [vm?.key?.providerId, vm?.diskKey?.providerId]
      return (
        (one.name === undefined || name.toLowerCase().includes(one.name.toLowerCase())) &&
        (one.keyProvider === undefined || providers.includes(one.keyProvider)) &&
        (one.cryptoState === undefined || (vm?.locked ? 'locked' : 'unlocked') === one.cryptoState) &&
        (one.encrypted === undefined || (vm?.key != null) === one.encrypted)
      )
    })
    t.deepEqual(await search(one), expected, JSON.stringify(one))
  }
})
