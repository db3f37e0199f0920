/** A VM as a folder of ciphertext under another KEK, and a VM made of it; what is not what was exported makes nothing. */
import { randomUUID } from 'node:crypto'
import { appendFile, cp, mkdir, readFile, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { ExportDescription, RestoreSpec, Work } from '../../src/rpc/host-api.js'
import { requirePeer, runs } from '../peers.js'
import {
  folderOf,
  guestDigests,
  idOf,
  install,
  makeKek,
  makeLab,
  makeVm,
  marker,
  secretSetting,
  sha256Of,
  type Kek,
  type Lab,
  type MadeVm,
} from './fixture.js'
import { GuestDisks } from './guest-disks.js'

const mebibyte = 1024 * 1024
const manifest = 'vmseal-export.json'

interface Exported {
  readonly lab: Lab
  readonly vm: MadeVm
  /** Of the VM, and of the export. */
  readonly own: Kek
  readonly recipient: Kek
  readonly folder: string
  readonly description: ExportDescription
}

async function exported(t: ExecutionContext, bytes?: number): Promise<Exported> {
  const lab = await makeLab(t)
  const [own, recipient] = [makeKek('own'), makeKek('recipient', 'kms-2')]
  await install(lab.host, own, recipient)
  const vm = await makeVm(lab, { homeKey: own, diskKey: own, ...(bytes && { bytes }) })
  const folder = join(lab.images, 'export')
  const spec = { to: folder, key: idOf(recipient) }
  const description = await lab.host.exportVirtualMachine(vm.reference, spec)
  return { lab, vm, own, recipient, folder, description }
}

function restoreSpec(
  { vmId, disks }: ExportDescription,
  from: string,
  key: Kek,
  change: Partial<RestoreSpec> = {},
): RestoreSpec {
  return {
    from,
    vmId,
    name: 'restored',
    datastore: 'ds1',
    homeKey: idOf(key),
    disks: disks.map(({ diskId }) => ({ diskId, newDiskId: diskId, key: idOf(key) })),
    ...change,
  }
}

/** Every file below a folder, by name. */
async function filesBelow(folder: string): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>()
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) {
      const path = join(entry.parentPath, entry.name)
      found.set(path.slice(folder.length + 1), await readFile(path))
    }
  return found
}

test('M3: an export is ciphertext that its KEK alone opens: a host that never knew the old KEK restores the VM', async (t) => {
  const { lab, vm, recipient, folder, description } = await exported(t)
  const before = await folderOf(lab)
  t.like(description, { vmId: vm.config.vmId, name: 'db01', key: idOf(recipient) })
  const files = await filesBelow(folder)
  t.deepEqual(
    [...files.keys()].toSorted(),
    [
      manifest,
      ...['vm-flat.vmdk', 'vm.nvram', 'vm.vmdk', 'vm.vmdk.vmseal', 'vm.vmx'].map((name) => `vm/${name}`),
      ...['vm_1-flat.vmdk', 'vm_1.vmdk', 'vm_1.vmdk.vmseal'].map((name) => `vm/${name}`),
    ].toSorted(),
  )
  for (const [name, bytes] of files) {
    t.false(bytes.includes(marker.trim()) || bytes.includes('hunter2'), name)
    t.false(bytes.includes('"own"') || bytes.includes(Buffer.from('"own"').toString('base64url')), name)
  }
  // The data of the disks goes along as it lies.
  for (const [mine, theirs] of [
    ['db01-flat.vmdk', 'vm-flat.vmdk'],
    ['db01_1-flat.vmdk', 'vm_1-flat.vmdk'],
  ])
    // prettier-ignore
    t.is(before[mine ?? ''], await sha256Of(join(folder, 'vm', theirs ?? '')))
  t.is((await stat(folder)).mode & 0o777, 0o700)

  const other = await lab.start('esx-of-another-site')
  await install(other, recipient)
  t.deepEqual(await other.verifyExport(folder), description)
  const site = makeKek('of the other site')
  await install(other, site)
  const newIds = description.disks.map(() => randomUUID() as string)
  const disks = description.disks.map(({ diskId }, index) => ({
    diskId,
    newDiskId: newIds[index] ?? '',
    key: idOf(site),
  }))
  const vmId = randomUUID()
  const config = await other.restoreVirtualMachine(restoreSpec(description, folder, site, { vmId, disks }))
  t.like(config, { vmId, name: 'restored', cryptoState: 'unlocked', homeKey: idOf(site), missingKeys: [] })
  t.deepEqual(
    config.disks.map(({ diskId }) => diskId),
    newIds,
  )
  t.deepEqual(await guestDigests(other, { ...vm, reference: config }), [...vm.digests])
  await other.removeKey(idOf(recipient))
  t.is((await other.powerOn(config)).powerState, 'poweredOn')
  await other.powerOff(config)
  for (const file of await readdir(join(lab.datastore, 'restored'))) {
    const bytes = await readFile(join(lab.datastore, 'restored', file))
    t.false(bytes.includes(marker.trim()) || bytes.includes('recipient'), file)
  }
  // Its settings came along.
  await other.reconfigureVirtualMachine(config, {
    home: { type: 'decrypt' },
    disks: config.disks.map(({ diskId }) => ({ diskId, crypto: { type: 'decrypt' } })),
  })
  t.regex(await readFile(join(lab.datastore, 'restored', 'restored.vmx'), 'utf8'), new RegExp(`${secretSetting} = "hunter2`)) // prettier-ignore
  t.deepEqual(await folderOf(lab), { ...before, 'vmware.log': (await folderOf(lab))['vmware.log'] })
})

