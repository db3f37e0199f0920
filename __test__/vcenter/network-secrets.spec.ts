/** What vCenter and a host say to each other, recorded on the wire and inside of TLS: no KEK, no DEK, no plaintext. */
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import { fetchKek, openWrap } from '../../examples/main-job/independent-reader.js'
import { needlesOf } from '../key-absence/scanner.js'
import { found, startRecorder } from './recorder.js'
import { encryption, marker, openSite, plain, startAgent } from './site.js'

test('A2, A4, J6: a recorded conversation holds no KEK, DEK or plaintext of a disk, in any encoding', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const agent = await startAgent(site.directory, 'esx-1', site.datastore)
  t.teardown(() => agent.stop())
  const recorder = await startRecorder(t, agent.address)
  const { token = '' } = agent.joinToken ?? {}
  await site.cluster.addHost({ address: recorder.address, token })
  recorder.open(path.join(site.directory, 'esx-1'), path.join(site.directory, 'vcenter'))

  await site.vcenter.hosts.configureCryptoKey('esx-1')
  const image = await site.image('secret', 2)
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [image.file],
  }) // prettier-ignore
  await vm.applyPolicy({ home: encryption, disks: encryption }, { perDiskKeys: true }).done
  await vm.addDisk({ capacityBytes: 2 ** 20, policy: encryption }).done
  // The VM leaves, and comes back to a host that has forgotten all keys.
  const other = await startAgent(site.directory, 'esx-2', site.datastore)
  t.teardown(() => other.stop())
  await site.cluster.addHost({ address: other.address, token: other.joinToken?.token ?? '' })
  await vm.migrate({ host: 'esx-2' }).done
  await agent.host.restart()
  t.is((await vm.migrate({ host: 'esx-1' }).done).cryptoState, 'unlocked')
  await vm.powerOn()
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
  await t.throwsAsync(vm.readDisk('scsi0:0', 0, 4096), { code: 'VMSEAL_HOST_LOCAL_ONLY' })
  await vm.powerOff()
  const { homeKey, disks } = await vm.info()

  const access = { kms: site.kms.endpoint, credentials: site.credentials }
  const needles = needlesOf('plaintext', Buffer.from(marker.slice(0, 32)))
  const folder = path.join(site.datastore, 'db01')
  const parts = [{ key: homeKey, file: 'db01.vmx' }, ...disks.map(({ key, file }) => ({ key, file }))]
  const keyIds = new Set<string>()
  for (const { key, file } of parts) {
    const kek = await fetchKek(access, key?.keyId ?? '')
    const { dek } = await openWrap(await readFile(path.join(folder, file), 'utf8'), kek)
    for (const [name, value] of [...needlesOf(`KEK of ${file}`, kek), ...needlesOf(`DEK of ${file}`, dek)])
      needles.set(name, value)
    keyIds.add(key?.keyId ?? '')
  }
  const hostKey = (await site.vcenter.hosts.get('esx-1')).cryptoKeyId?.keyId ?? ''
  for (const [name, value] of needlesOf('host key', await fetchKek(access, hostKey))) needles.set(name, value)
  await vm.applyPolicy({ home: plain, disks: plain }).done

  const [wire, inside] = [Buffer.concat(recorder.wire), Buffer.concat(recorder.inside)]
  t.is(keyIds.size, 3)
  for (const keyId of [...keyIds, hostKey]) {
    t.true(inside.includes(keyId), 'the inside of TLS is what was recorded')
    t.false(wire.includes(keyId), 'and on the wire there are not even ids')
  }
  t.regex(inside.toString('latin1'), /"method":"installKey".*"sealed":"/)
  t.deepEqual(found(needles, inside), [])
  t.deepEqual(found(needles, wire), [])

  // Control: the search finds each of them, if one is there.
  for (const [name, needle] of needles)
    t.true(found(needles, Buffer.concat([inside, needle])).includes(name), name)
})
