import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Datastore } from '../../src/host/datastore.js'
import { commitTransaction, recover, type FileTransaction } from '../../src/host/file-transaction.js'
import { newIdentity, writeDescription } from '../../src/host/home-description.js'
import { VirtualMachineLock } from '../../src/host/lock.js'
import { serialiseManifest } from '../../src/host/task-manifest.js'
import { WorkMeter } from '../../src/host/work.js'

const vmId = '6000c291-35bd-4d2d-a77e-709fb2c53635'
const diskId = '6000c291-35bd-4d2d-a77e-709fb2c53636'
const owner = { hostId: 'host-1', bootId: 'boot-1' }
const oldFiles = ['db01.vmdk', 'db01-flat.vmdk', 'db01.nvram']
const newFiles = ['db01_1.vmdk', 'db01_1-flat.vmdk', 'db01_1.vmdk.vmseal', 'db01_1.nvram']

function vmxOf(generation: number) {
  const suffix = generation === 1 ? '' : '_1'
  const document = newIdentity('db01', vmId)
  const disks = [{ device: 'scsi0:0', file: `db01${suffix}.vmdk`, diskId }]
  const homeFiles = [{ role: 'nvram', file: `db01${suffix}.nvram` }]
  writeDescription(document, { vmId, name: 'db01', generation, disks, homeFiles })
  return document
}

async function makeVm(t: ExecutionContext, vmx = vmxOf(1), present: readonly string[] = oldFiles) {
  const directory = await mkdtemp(join(tmpdir(), 'vmseal-transaction-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  await mkdir(join(directory, 'db01'))
  const files = (await Datastore.open('ds1', directory)).filesOf('db01')
  await writeFile(files.path(files.vmx), vmx.toString())
  for (const name of [...present, 'notes.txt']) await writeFile(files.path(name), name)
  return files
}

type Files = Awaited<ReturnType<typeof makeVm>>

async function contents(files: Files) {
  const names = (await readdir(files.directory)).toSorted()
  return Promise.all(names.map(async (name) => [name, await readFile(files.path(name), 'utf8')] as const))
}

async function writeManifest(files: Files, change: Partial<Parameters<typeof serialiseManifest>[0]> = {}) {
  const manifest = { generation: 2, created: newFiles, superseded: oldFiles, ...change }
  await writeFile(files.path(files.manifest), serialiseManifest(manifest))
}

function transactionOf(prepare: () => Promise<void>): FileTransaction {
  return { generation: 2, created: newFiles, superseded: oldFiles, steps: [], vmx: vmxOf(2), prepare }
}

test('a crash at any moment before the commit is undone', async (t) => {
  for (let made = 0; made <= newFiles.length; made += 1) {
    const files = await makeVm(t)
    const before = await contents(files)
    await writeManifest(files)
    for (const name of newFiles.slice(0, made)) await writeFile(files.path(name), 'half')
    await writeFile(files.path('.db01_1-flat.vmdk.tmp-77-1'), 'x')
    await writeFile(files.path('.db01.vmx.tmp-abcdef'), 'x')
    t.is(await recover(files), 'undone')
    t.deepEqual(await contents(files), before)
    t.is(await recover(files), 'nothing')
  }
})

test('a crash at any moment after the commit is finished', async (t) => {
  for (let gone = 0; gone <= oldFiles.length; gone += 1) {
    const files = await makeVm(t, vmxOf(2), [...newFiles, ...oldFiles.slice(gone)])
    await writeManifest(files)
    t.is(await recover(files), 'finished')
    t.deepEqual((await readdir(files.directory)).toSorted(), [...newFiles, files.vmx, 'notes.txt'].toSorted())
  }
})

test('a crash before the manifest leaves only a temporary file, which goes', async (t) => {
  const files = await makeVm(t)
  const before = await contents(files)
  await writeFile(files.path(`.${files.manifest}.tmp-0123`), '{')
  t.is(await recover(files), 'nothing')
  t.deepEqual(await contents(files), before)
})

test('whatever a manifest says, files that the .vmx names stay', async (t) => {
  for (const generation of [1, 2, 7]) {
    const files = await makeVm(t)
    const before = await contents(files)
    await writeManifest(files, { generation, created: oldFiles, superseded: oldFiles })
    await recover(files)
    t.deepEqual(await contents(files), before)
  }
})

test('a hostile manifest is refused and nothing is removed', async (t) => {
  const files = await makeVm(t)
  for (const text of [
    JSON.stringify({ version: 1, generation: 1, created: [], superseded: ['notes.txt'] }),
    JSON.stringify({ version: 1, generation: 2, created: ['../db01/db01.vmdk'], superseded: [] }),
    '{',
    'null',
    ' '.repeat(300_000),
  ]) {
    await writeFile(files.path(files.manifest), text)
    const before = await contents(files)
    await t.throwsAsync(recover(files), { code: 'VMSEAL_STORE_INVALID' })
    t.deepEqual(await contents(files), before)
  }
})

test('a damaged .vmx stops recovery before it removes anything', async (t) => {
  const files = await makeVm(t)
  await writeManifest(files)
  await writeFile(files.path(files.vmx), 'vmseal.gen = "2"\n')
  const before = await contents(files)
  await t.throwsAsync(recover(files), { code: 'VMSEAL_VMX_INVALID' })
  t.deepEqual(await contents(files), before)
})

test('a transaction ends with the new files alone', async (t) => {
  const files = await makeVm(t)
  const lock = await VirtualMachineLock.acquire(files, owner)
  const prepare = async () => {
    for (const name of newFiles) await writeFile(files.path(name), 'new')
  }
  await commitTransaction(files, lock, transactionOf(prepare), new WorkMeter({}, []))
  await lock.release()
  t.deepEqual((await readdir(files.directory)).toSorted(), [...newFiles, files.vmx, 'notes.txt'].toSorted())
  t.is((await files.readVmx())?.toString(), vmxOf(2).toString())
})

test('a failure, a cancelled request or a lost lock before the commit leaves everything as it was', async (t) => {
  const failure = new Error('the disk is on fire')
  const spoilers: [(files: Files) => Promise<void>, object, AbortSignal?][] = [
    [() => Promise.reject(failure), { is: failure }],
    [() => Promise.resolve(), { code: 'VMSEAL_CANCELLED' }, AbortSignal.abort()],
    [(files) => rm(files.path(files.lock)), { code: 'VMSEAL_FILE_LOCKED' }],
  ]
  for (const [spoil, expected, signal] of spoilers) {
    const files = await makeVm(t)
    const before = await contents(files)
    const lock = await VirtualMachineLock.acquire(files, owner)
    const prepare = async () => {
      for (const name of newFiles) await writeFile(files.path(name), 'new')
      await spoil(files)
    }
    const meter = new WorkMeter(signal ? { signal } : {}, [])
    await t.throwsAsync(commitTransaction(files, lock, transactionOf(prepare), meter), expected)
    await lock.release()
    t.deepEqual(await contents(files), before)
  }
})
