/** The memory of a guest on its way between two agents over TLS, recorded on the wire and inside of TLS, where vCenter stands. */
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import { fetchKek, openWrap } from '../../examples/main-job/independent-reader.js'
import { needlesOf } from '../key-absence/scanner.js'
import { found, startRecorder } from './recorder.js'
import { encryption, marker, openSite, plain, startAgent } from './site.js'

test('J4, J5: a recorded live migration holds nothing of the memory in any encoding, of an encrypted VM and a plain one', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const recorders: Awaited<ReturnType<typeof startRecorder>>[] = []
  for (const name of ['esx-1', 'esx-2']) {
    const agent = await startAgent(site.directory, name, site.datastore)
    t.teardown(() => agent.stop())
    const recorder = await startRecorder(t, agent.address)
    await site.cluster.addHost({ address: recorder.address, token: agent.joinToken?.token ?? '' })
    recorder.open(path.join(site.directory, name), path.join(site.directory, 'vcenter'))
    await site.vcenter.hosts.configureCryptoKey(name)
    recorders.push(recorder)
  }
  const text = Buffer.from('a guest keeps this in its memory')
  const memory = Buffer.concat(Array.from({ length: 50_000 }, () => text))
  const from = path.join(site.directory, 'memory.out')
  await writeFile(from, memory)
  const needles = new Map([
    ...needlesOf('memory', text),
    ...needlesOf('plaintext', Buffer.from(marker.slice(0, 32))),
  ])
  const image = await site.image('secret', 1)
  const move = async (name: string, policy: string, mode?: 'disabled') => {
    const place = { cluster: site.cluster, datastore: 'ds1', host: 'esx-1' }
    const vm = await site.vcenter.virtualMachines.import({ ...place, name, policy, disks: [image.file] })
    if (mode) await vm.setMigrateEncryption(mode)
    await vm.powerOn()
    const memoryTarget = path.join(site.directory, `${name}.in`)
    t.like(await vm.liveMigrate({ host: 'esx-2', memory: from, memoryTarget }).done, {
      host: 'esx-2',
      powerState: 'poweredOn',
    })
    t.true((await readFile(memoryTarget)).equals(memory))
    t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
    return vm
  }
  const vm = await move('db01', encryption)
  await move('db02', plain)
  const { homeKey, disks } = await vm.info()
  const access = { kms: site.kms.endpoint, credentials: site.credentials }
  for (const file of ['db01.vmx', disks[0]?.file ?? '']) {
    const kek = await fetchKek(access, homeKey?.keyId ?? '')
    const { dek } = await openWrap(await readFile(path.join(site.datastore, 'db01', file), 'utf8'), kek)
    for (const [name, value] of [...needlesOf(`KEK of ${file}`, kek), ...needlesOf(`DEK of ${file}`, dek)])
      needles.set(name, value)
  }
  const recorded = () =>
    Buffer.concat(recorders.flatMap(({ wire, inside }) => [Buffer.concat(wire), Buffer.concat(inside)]))
  const all = recorded()
  t.regex(all.toString('latin1'), /"method":"writeMigrationPiece"/, 'the inside of TLS is what was recorded')
  t.regex(all.toString('latin1'), /"sealed":"/)
  t.deepEqual(found(needles, all), [])

  // Control, and what `disabled` comes to: inside of TLS, where vCenter passes it on, and not on the wire.
  await move('db03', plain, 'disabled')
  t.true(found(needles, recorded()).some((name) => name.startsWith('memory')))
  t.deepEqual(found(needles, Buffer.concat(recorders.flatMap(({ wire }) => wire))), [])
})
