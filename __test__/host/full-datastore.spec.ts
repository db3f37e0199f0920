/** A datastore that is really full: a small tmpfs of its own. */
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { CryptoSpec, ReconfigureSpec } from '../../src/rpc/host-api.js'
import { requirePeer, runs } from '../peers.js'
import { encryptWith, folderOf, guestDigests, install, makeKek, makeLab, makeVm } from './fixture.js'

const mebibyte = 1024 * 1024

/** A lab whose datastore has `megabytes`; undefined where this process may not mount. */
async function smallLab(t: ExecutionContext, megabytes: number, freeBytes?: () => Promise<number>) {
  const lab = await makeLab(t, freeBytes ? { freeBytes } : {})
  const mounted = runs('mount', '-t', 'tmpfs', '-o', `size=${megabytes}m`, 'vmseal-test', lab.datastore)
  if (!requirePeer(t, 'the right to mount a tmpfs', mounted)) return undefined
  t.teardown(() => void runs('umount', lab.datastore))
  return lab
}

for (const conversion of ['copy', 'inPlace'] as const) {
  const spec = (disks: readonly { readonly diskId: string }[], crypto: CryptoSpec): ReconfigureSpec => ({
    conversion,
    home: crypto,
    disks: disks.map(({ diskId }) => ({ diskId, crypto })),
  })

  test(`B10: a datastore without room for a conversion (${conversion}) refuses it before the first change`, async (t) => {
    const lab = await smallLab(t, 12)
    if (!lab) return
    const kek = makeKek()
    await install(lab.host, kek)
    const vm = await makeVm(lab, { images: 1, bytes: 8 * mebibyte })
    const before = await folderOf(lab)
    const convert = () =>
      lab.host.reconfigureVirtualMachine(vm.reference, spec(vm.config.disks, encryptWith(kek)))
    await t.throwsAsync(convert(), { code: 'VMSEAL_NO_SPACE' })
    t.deepEqual(await folderOf(lab), before, 'the source is intact and nothing is left')
    t.true(runs('mount', '-o', 'remount,size=64m', lab.datastore))
    t.truthy((await convert()).disks[0]?.key)
    t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  })

  test(`B10: a datastore that fills up meanwhile (${conversion}) fails clean, and has room again later`, async (t) => {
    // The host believes that there is room; the file system knows better.
    const lab = await smallLab(t, 40, async () => 1e12)
    if (!lab) return
    const kek = makeKek()
    await install(lab.host, kek)
    const vm = await makeVm(lab, { images: 2, bytes: 8 * mebibyte })
    const filler = join(lab.datastore, 'filler')
    await writeFile(filler, Buffer.alloc(20 * mebibyte, 1))
    const before = await folderOf(lab)
    const convert = (disks = vm.config.disks, home = true) => {
      const { home: crypto, ...rest } = spec(disks, encryptWith(kek))
      return lab.host.reconfigureVirtualMachine(vm.reference, {
        ...rest,
        ...(home && crypto && { home: crypto }),
      })
    }
    await t.throwsAsync(convert(), { code: 'VMSEAL_NO_SPACE' })
    const left = await folderOf(lab)
    if (conversion === 'copy') t.deepEqual({ ...left, 'vmware.log': '' }, { ...before, 'vmware.log': '' })
    t.deepEqual(Object.keys(left).filter((name) => /-(job|copy|task)$|\.lck$|\.tmp-/.test(name)), []) // prettier-ignore
    t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests], 'the sources are intact')
    await rm(filler)
    const { disks, homeKey } = await lab.host.readVirtualMachine(vm.reference)
    const plain = disks.filter(({ key }) => key === undefined)
    const done = await convert(plain, homeKey === undefined)
    t.true(done.homeKey !== undefined && done.disks.every(({ key }) => key !== undefined))
    t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  })
}
