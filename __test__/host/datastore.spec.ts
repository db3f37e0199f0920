import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { isVmsealError } from '../../src/errors.js'
import { Datastore } from '../../src/host/datastore.js'
import { FreeNames } from '../../src/host/virtual-machine-files.js'

async function scratch(t: { teardown(clean: () => Promise<void>): void }) {
  const directory = await mkdtemp(join(tmpdir(), 'vmseal-datastore-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  return directory
}

test('no reference leads out of the datastore', async (t) => {
  const store = await Datastore.open('ds1', await scratch(t))
  const part = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.constantFrom('..', '.', '', '/', 'a', 'a/b', '../x', 'a\0'),
  )
  fc.assert(
    fc.property(part, part, (folder, name) => {
      for (const vmx of [`${folder}/${name}.vmx`, `${folder}/${folder}.vmx`, folder, name])
        try {
          const files = store.files({ datastore: 'ds1', vmx })
          t.regex(files.base, /^[A-Za-z0-9][A-Za-z0-9 ._-]*$/)
          t.is(files.directory, join(store.directory, files.base))
        } catch (error) {
          if (!isVmsealError(error, 'VMSEAL_INVALID_ARGUMENT')) throw error
        }
    }),
    { numRuns: 1000 },
  )
  t.is(store.files({ datastore: 'ds1', vmx: 'db01/db01.vmx' }).directory, join(store.directory, 'db01'))
  for (const vmx of [
    'db01/db02.vmx',
    '/db01/db01.vmx',
    'db01//db01.vmx',
    'db01/db01.vmdk',
    'x/../db01/db01.vmx',
  ])
    t.throws(() => store.files({ datastore: 'ds1', vmx }), { code: 'VMSEAL_INVALID_ARGUMENT' }, vmx)
})

test('a datastore is a directory with a name', async (t) => {
  const directory = await scratch(t)
  await writeFile(join(directory, 'file'), '')
  for (const name of ['', '/', 'a/b', '.x', 'x '.repeat(40), 'a\n'])
    await t.throwsAsync(Datastore.open(name, directory), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(Datastore.open('a', join(directory, 'missing')), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(Datastore.open('a', join(directory, 'file')), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(Datastore.open('a', ''), { code: 'VMSEAL_INVALID_ARGUMENT' })
})

test('a search finds VM folders and nothing that hides behind a link', async (t) => {
  const directory = await scratch(t)
  const outside = await scratch(t)
  for (const folder of ['b', 'a', 'empty', '.hidden', 'linked-file']) await mkdir(join(directory, folder))
  await mkdir(join(directory, 'dir-vmx', 'dir-vmx.vmx'), { recursive: true })
  for (const path of ['b/b.vmx', 'a/a.vmx', 'a/b.vmx', '.hidden/.hidden.vmx', 'top.vmx'])
    await writeFile(join(directory, path), '')
  await writeFile(join(outside, 'c.vmx'), '')
  await symlink(outside, join(directory, 'c'))
  await symlink(join(outside, 'c.vmx'), join(directory, 'linked-file', 'linked-file.vmx'))
  const store = await Datastore.open('ds1', directory)
  t.deepEqual(
    (await store.find()).map(({ vmx }) => vmx),
    ['a/a.vmx', 'b/b.vmx'],
  )
  await t.throwsAsync(store.files({ datastore: 'ds1', vmx: 'c/c.vmx' }).readVmx(), { code: 'VMSEAL_IO' })
  const linked = store.files({ datastore: 'ds1', vmx: 'linked-file/linked-file.vmx' })
  await t.throwsAsync(linked.readVmx(), { code: 'VMSEAL_IO', message: /symbolic link/ })
})

test('new disks and home files take the first free name', async (t) => {
  const store = await Datastore.open('ds1', await scratch(t))
  const files = store.filesOf('db01')
  const names = new FreeNames(files, ['db01.vmdk', 'db01_1-flat.vmdk', 'db01_2.vmdk.vmseal', 'db01.nvram'])
  t.deepEqual([names.disk(), names.disk()], ['db01_3.vmdk', 'db01_4.vmdk'])
  t.deepEqual([names.home('nvram'), names.home('nvram')], ['db01_1.nvram', 'db01_2.nvram'])
  t.is(names.home('vmsn -Snapshot1'), 'db01-Snapshot1.vmsn')
  t.is(files.roleOf('db01-Snapshot1.vmsn'), 'vmsn -Snapshot1')
  t.is(files.roleOf('db01.nvram'), 'nvram')
  t.is(files.roleOf('db01.vmdk'), undefined)
})
