/** `vmseal vm relocate`, `export` and `restore` on a vCenter that runs: for people and machines, and what they refuse. */
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import { Host, type ExportedVirtualMachine, type VirtualMachineInfo } from '../../src/index.js'
import { encryption } from '../vcenter/site.js'
import { administer } from './administered.js'

test.serial('M3: a VM is exported, lost and restored, and J7: moved to another datastore', async (t) => {
  const { site, answer, text, refused } = await administer(t)
  const ds2 = path.join(site.directory, 'ds2')
  await mkdir(ds2)
  const host = await Host.start({ name: 'esx-2', datastores: { ds1: site.datastore, ds2 } })
  t.teardown(() => host.stop())
  await site.cluster.addHost(host)
  const place = ['--cluster', 'prod', '--datastore', 'ds1', '--host', 'esx-2']
  const { id, homeKey } = await answer<VirtualMachineInfo>('vm', 'create', 'db01', ...place, '--disk', '1M', '--policy', encryption) // prettier-ignore
  site.seen('Create')

  const to = path.join(site.directory, 'export')
  t.is(await refused(2, 'vm', 'export', 'db01'), 'VMSEAL_INVALID_ARGUMENT')
  t.is(await refused(2, 'vm', 'export', 'db01', '--to', to, '--key-id', 'x', '--for-provider', 'y'), 'VMSEAL_INVALID_ARGUMENT') // prettier-ignore
  t.is(await refused(2, 'vm', 'export', 'nobody', '--to', to), 'VMSEAL_NOT_FOUND')
  t.is(site.seen('Create'), 0)
  const exported = await answer<ExportedVirtualMachine>('vm', 'export', 'db01', '--to', to, '--for-provider', 'kms-1') // prettier-ignore
  t.like(exported, { name: 'db01', vmId: id, folder: to, host: 'esx-2' })
  t.not(exported.key.keyId, homeKey?.keyId)
  t.is(site.seen('Create'), 1)
  t.regex(await text('vm', 'export', 'db01', '--to', `${to}-2`, '--key-id', `kms-1/${homeKey?.keyId}`), /folder +.*export-2 on host esx-2/) // prettier-ignore
  t.is(await refused(2, 'vm', 'restore', 'db01', '--from', to), 'VMSEAL_INVALID_ARGUMENT')
  t.is(await refused(2, 'vm', 'restore', 'db01', '--from', to, ...place), 'VMSEAL_ALREADY_EXISTS')
  t.is(await refused(2, 'vm', 'restore', 'db02', '--from', to, ...place, '--reuse-key', '--per-disk-keys'), 'VMSEAL_INVALID_ARGUMENT') // prettier-ignore
  t.is(await refused(2, 'vm', 'restore', 'db02', '--from', ds2, ...place), 'VMSEAL_NOT_FOUND')
  await answer('vm', 'destroy', 'db01', '--yes')
  const restored = await answer<VirtualMachineInfo>('vm', 'restore', 'db01', '--from', to, ...place, '--same-identity', '--reuse-key') // prettier-ignore
  t.like(restored, { id, homeKey: exported.key, cryptoState: 'unlocked' })
  t.is(site.seen('Create'), 0)

  t.is(await refused(2, 'vm', 'relocate', 'db01'), 'VMSEAL_INVALID_ARGUMENT')
  t.is(await refused(2, 'vm', 'relocate', 'db01', 'ds3'), 'VMSEAL_NOT_FOUND')
  t.regex(await text('vm', 'relocate', 'db01', 'ds2'), /place +prod, host esx-2, \[ds2\] db01\/db01\.vmx/)
  t.like(await answer('vm', 'show', 'db01'), { datastore: 'ds2', homeKey: exported.key })
})
