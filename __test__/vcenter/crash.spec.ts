/** Everything in one process, killed in the middle of an encryption; then everything again. */
import test from 'ava'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Host, Kms, VCenter } from '../../src/index.js'
import { filesWith, fingerprints } from './datastore-files.js'
import { encryption, makeImage, marker } from './site.js'

const program = fileURLToPath(new URL('encrypting-child.ts', import.meta.url))

test('kill -9 in the middle of an encryption: the task is failed as interrupted, the VM is whole, a rerun works', async (t) => {
  const directory = await mkdtemp(path.join(tmpdir(), 'vmseal-crash-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  const image = await makeImage(path.join(directory, 'a.raw'), 'a', 256)
  const child = spawn(process.execPath, ['--import=tsx', program, directory, image.file], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string]
  child.kill('SIGKILL')
  await once(child, 'close')
  t.not(line, 'too late')

  const kms = await Kms.start({ directory: path.join(directory, 'kms'), port: Number(line) })
  const vcenter = await VCenter.open({ directory: path.join(directory, 'vcenter') })
  const datastore = path.join(directory, 'ds1')
  const host = await Host.start({ name: 'esx-1', datastores: { ds1: datastore } })
  t.teardown(async () => {
    await vcenter.close()
    await host.stop()
    await kms.stop()
  })
  const [task] = await vcenter.tasks.list()
  t.like(task, { name: 'VirtualMachine.applyPolicy', state: 'error' })
  t.regex(task?.errorMessage ?? '', /^interrupted/)
  await vcenter.hosts.connect(host)
  const vm = await vcenter.virtualMachines.get('db01')
  t.is((await vm.info()).homeKey, undefined)
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
  const info = await vm.applyPolicy({ home: encryption, disks: encryption }).done
  t.truthy(info.disks[0]?.key)
  t.is((await vm.digest('scsi0:0')).sha256, image.sha256)
  t.deepEqual(await filesWith(datastore, marker), [], 'no plaintext and no leftover of the first run')
  const names = Object.keys(await fingerprints(datastore))
  t.is(names.filter((name) => name.endsWith('-flat.vmdk')).length, 1, names.join())
  t.false(
    names.some((name) => name.includes('.tmp') || name.endsWith('-task') || name.endsWith('.lck')),
    names.join(),
  )
})
