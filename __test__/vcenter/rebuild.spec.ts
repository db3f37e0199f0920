/** Rows E7 and A11 of the feature table: the database of vCenter is lost, and a new one has the files of the VMs alone. */
import test, { type ExecutionContext } from 'ava'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { Host, VCenter, type RebuildReport } from '../../src/index.js'
import { encryption, openSite, type Site } from './site.js'

/** Three VMs, one of them plain, whose vCenter is gone; and what their disks held. */
async function loseVCenter(t: ExecutionContext) {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const digests = new Map<string, string>()
  for (const [name, policy] of [['db01', encryption], ['db02', encryption], ['web', undefined]] as const) {
    const { file, sha256 } = await site.image(name)
    const spec = { name, cluster: site.cluster, datastore: 'ds1', disks: [file], perDiskKeys: true }
    await site.vcenter.virtualMachines.import(policy === undefined ? spec : { ...spec, policy })
    digests.set(name, sha256)
  } // prettier-ignore
  await site.vcenter.close()
  for (const host of site.hosts) await host.stop()
  await rm(path.join(site.directory, 'vcenter'), { recursive: true })
  return { site, digests }
}

async function openNew(t: ExecutionContext, site: Site) {
  const vcenter = await VCenter.open({ directory: path.join(site.directory, 'new') })
  const host = await Host.start({ name: 'esx-new', datastores: { ds1: site.datastore } })
  t.teardown(async () => {
    await vcenter.close()
    await host.stop()
  })
  await (await vcenter.clusters.create('rebuilt')).addHost(host)
  return { vcenter }
}

test('E7, A11: a new vCenter with the same provider id registers the VMs from their files, and all open', async (t) => {
  const { site, digests } = await loseVCenter(t)
  const { vcenter } = await openNew(t, site)
  await vcenter.keyProviders.add({ id: 'kms-1', servers: site.kms.endpoint, credentials: site.credentials })
  const look = await vcenter.rebuild({ cluster: 'rebuilt', dryRun: true })
  t.true(look.dryRun)
  t.deepEqual(look.virtualMachines.map(({ name, outcome, keys }) => [name, outcome, keys.length]), [
    ['db01', 'found', 2], ['db02', 'found', 2], ['web', 'found', 0],
  ]) // prettier-ignore
  t.deepEqual(await vcenter.virtualMachines.list(), [], 'a dry run changes nothing')

  const seen: string[] = []
  const report = await vcenter.rebuild({
    cluster: 'rebuilt',
    onVirtualMachine: ({ name }) => seen.push(name ?? ''),
  })
  t.deepEqual(seen, ['db01', 'db02', 'web'])
  for (const vm of report.virtualMachines)
    t.like(vm, { outcome: 'registered', cryptoState: 'unlocked', missing: [], unknownProviders: [] })
  for (const [name, sha256] of digests) {
    const vm = await vcenter.virtualMachines.get(name)
    t.is((await vm.powerOn()).powerState, 'poweredOn')
    t.is((await vm.digest('scsi0:0')).sha256, sha256)
  }
  const info = await (await vcenter.virtualMachines.get('db01')).info()
  t.like(info, { policy: encryption, disks: [{ policy: encryption }] })
  const again = await vcenter.rebuild({ cluster: 'rebuilt' })
  t.true(again.virtualMachines.every(({ outcome }) => outcome === 'known'))
})

