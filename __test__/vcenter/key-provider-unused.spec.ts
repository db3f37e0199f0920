/** Row G7 at the KMS: a key that only a running task or a silent host knows of is never destroyed. */
import test from 'ava'
import { keysAtKms } from './kms-view.js'
import { encryption, openSite } from './site.js'

const spec = (name: string) => ({ name, datastore: 'ds1', policy: encryption, disks: [] })

test('G7: nothing is destroyed at the KMS while a task is under way', async (t) => {
  const site = await openSite(t)
  const { keys } = site.vcenter.keyProviders
  const spare = await keys.create()
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [(await site.image('a', 4)).file],
  }) // prettier-ignore
  const task = vm.applyPolicy({ home: encryption, disks: encryption })
  const refused = t.throwsAsync(keys.destroyUnused('kms-1', [spare.keyId]), {
    code: 'VMSEAL_INVALID_STATE',
    message: /under way/,
  })
  await refused
  await task.done
  t.false(site.operations.includes('Destroy'))
  t.deepEqual(await keys.destroyUnused('kms-1', [spare.keyId]), [spare.keyId])
  await t.throwsAsync(keys.destroyUnused('kms-1', [spare.keyId]), { code: 'VMSEAL_INVALID_ARGUMENT' })
})

test('G7: nothing is destroyed at the KMS while a host does not say what it uses', async (t) => {
  const site = await openSite(t)
  const { vcenter, hosts } = site
  const { keys } = vcenter.keyProviders
  const gone = await vcenter.virtualMachines.create({ ...spec('db01'), cluster: site.cluster })
  const key = (await gone.info()).homeKey
  if (!key) return t.fail()
  await gone.destroy()
  await hosts[1]?.stop()
  await keys.remove([key])
  // It is reported, for a person to judge.
  t.deepEqual((await keys.unused('kms-1')).map((entry) => entry.key), [key]) // prettier-ignore
  await t.throwsAsync(keys.destroyUnused('kms-1', [key.keyId]), {
    code: 'VMSEAL_HOST_UNREACHABLE',
    message: /esx-2/,
  })
  await t.throwsAsync(keys.unused('no-such-provider'), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  t.like((await keysAtKms(site, ['State']))[0], { State: 'Active' })
})