test('J8: restored under the key id of the export, as the VM that it was', async (t) => {
  const { lab, vm, recipient, folder, description } = await exported(t)
  await lab.host.destroyVirtualMachine(vm.reference)
  const config = await lab.host.restoreVirtualMachine(
    restoreSpec(description, folder, recipient, { name: 'db01' }),
  )
  t.like(config, { vmId: vm.config.vmId, homeKey: idOf(recipient) })
  t.deepEqual(
    config.disks.map(({ diskId, device }) => [diskId, device]),
    vm.config.disks.map(({ diskId, device }) => [diskId, device]),
  )
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})

test('M3: of a VM with snapshots the present state is exported, and plain disks and a plain VM as ciphertext too', async (t) => {
  const lab = await makeLab(t)
  const [own, recipient] = [makeKek(), makeKek()]
  await install(lab.host, own, recipient)
  for (const sealed of [true, false]) {
    const name = sealed ? 'mixed' : 'plain'
    const vm = await makeVm(lab, { name, ...(sealed && { homeKey: own }) })
    const guest = await GuestDisks.of(lab.host, vm)
    await lab.host.createSnapshot(vm.reference, { snapshotId: randomUUID(), name: 's' })
    await guest.writeText(0, 4096, `${marker} after the snapshot`)
    const folder = join(lab.images, name)
    const description = await lab.host.exportVirtualMachine(vm.reference, {
      to: folder,
      key: idOf(recipient),
    })
    for (const [file, bytes] of await filesBelow(folder)) t.false(bytes.includes(marker.trim()), file)
    const restored = { vmId: randomUUID(), name: `${name}-restored` }
    const config = await lab.host.restoreVirtualMachine(restoreSpec(description, folder, recipient, restored))
    t.is(config.snapshots, undefined)
    await guest.check(t, name, { reference: config })
  }
})

