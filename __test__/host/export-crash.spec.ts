/** A host that is killed at every call of an export or restore that changes a file: nothing half made counts, and again ends it. */
import { endKill, killedAt } from './killed-calls.js'
import { randomUUID } from 'node:crypto'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { folderOf, guestDigests, idOf, install, makeKek, makeLab, makeVm } from './fixture.js'

test.serial(
  'M3: killed at every call of an export: it is whole, or none, and the VM as it was',
  async (t) => {
    const kek = makeKek()
    let whole = 0
    for (let at = 0; ; at += 1) {
      const lab = await makeLab(t)
      await install(lab.host, kek)
      const vm = await makeVm(lab, { images: 1, bytes: 65536, homeKey: kek, diskKey: kek })
      const before = await folderOf(lab)
      const to = join(lab.images, 'export')
      const exporting = (host = lab.host) => host.exportVirtualMachine(vm.reference, { to, key: idOf(kek) })
      const ended = await killedAt(at, () => exporting())
      await lab.host.stop().catch(() => {})
      endKill()
      const host = await lab.start('esx-1')
      await install(host, kek)
      const verified = await host.verifyExport(to).then(
        () => 'whole',
        (error: { code: string }) => error.code,
      )
      t.true(['whole', 'VMSEAL_NOT_FOUND'].includes(verified), `killed at call ${at}: ${verified}`)
      if (verified === 'whole') whole += 1
      else {
        await rm(to, { recursive: true, force: true })
        await exporting(host)
        await host.verifyExport(to)
      }
      t.deepEqual(await guestDigests(host, vm), [...vm.digests])
      await host.powerOn(vm.reference)
      await host.powerOff(vm.reference)
      t.deepEqual({ ...(await folderOf(lab)), 'vmware.log': '' }, { ...before, 'vmware.log': '' })
      if (ended) break
    }
    t.true(whole >= 1)
  },
)

test.serial(
  'M3: killed at every call of a restore: no VM, or all of it, and the name can be used again',
  async (t) => {
    const kek = makeKek()
    const seen = new Set<boolean>()
    const lab = await makeLab(t)
    await install(lab.host, kek)
    const vm = await makeVm(lab, { images: 1, bytes: 65536, homeKey: kek, diskKey: kek })
    const from = join(lab.images, 'export')
    const { disks } = await lab.host.exportVirtualMachine(vm.reference, { to: from, key: idOf(kek) })
    let host = lab.host
    for (let at = 0; ; at += 1) {
      const spec = {
        from,
        vmId: randomUUID(),
        name: 'copy',
        datastore: 'ds1',
        homeKey: idOf(kek),
        disks: disks.map(({ diskId }) => ({ diskId, newDiskId: randomUUID(), key: idOf(kek) })),
      }
      const ended = await killedAt(at, () => host.restoreVirtualMachine(spec))
      await host.stop().catch(() => {})
      endKill()
      host = await lab.start('esx-1')
      await install(host, kek)
      const there = (await host.findVirtualMachines('ds1')).length === 2
      seen.add(there)
      if (!there) await host.restoreVirtualMachine(spec)
      const reference = { datastore: 'ds1', vmx: 'copy/copy.vmx' }
      t.deepEqual(await guestDigests(host, { ...vm, reference }), [...vm.digests], `killed at call ${at}`)
      await host.powerOn(reference)
      await host.powerOff(reference)
      await host.destroyVirtualMachine(reference)
      t.deepEqual(await readdir(lab.datastore), ['db01'], `killed at call ${at}`)
      if (ended) break
    }
    t.is(seen.size, 2, 'before the commit and after it')
  },
)
