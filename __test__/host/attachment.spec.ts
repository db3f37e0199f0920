/** Disks of a datastore as a host sees and takes them: what is bound to another place is copied or refused, and nothing is half done. */
import { randomUUID } from 'node:crypto'
import { cp, mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { isVmsealError, type ErrorCode } from '../../src/errors.js'
import type { ReconfigureSpec } from '../../src/rpc/host-api.js'
import { decrypt, folderOf, guestDigests, idOf, install, makeKek, makeLab, makeVm } from './fixture.js'

test('a disk that was copied into the folder of another VM is taken as a copy, under a DEK of its own', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const keys = { homeKey: kek, diskKey: kek }
  const other = await makeVm(lab, { name: 'other', images: 1, ...keys })
  const vm = await makeVm(lab, { images: 0, ...keys })
  for (const name of ['other.vmdk', 'other-flat.vmdk', 'other.vmdk.vmseal'])
    await cp(join(lab.datastore, 'other', name), join(lab.datastore, 'db01', name))
  const before = await folderOf(lab)
  const attachDisks = [{ diskId: randomUUID(), file: 'db01/other.vmdk' }]
  const config = await lab.host.reconfigureVirtualMachine(vm.reference, { attachDisks })
  t.is(config.disks[0]?.file, 'db01.vmdk')
  t.deepEqual(config.disks[0]?.key, idOf(kek))
  t.deepEqual(await guestDigests(lab.host, vm), [...other.digests])
  const after = await folderOf(lab)
  t.not(after['db01-flat.vmdk'], before['other-flat.vmdk'], 'another DEK')
  t.is(after['other-flat.vmdk'], before['other-flat.vmdk'], 'the source stays')
})

test('a disk whose extent has a name that no file of the VM has is taken as a copy', async (t) => {
  const lab = await makeLab(t)
  const vm = await makeVm(lab, { images: 1 })
  const [disk] = vm.config.disks
  await lab.host.reconfigureVirtualMachine(vm.reference, { removeDisks: [disk?.diskId ?? ''] })
  const folder = join(lab.datastore, 'db01')
  await rename(join(folder, 'db01-flat.vmdk'), join(folder, 'strange-flat.vmdk'))
  const descriptor = join(folder, 'db01.vmdk')
  await writeFile(
    descriptor,
    (await readFile(descriptor, 'utf8')).replace('db01-flat.vmdk', 'strange-flat.vmdk'),
  )
  const attachDisks = [{ diskId: randomUUID(), file: 'db01/db01.vmdk' }]
  const { disks } = await lab.host.reconfigureVirtualMachine(vm.reference, { attachDisks })
  t.is(disks[0]?.file, 'db01_1.vmdk')
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})