test('M3: an export that is torn or was altered anywhere is refused, and nothing is made of it', async (t) => {
  const { lab, vm, own, recipient, folder, description } = await exported(t)
  const mutant = join(lab.images, 'mutant')
  const flip = (file: string, at: (length: number) => number) => async (): Promise<void> => {
    const path = join(mutant, file)
    const bytes = await readFile(path)
    const index = at(bytes.length)
    bytes[index] = (bytes[index] ?? 0) ^ 1
    await writeFile(path, bytes)
  }
  const inVm = (name: string): string => join(mutant, 'vm', name)
  const mutations: [string, () => Promise<unknown>][] = []
  for (const file of (await filesBelow(folder)).keys()) {
    mutations.push([`${file}: first byte`, flip(file, () => 0)])
    mutations.push([`${file}: a byte in the middle`, flip(file, (length) => length >> 1)])
    mutations.push([`${file}: last byte`, flip(file, (length) => length - 2)])
    mutations.push([`${file}: removed`, () => rm(join(mutant, file))])
    mutations.push([`${file}: cut`, async () => truncate(join(mutant, file), (await stat(join(mutant, file))).size - 1)]) // prettier-ignore
    mutations.push([`${file}: longer`, () => appendFile(join(mutant, file), '\n\n')])
  }
  mutations.push(
    ['a further disk file', () => writeFile(inVm('vm_2.vmdk'), 'of somebody')],
    ['two extents swapped', async () => {
      await cp(inVm('vm-flat.vmdk'), inVm('x'))
      await cp(inVm('vm_1-flat.vmdk'), inVm('vm-flat.vmdk'))
      await cp(inVm('x'), inVm('vm_1-flat.vmdk'))
    }],
    ['an unfinished one', () => rm(join(mutant, manifest))],
    ['the VM itself in its place', async () => {
      for (const [name, bytes] of await filesBelow(join(lab.datastore, 'db01')))
        await writeFile(inVm(name.replace('db01', 'vm')), bytes)
    }],
    ['a manifest of another export', async () => {
      const to = join(lab.images, 'again')
      await lab.host.exportVirtualMachine(vm.reference, { to, key: idOf(recipient) })
      await cp(join(to, manifest), join(mutant, manifest))
    }],
    ['sums that fit what was altered', async () => {
      await flip('vm/vm-flat.vmdk', () => 700)()
      const text = await readFile(join(mutant, manifest), 'utf8')
      const old = await sha256Of(join(folder, 'vm', 'vm-flat.vmdk'))
      await writeFile(join(mutant, manifest), text.replace(old, await sha256Of(inVm('vm-flat.vmdk'))))
    }],
  ) // prettier-ignore
  const before = (await readdir(lab.datastore)).toSorted()
  const restoring = { vmId: randomUUID() }
  for (const [what, mutate] of mutations) {
    await cp(folder, mutant, { recursive: true })
    await mutate()
    const attempts = [
      () => lab.host.verifyExport(mutant),
      () => lab.host.restoreVirtualMachine(restoreSpec(description, mutant, own, restoring)),
    ]
    for (const attempt of attempts) {
      const outcome = await attempt().then(
        () => 'accepted',
        (error: { code: string }) => error.code,
      )
      const gone = what.startsWith(manifest) || what === 'an unfinished one' ? ['VMSEAL_NOT_FOUND'] : []
      t.true(['VMSEAL_EXPORT_INVALID', ...gone].includes(outcome), `${what}: ${outcome}`)
    }
    t.deepEqual((await readdir(lab.datastore)).toSorted(), before, what)
    await rm(mutant, { recursive: true })
  }
  t.log(`${mutations.length} mutations`)
  t.deepEqual(await lab.host.verifyExport(folder), description)
})

