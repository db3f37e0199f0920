/** Rows C1, C2 and C3 of the feature table: decryption by policy, its order, and what it needs. */
import test from 'ava'
import { KmipClient } from '../../src/kmip/client.js'
import { filesWith, fingerprints } from './datastore-files.js'
import { encryption, marker, openSite, plain, type Site } from './site.js'

async function encryptedVm(site: Site) {
  const images = [await site.image('a'), await site.image('b')]
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: images.map(({ file }) => file), host: 'esx-1',
  }) // prettier-ignore
  const { homeKey } = await vm.info()
  if (!homeKey) throw new Error('the VM is not encrypted')
  site.seen('Create')
  return { vm, images, key: homeKey }
}

test('C1: the whole VM by changing the policy: bytes equal the originals, no key id or wrap is left', async (t) => {
  const site = await openSite(t)
  const { vm, images, key } = await encryptedVm(site)
  t.true((await filesWith(site.datastore, 'vmseal.dek')).length >= 3)
  const info = await vm.applyPolicy({ home: plain, disks: plain }).done
  t.is(info.homeKey, undefined)
  t.deepEqual(info.disks.map((disk) => disk.key), [undefined, undefined]) // prettier-ignore
  t.deepEqual([info.policy, ...info.disks.map(({ policy }) => policy)], [plain, plain, plain])
  for (const [index, { sha256 }] of images.entries()) t.is((await vm.digest(`scsi0:${index}`)).sha256, sha256)
  const left = (await filesWith(site.datastore, key.keyId)).filter((name) => !name.endsWith('.log'))
  t.deepEqual(left, [])
  for (const text of ['vmseal.dek', 'eyJ']) t.deepEqual(await filesWith(site.datastore, text), [])
  t.is((await filesWith(site.datastore, marker)).length, 2)
  t.is(site.seen('Create'), 0, 'decryption makes no key')
})

test('C2: selected disks first, VM home last; home first is refused and nothing is written', async (t) => {
  const site = await openSite(t)
  const { vm, images } = await encryptedVm(site)
  const mismatch = { code: 'VMSEAL_ENCRYPTION_MISMATCH' }
  const before = await fingerprints(site.datastore)
  await t.throwsAsync(vm.applyPolicy({ home: plain }).done, mismatch)
  await t.throwsAsync(vm.applyPolicy({ home: plain, disks: { 'scsi0:0': plain } }).done, mismatch)
  t.deepEqual(await fingerprints(site.datastore), before)
  t.is((await vm.info()).policy, encryption, 'the policy did not change either')

  const first = await vm.applyPolicy({ disks: { 'scsi0:1': plain } }).done
  t.deepEqual(first.disks.map(({ key }) => key !== undefined), [true, false]) // prettier-ignore
  await t.throwsAsync(vm.applyPolicy({ home: plain }).done, mismatch)
  await vm.applyPolicy({ disks: { 'scsi0:0': plain } }).done
  const last = await vm.applyPolicy({ home: plain }).done
  t.is(last.homeKey, undefined)
  for (const [index, { sha256 }] of images.entries()) t.is((await vm.digest(`scsi0:${index}`)).sha256, sha256)
})

test('C3: KMS stopped and host restarted: decryption is refused, naming the keys, and nothing is written', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, key } = await encryptedVm(site)
  await site.kms.stop()
  await site.hosts[0]?.restart()
  const before = await fingerprints(site.datastore)
  const task = vm.applyPolicy({ home: plain, disks: plain })
  const refusal = await t.throwsAsync(task.done, { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  t.deepEqual(
    (refusal as { details?: { requiredKeys?: unknown[] } } | undefined)?.details?.requiredKeys?.[0],
    key,
  )
  t.like(refusal?.cause, { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
  t.is(task.state, 'error')
  t.deepEqual(await fingerprints(site.datastore), before)
  t.like(await vm.info(), { cryptoState: 'locked', homeKey: key, policy: encryption })
  await t.throwsAsync(vm.unlock(), { code: 'VMSEAL_KEY_PROVIDER_UNREACHABLE' })
})

test('C3: KMS running and host restarted: decryption fetches the same key by itself', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vm, images, key } = await encryptedVm(site)
  await site.hosts[0]?.restart()
  site.seen('Get')
  const task = vm.applyPolicy({ home: plain, disks: plain })
  const fetched: (string | undefined)[] = []
  task.on('step', ({ action, keyId }) => {
    if (action === 'key fetched') fetched.push(keyId)
  })
  await task.done
  t.deepEqual(fetched, [key.keyId])
  t.is(site.seen('Get'), 2, 'this one and the host key')
  t.is(site.seen('Create'), 0)
  t.deepEqual((await vm.digest('scsi0:1')).sha256, images[1]?.sha256)
})

test('C3: the key destroyed at the KMS: refused for a host without it, still possible on one that has it', async (t) => {
  const site = await openSite(t)
  const { vm, images, key } = await encryptedVm(site)
  const client = await KmipClient.connect({ ...site.kms.endpoint, ...site.credentials })
  await client.revoke(key.keyId, 'CessationOfOperation')
  await client.destroy(key.keyId)
  client.close()
  await site.hosts[0]?.restart()
  const before = await fingerprints(site.datastore)
  const refusal = await t.throwsAsync(vm.applyPolicy({ home: plain, disks: plain }, { host: 'esx-1' }).done, {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
  })
  t.like(refusal?.cause, { code: 'VMSEAL_KEY_MISSING_IN_KMS' })
  t.deepEqual(await fingerprints(site.datastore), before)
  await vm.applyPolicy({ home: plain, disks: plain }, { host: 'esx-2' }).done
  t.is((await vm.info()).host, 'esx-2')
  t.deepEqual((await vm.digest('scsi0:0')).sha256, images[0]?.sha256)
})