test('an attachment that is refused or cancelled leaves every file as it was', async (t) => {
  const lab = await makeLab(t)
  const [kek, absent] = [makeKek(), makeKek()]
  await install(lab.host, kek, absent)
  const vm = await makeVm(lab, { images: 1, homeKey: kek, diskKey: kek })
  const other = await makeVm(lab, { name: 'other', images: 2, homeKey: kek, diskKey: kek })
  const keyless = await makeVm(lab, { name: 'keyless', images: 1, homeKey: absent, diskKey: absent })
  const plainVm = await makeVm(lab, { name: 'plain', images: 0 })
  const detach = async (made: typeof vm, index = 0) => {
    const { diskId = '', file = '' } = made.config.disks[index] ?? {}
    await lab.host.reconfigureVirtualMachine(made.reference, { removeDisks: [diskId] })
    return { diskId, file: `${made.config.name}/${file}` }
  }
  const own = await detach(vm)
  const foreign = await detach(other)
  const lost = await detach(keyless)
  await lab.host.removeKey(idOf(absent))
  const attached = `other/${other.config.disks[1]?.file}`
  const id = randomUUID()
  const refusals: [ReconfigureSpec, ErrorCode, typeof vm?][] = [
    [{ attachDisks: [{ diskId: id, file: own.file }] }, 'VMSEAL_ENVELOPE_MISMATCH'],
    [{ attachDisks: [{ diskId: id, file: attached }] }, 'VMSEAL_DISK_SHARED'],
    [{ attachDisks: [{ diskId: id, file: lost.file }] }, 'VMSEAL_ENCRYPTION_KEY_REQUIRED'],
    [{ attachDisks: [{ diskId: id, file: foreign.file }] }, 'VMSEAL_ENCRYPTION_MISMATCH', plainVm],
    [{ home: decrypt, attachDisks: [{ diskId: id, file: foreign.file }] }, 'VMSEAL_ENCRYPTION_MISMATCH'],
    [{ attachDisks: [own, { ...own, diskId: id }] }, 'VMSEAL_INVALID_ARGUMENT'],
    [{ attachDisks: [{ diskId: 'x', file: own.file }] }, 'VMSEAL_INVALID_ARGUMENT'],
    [{ attachDisks: [{ diskId: id, file: '../own.vmdk' }] }, 'VMSEAL_INVALID_ARGUMENT'],
    [{ attachDisks: [{ diskId: id, file: 7 }] } as unknown as ReconfigureSpec, 'VMSEAL_INVALID_ARGUMENT'],
    [{ attachDisks: 'all' } as unknown as ReconfigureSpec, 'VMSEAL_INVALID_ARGUMENT'],
  ]
  const before = [await folderOf(lab), await folderOf(lab, 'other'), await folderOf(lab, 'plain')]
  for (const [spec, code, on = vm] of refusals) {
    const error = await t.throwsAsync(lab.host.reconfigureVirtualMachine(on.reference, spec))
    t.is(isVmsealError(error) && error.code, code, JSON.stringify(spec))
  }
  const copy = { attachDisks: [{ diskId: id, file: foreign.file }] }
  const vmsd = join(lab.datastore, 'other', 'other.vmsd')
  const text = await readFile(vmsd, 'utf8')
  await writeFile(vmsd, `${text}snapshot.numSnapshots = "1"\n`)
  await t.throwsAsync(lab.host.reconfigureVirtualMachine(vm.reference, copy), {
    code: 'VMSEAL_SNAPSHOTS_EXIST',
  })
  await writeFile(vmsd, text)
  const work = { signal: AbortSignal.abort() }
  await t.throwsAsync(lab.host.reconfigureVirtualMachine(vm.reference, copy, work), {
    code: 'VMSEAL_CANCELLED',
  })
  t.deepEqual([await folderOf(lab), await folderOf(lab, 'other'), await folderOf(lab, 'plain')], before)
  // And then it is taken in.
  const { disks } = await lab.host.reconfigureVirtualMachine(vm.reference, {
    attachDisks: [own, ...copy.attachDisks],
  })
  t.deepEqual(disks.map(({ diskId }) => diskId), [own.diskId, id]) // prettier-ignore
  t.deepEqual(await guestDigests(lab.host, vm), [vm.digests[0] ?? '', other.digests[0] ?? ''])
})

test('the keys that files name: of every folder, page by page; what cannot be read is told', async (t) => {
  const lab = await makeLab(t)
  const [kek, diskKek] = [makeKek(), makeKek()]
  await install(lab.host, kek, diskKek)
  await makeVm(lab, { images: 1, homeKey: kek, diskKey: diskKek })
  for (let n = 0; n < 600; n += 1) await mkdir(join(lab.datastore, `a${String(n).padStart(4, '0')}`))
  const first = await lab.host.findKeys('ds1')
  t.deepEqual([first.found, first.next], [[], 'a0499'])
  const second = await lab.host.findKeys('ds1', first.next)
  t.is(second.next, undefined)
  t.deepEqual(
    second.found.map(({ key, count, files }) => [key.keyId, count, files]),
    [
      [diskKek.keyId, 2, ['db01/db01.vmdk', 'db01/db01.vmdk.vmseal']],
      [kek.keyId, 1, ['db01/db01.vmx']],
    ],
  )
  const vmx = join(lab.datastore, 'db01', 'db01.vmx')
  await writeFile(vmx, (await readFile(vmx, 'utf8')).replace(/(vmseal\.dek\.0 = ")[^"]*/, '$1broken'))
  await writeFile(join(lab.datastore, 'a0000', 'image.vmdk'), Buffer.alloc(2 ** 21))
  t.deepEqual((await lab.host.findKeys('ds1', 'a0599')).unreadable, ['db01/db01.vmx'])
  t.deepEqual((await lab.host.findKeys('ds1')).unreadable, [], 'an image names no key')
  await t.throwsAsync(lab.host.findKeys('ds2'), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(lab.host.findKeys('ds1', 7 as never), { code: 'VMSEAL_INVALID_ARGUMENT' })
})
