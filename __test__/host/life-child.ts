/**
 * Run as a process: a host that removes a snapshot of a VM, or clones it, on the datastore in `directory`. It gets its KEK in the
 * clear on standard input, which only a test does.
 */
import { randomUUID } from 'node:crypto'
import { Host } from '../../src/host/host.js'
import { native } from '../../src/native/load.js'
import { install } from './fixture.js'

const [directory = '', action = '', snapshotId = ''] = process.argv.slice(2)
const input: Buffer[] = []
for await (const part of process.stdin) input.push(part as Buffer)
const handle = native.KeyHandle.importUnsafe(Buffer.concat(input))
const key = { keyId: 'kek', providerId: 'kms-1' }
const vm = { datastore: 'ds1', vmx: 'db01/db01.vmx' }

const host = await Host.start({ name: 'esx-child', datastores: { ds1: directory } })
await install(host, { ...key, handle })
process.stdout.write('ready\n')
if (action === 'remove') await host.removeSnapshot(vm, snapshotId, false)
else {
  const { disks } = await host.readVirtualMachine(vm)
  await host.cloneVirtualMachine(vm, {
    vmId: randomUUID(),
    name: 'copy',
    datastore: 'ds1',
    snapshotId,
    ...(action === 'link' && { linked: true }),
    homeKey: key,
    disks: disks.map(({ diskId }) => ({ diskId, newDiskId: randomUUID(), key })),
  })
}
await host.stop()
process.stdout.write('done\n')
