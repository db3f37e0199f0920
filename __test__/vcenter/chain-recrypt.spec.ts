/** A shallow recrypt of a chain that stops between two of its files: which key each file is under decides what is needed. */
import { rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { fingerprints } from './datastore-files.js'
import { connectAsVCenter } from './kms-view.js'
import { encryption, openSite } from './site.js'

/** Base under the new key, child under the old one; the host has the old one alone. */
async function halfDone(t: ExecutionContext) {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { file, sha256 } = await site.image('a')
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [file],
  }) // prettier-ignore
  await vm.createSnapshot({ name: 'one' }).done
  const before = await vm.info()
  const [disk] = before.disks
  const next = await site.vcenter.keyProviders.keys.create()
  // Somebody else holds the child: the recrypt has changed the base when it meets that.
  const lock = path.join(site.datastore, 'db01', `${disk!.file}.lck`)
  await writeFile(lock, 'another host')
  const recrypt = vm.recrypt({ depth: 'shallow', home: false, disks: [disk!.device], key: next })
  await t.throwsAsync(recrypt.done, { code: 'VMSEAL_FILE_LOCKED' })
  await rm(lock)
  const half = await vm.info()
  t.deepEqual(half.disks[0]?.key, before.homeKey, 'the child was not reached')
  t.deepEqual(half.formerKeys, [next], 'the base was')
  const [host] = site.hosts
  await host!.removeKey(next)
  site.seen('Create')
  return { site, vm, next, sha256, old: before.homeKey! }
}

test('D3, D4: a chain that a recrypt left under two keys gets the one that the host lacks, and heals', async (t) => {
  const { vm, next, sha256, old } = await halfDone(t)
  const healed = await vm.recrypt({ depth: 'shallow' }).done
  t.is(healed.formerKeys, undefined)
  t.false([next.keyId, old.keyId].includes(healed.homeKey!.keyId))
  t.deepEqual(healed.disks[0]?.key, healed.homeKey)
  t.is((await vm.digest('scsi0:0')).sha256, sha256)
})

test('D3, D4: with one KEK of such a chain lost the next recrypt is refused before a key is made', async (t) => {
  const { site, vm, next } = await halfDone(t)
  const client = await connectAsVCenter(site)
  await client.revoke(next.keyId, 'CessationOfOperation')
  await client.destroy(next.keyId)
  client.close()
  const before = await fingerprints(site.datastore)
  const error = await t.throwsAsync(vm.recrypt({ depth: 'shallow' }).done, {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
  })
  t.like(error, { details: { requiredKeys: [next] } })
  t.is(site.seen('Create'), 0, 'a refusal makes no key')
  t.deepEqual(await fingerprints(site.datastore), before)
})