test('E7: with another provider id the VMs stay locked, and unlock once the right one is there', async (t) => {
  const { site, digests } = await loseVCenter(t)
  const { vcenter } = await openNew(t, site)
  await vcenter.keyProviders.add({ id: 'kms-2', servers: site.kms.endpoint, credentials: site.credentials })
  const { virtualMachines } = await vcenter.rebuild({ cluster: 'rebuilt' })
  const [db01, , web] = virtualMachines
  t.like(db01, { outcome: 'registered', cryptoState: 'locked', unknownProviders: ['kms-1'] })
  t.like(db01?.missing[0], { hop: 'providerNotRegistered' })
  t.like(web, { outcome: 'registered', cryptoState: 'unlocked' })
  const vm = await vcenter.virtualMachines.get('db01')
  await t.throwsAsync(vm.powerOn(), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  await t.throwsAsync(vm.unlock(), { code: 'VMSEAL_INVALID_STATE', message: /'kms-1'/ })

  await vcenter.keyProviders.add({ id: 'kms-1', servers: site.kms.endpoint, credentials: site.credentials })
  t.is((await vm.unlock()).cryptoState, 'unlocked')
  t.is((await vm.digest('scsi0:0')).sha256, digests.get('db01') as string)
})

test('E7: what cannot be registered is reported and does not hold up the others', async (t) => {
  const { site } = await loseVCenter(t)
  const vmx = path.join(site.datastore, 'db01', 'db01.vmx')
  await writeFile(vmx, (await readFile(vmx, 'utf8')).replace(/vmseal\.gen = .*/, 'vmseal.gen = "x"'))
  const { vcenter } = await openNew(t, site)
  await t.throwsAsync(vcenter.rebuild({ cluster: 'nothing' }), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(vcenter.rebuild({ cluster: 'rebuilt', datastores: ['ds9'] }), {
    code: 'VMSEAL_NOT_FOUND',
  })
  const { virtualMachines } = await vcenter.rebuild({ cluster: 'rebuilt' })
  t.deepEqual(virtualMachines.map(({ vmx: file, outcome }) => [file, outcome]), [
    ['db01/db01.vmx', 'failed'], ['db02/db02.vmx', 'registered'], ['web/web.vmx', 'registered'],
  ]) // prettier-ignore
  t.is(virtualMachines[0]?.error?.code, 'VMSEAL_VMX_INVALID')
})

const program = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

/** Not blocking: the KMS lives in this process. */
async function rebuild(
  ...words: string[]
): Promise<{ status: number | null; events: unknown[]; stderr: string }> {
  const argv = ['--import=tsx', program, '--json', 'vcenter', 'rebuild', ...words]
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'pipe'] })
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  const lines = stdout.trim().split('\n').filter(Boolean)
  return { status: child.exitCode, events: lines.map((line) => JSON.parse(line) as unknown), stderr }
}

test('E7: vmseal vcenter rebuild does it from the files alone', async (t) => {
  const { site } = await loseVCenter(t)
  const directory = path.join(site.directory, 'new')
  const ca = path.join(site.directory, 'ca.pem')
  const certificate = path.join(site.directory, 'client.pem')
  await writeFile(ca, site.credentials.caCertificate)
  await writeFile(certificate, site.credentials.certificate)
  const where = ['--directory', directory, '--datastore', `ds1=${site.datastore}`, '--host', 'esx-1']
  const { host, port } = site.kms.endpoint
  const provider = (id: string) => [
    '--provider', id, '--server', `${host}:${port}`, '--ca', ca, '--certificate', certificate,
    '--key', site.credentials.privateKeyFile,
  ] // prettier-ignore

  const look = await rebuild(...where, '--dry-run')
  t.is(look.status, 0, look.stderr)
  const found = look.events.at(-1) as RebuildReport
  t.deepEqual(found.virtualMachines.map(({ outcome, unknownProviders }) => [outcome, unknownProviders]), [
    ['found', ['kms-1']], ['found', ['kms-1']], ['found', []],
  ]) // prettier-ignore
  await t.throwsAsync(readFile(path.join(directory, 'vcenter.db')), { code: 'ENOENT' })

  const wrong = await rebuild(...where, ...provider('kms-9'))
  t.is(wrong.status, 1, 'two of them are locked')
  t.deepEqual((wrong.events.at(-1) as RebuildReport).virtualMachines.map(({ cryptoState }) => cryptoState), [
    'locked', 'locked', 'unlocked',
  ]) // prettier-ignore
  // With the right one they are known, and their host gets the keys.
  const right = await rebuild(...where, ...provider('kms-1'))
  t.is(right.status, 0, right.stderr)
  const vcenter = await VCenter.open({ directory })
  t.teardown(() => vcenter.close())
  t.deepEqual((await vcenter.virtualMachines.list()).map(({ name }) => name), ['db01', 'db02', 'web']) // prettier-ignore
  const infos = await Promise.all((await vcenter.virtualMachines.list()).map((vm) => vm.info()))
  t.true(infos.every(({ cryptoState }) => cryptoState === 'unlocked'))

  t.is((await rebuild('--directory', directory, '--datastore', 'ds1')).status, 2)
  t.is((await rebuild(...where, '--provider', 'kms-3')).status, 4)
})
