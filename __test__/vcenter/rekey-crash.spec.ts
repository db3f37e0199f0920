/** Everything in one process, killed in the middle of a rekey; then everything again. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { Host, Kms, VCenter } from '../../src/index.js'
import { makeImage } from './site.js'

const program = fileURLToPath(new URL('rekeying-child.ts', import.meta.url))
const count = 8

test('D3: kill -9 of vCenter, host and KMS in the middle of a rekey: every VM opens, and it goes on', async (t) => {
  const directory = await mkdtemp(path.join(tmpdir(), 'vmseal-crash-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  const image = await makeImage(path.join(directory, 'a.raw'), 'a', 1)
  const child = spawn(process.execPath, ['--import=tsx', program, directory, image.file, String(count)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let port = 0
  for await (const line of createInterface({ input: child.stdout })) {
    t.not(line, 'too late')
    port = Number(line.split(' ')[0])
    if (line.endsWith(' 2')) child.kill('SIGKILL')
  }
  if (child.exitCode === null && child.signalCode === null) await once(child, 'close')

  const kms = await Kms.start({ directory: path.join(directory, 'kms'), port })
  const vcenter = await VCenter.open({ directory: path.join(directory, 'vcenter') })
  const host = await Host.start({ name: 'esx-1', datastores: { ds1: path.join(directory, 'ds1') } })
  t.teardown(async () => {
    await vcenter.close()
    await host.stop()
    await kms.stop()
  })
  t.like(await vcenter.hosts.connect(host), { failed: [], locked: [] })
  const vms = await vcenter.virtualMachines.list()
  t.is(vms.length, count)
  const old = new Map<string, string | undefined>()
  for (const vm of vms) {
    t.is((await vm.digest('scsi0:0')).sha256, image.sha256, vm.name)
    old.set(vm.name, (await vm.info()).homeKey?.keyId)
  }
  const result = await vcenter.rekey({ provider: 'kms-1' }).done
  t.true(result.resumed)
  t.true(
    result.virtualMachines.length < count && result.virtualMachines.every(({ state }) => state === 'done'),
  )
  const keys = new Set<string | undefined>()
  for (const vm of vms) {
    const { homeKey, disks, formerKeys } = await vm.info()
    t.deepEqual([disks[0]?.key, formerKeys], [homeKey, undefined], vm.name)
    keys.add(homeKey?.keyId)
    t.is((await vm.digest('scsi0:0')).sha256, image.sha256, vm.name)
    const redone = result.virtualMachines.find(({ name }) => name === vm.name)
    if (redone) t.deepEqual(redone.key, homeKey, vm.name)
    else t.is(homeKey?.keyId, old.get(vm.name), 'done before it was killed')
  }
  t.is(keys.size, count)
})
