/** Which files of a folder belong to a VM, and what becomes of those that work on its disks leaves. */
import { readFile, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { FreeNames, VirtualMachineFiles } from '../../src/host/virtual-machine-files.js'
import { guestDigests, install, makeKek, makeLab, makeVm } from './fixture.js'

test('journals, records of copies and locks belong to their disk, and to no other VM', (t) => {
  const files = new VirtualMachineFiles('ds1', '/ds1', 'db01')
  for (const end of ['vmseal', 'vmseal-job', 'vmseal-copy', 'lck'])
    for (const disk of ['db01.vmdk', 'db01_7.vmdk']) {
      t.is(files.kindOf(`${disk}.${end}`), 'disk')
      t.true(files.filesOfDisk(disk).includes(`${disk}.${end}`))
      t.is(files.kindOf(`db02.vmdk.${end}`), undefined)
      t.is(files.kindOf(`x${disk}.${end}`), undefined)
    }
  // An extent has no journal and no lock of its own.
  for (const name of ['db01-flat.vmdk.vmseal-job', 'db01.vmdk.lck.bak', 'db01.vmdk.vmseal-jobs', 'db01.lck'])
    t.is(files.kindOf(name), undefined, name)
  t.is(files.kindOf('db01.vmx.lck'), 'record', 'the lock of the VM goes with its holder, not with a disk')
})

test('a name beside which something is left is not given to a new disk', (t) => {
  const files = new VirtualMachineFiles('ds1', '/ds1', 'db01')
  for (const end of ['vmseal', 'vmseal-job', 'vmseal-copy', 'lck'])
    t.is(new FreeNames(files, [`db01.vmdk.${end}`]).disk(), 'db01_1.vmdk')
})

test('a lock that its process left is void and is cleared; a destroyed VM leaves nothing', async (t) => {
  const lab = await makeLab(t)
  const kek = makeKek()
  await install(lab.host, kek)
  const vm = await makeVm(lab, { images: 1, homeKey: kek, diskKey: kek })
  const at = (name: string) => join(lab.datastore, 'db01', name)
  const names = () => readdir(join(lab.datastore, 'db01'))
  const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
  const gone = { hostId: 'x', bootId: boot, token: 't', pid: 1, started: '0', pidSpace: 'elsewhere' }
  await writeFile(at('db01.vmdk.lck'), JSON.stringify(gone))
  // A journal that never began.
  await writeFile(at('db01.vmdk.vmseal-job'), '')
  await lab.host.powerOn(vm.reference)
  t.deepEqual((await names()).filter((name) => /\.vmdk\.(lck|vmseal-job)$/.test(name)), []) // prettier-ignore
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  await lab.host.powerOff(vm.reference)
  for (const end of ['lck', 'vmseal-copy']) await writeFile(at(`db01.vmdk.${end}`), 'not of use')
  await lab.host.destroyVirtualMachine(vm.reference)
  t.deepEqual(await readdir(lab.datastore), [])
})
