/** Lists and searches of the inventory: what they show, and that no host is asked. */
import fc from 'fast-check'
import test from 'ava'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { searchVirtualMachines } from '../../src/vcenter/vm-summary.js'
import type { Store, VmRecord } from '../../src/store/store.js'
import { userWith } from './authorization/users.js'
import { encryption, openSite } from './site.js'

test('a summary says what is encrypted under which key, as the VM itself does', async (t) => {
  const { vcenter, hosts } = await openSite(t, { hosts: ['esx-1'] })
  const place = { cluster: 'prod', datastore: 'ds1' }
  const capacityBytes = 1024 * 1024
  const disks = [{ capacityBytes }, { capacityBytes, policy: 'Datastore Default' }]
  const sealed = await vcenter.virtualMachines.create({ name: 'db01', policy: encryption, disks, ...place })
  await vcenter.virtualMachines.create({ name: 'web01', disks: [], ...place })
  const { homeKey } = await sealed.info()
  const [db01] = await vcenter.virtualMachines.search({ name: 'db*' })
  t.like(db01, {
    name: 'db01',
    cluster: 'prod',
    host: 'esx-1',
    policy: encryption,
    disks: 2,
    capacityBytes: 2 * capacityBytes,
    encrypted: [
      { part: 'home', key: homeKey },
      { part: 'scsi0:0', key: homeKey },
    ],
  })
  await hosts[0]?.stop()
  const names = async (filter: object): Promise<string[]> =>
    (await vcenter.virtualMachines.search(filter)).map(({ name }) => name)
  t.deepEqual(await names({}), ['db01', 'web01'], 'also while the host is away')
  t.deepEqual(await names({ encrypted: true }), ['db01'])
  t.deepEqual(await names({ encrypted: false }), ['web01'])
  t.deepEqual(await names({ keyId: homeKey?.keyId ?? '' }), ['db01'])
  t.deepEqual(await names({ cluster: 'prod', host: 'esx-*', datastore: 'ds1' }), ['db01', 'web01'])
  for (const filter of [
    { cluster: 'test' },
    { host: 'esx' },
    { powerState: 'poweredOn' },
    { cryptoState: 'locked' },
  ])
    t.deepEqual(await names(filter), [], JSON.stringify(filter))
  for (const filter of [{ name: 7 }, { keyId: {} }, { host: null }])
    await t.throwsAsync(names(filter), { code: 'VMSEAL_INVALID_ARGUMENT' })

  const session = await userWith(vcenter, allPrivileges, { on: { virtualMachine: 'web01' } })
  t.deepEqual(
    (await session.virtualMachines.search()).map(({ name }) => name),
    ['web01'],
    'a user finds what he may read',
  )
})

test('a pattern matches as the regular expression does, and many stars take no time', async (t) => {
  const record = {
    id: '1',
    name: '',
    disks: [],
    homeKey: null,
    formerKeys: [],
    hostId: null,
  } as unknown as VmRecord
  const storeOf = (name: string): Store =>
    ({
      virtualMachines: { list: async () => [{ ...record, name }] },
      clusters: { list: async () => [] },
      hosts: { list: async () => [] },
      storagePolicies: { list: async () => [] },
    }) as unknown as Store
  const word = fc.string({ unit: fc.constantFrom('a', 'b', '*', '.'), maxLength: 8 })
  await fc.assert(
    fc.asyncProperty(word, word, async (name, pattern) => {
      const expected = new RegExp(`^${pattern.split('*').map((piece) => piece.replaceAll('.', '\\.')).join('[^]*')}$`) // prettier-ignore
      t.is((await searchVirtualMachines(storeOf(name), { name: pattern })).length > 0, expected.test(name))
    }),
  )
  t.deepEqual(await searchVirtualMachines(storeOf('a'.repeat(200)), { name: `${'*a'.repeat(100)}*b` }), [])
})