test('M3: what cannot be exported or restored is refused, and the source stays as it was', async (t) => {
  const { lab, vm, own, recipient, folder, description } = await exported(t)
  const key = idOf(recipient)
  const to = join(lab.images, 'second')
  const exporting = (change: object, reference = vm.reference) =>
    lab.host.exportVirtualMachine(reference, { to, key, ...change })
  for (const wrong of ['relative', '', 7, `/a\0b`])
    await t.throwsAsync(exporting({ to: wrong }), { code: 'VMSEAL_INVALID_ARGUMENT' }, String(wrong))
  await t.throwsAsync(exporting({ key: { keyId: '' } }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(exporting({ to: folder }), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(exporting({ to: join(to, 'deep') }), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(exporting({ key: { keyId: 'nobody', providerId: 'kms-1' } }), {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
  })
  await t.throwsAsync(exporting({}, { datastore: 'ds1', vmx: 'none/none.vmx' }), { code: 'VMSEAL_NOT_FOUND' })
  await lab.host.powerOn(vm.reference)
  await t.throwsAsync(exporting({}), { code: 'VMSEAL_INVALID_POWER_STATE' })
  await lab.host.powerOff(vm.reference)
  await lab.host.removeKey(idOf(own))
  await t.throwsAsync(exporting({}), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  t.false((await readdir(lab.images)).includes('second'))

  const restoring = (change: Partial<RestoreSpec>, from = folder) =>
    lab.host.restoreVirtualMachine(restoreSpec(description, from, recipient, change))
  await t.throwsAsync(restoring({ name: 'db01' }), { code: 'VMSEAL_ALREADY_EXISTS' })
  await t.throwsAsync(restoring({ datastore: 'ds9' }), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(restoring({ disks: [] }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(restoring({ vmId: 'x' }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(restoring({ name: '../x' }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(restoring({ from: 'relative' }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(restoring({}, lab.images), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(lab.host.describeExport('x'), { code: 'VMSEAL_INVALID_ARGUMENT' })
  const [first] = description.disks
  const twice = [1, 2].map(() => ({ diskId: first?.diskId ?? '', newDiskId: randomUUID(), key }))
  await t.throwsAsync(restoring({ disks: twice }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await lab.host.removeKey(key)
  const required = { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' }
  await t.throwsAsync(lab.host.verifyExport(folder), required)
  await t.throwsAsync(restoring({}), required)
  await lab.host.restart()
  await t.throwsAsync(restoring({}), { code: 'VMSEAL_INVALID_STATE' }, 'a host that is not safe')
  t.deepEqual(await readdir(lab.datastore), ['db01'])
})

test('M3: cancelled at any report, an export and a restore leave nothing', async (t) => {
  const { lab, vm, recipient, folder, description } = await exported(t, mebibyte)
  const to = join(lab.images, 'second')
  const jobs: [string, (work: Work) => Promise<unknown>][] = [
    ['export', (work) => lab.host.exportVirtualMachine(vm.reference, { to, key: idOf(recipient) }, work)],
    ['restore', (work) => lab.host.restoreVirtualMachine(restoreSpec(description, folder, recipient, { vmId: randomUUID() }), work)], // prettier-ignore
    ['verify', (work) => lab.host.verifyExport(folder, work)],
  ]
  for (const [name, run] of jobs) {
    await t.throwsAsync(run({ signal: AbortSignal.abort() }), { code: 'VMSEAL_CANCELLED' }, name)
    for (let at = 1; ; at += 1) {
      const abort = new AbortController()
      let reports = 0
      const work: Work = {
        signal: abort.signal,
        onProgress: ({ doneBytes, totalBytes }) => {
          if (doneBytes < totalBytes && (reports += 1) === at) abort.abort()
        },
      }
      const outcome = await run(work).catch((error: unknown) => error)
      if (!abort.signal.aborted) break
      t.like(outcome, { code: 'VMSEAL_CANCELLED' }, `${name}, report ${at}`)
      if (name === 'export') t.false((await readdir(lab.images)).includes('second'), `report ${at}`)
      if (name !== 'verify') t.deepEqual(await readdir(lab.datastore), ['db01'], `${name}, report ${at}`)
    }
  }
  t.deepEqual((await readdir(lab.datastore)).toSorted(), ['db01', 'restored'])
  t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
})

test('M3: a file system that is full, at the start or meanwhile, leaves no export', async (t) => {
  for (const believed of [undefined, async () => 1e12]) {
    const lab = await makeLab(t, believed ? { freeBytes: believed } : {})
    const kek = makeKek()
    await install(lab.host, kek)
    const small = join(lab.images, 'small')
    await mkdir(small)
    const mounted = runs('mount', '-t', 'tmpfs', '-o', 'size=12m', 'vmseal-test', small)
    if (!requirePeer(t, 'the right to mount a tmpfs', mounted)) return
    t.teardown(() => void runs('umount', small))
    const vm = await makeVm(lab, { bytes: 8 * mebibyte, homeKey: kek, diskKey: kek })
    const spec = { to: join(small, 'export'), key: idOf(kek) }
    await t.throwsAsync(lab.host.exportVirtualMachine(vm.reference, spec), { code: 'VMSEAL_NO_SPACE' })
    t.deepEqual(await readdir(small), [])
    t.true(runs('mount', '-o', 'remount,size=64m', small))
    await lab.host.exportVirtualMachine(vm.reference, spec)
    await lab.host.verifyExport(spec.to)
  }
})
