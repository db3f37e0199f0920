/**
 * Run as a process: a host that encrypts, decrypts, recrypts or creates a VM on the datastore in `directory`, `inPlace` if the
 * action says so (`encrypt:inPlace`). It gets its
 * KEK, and for a recrypt the new one after it, in the clear on standard input, which only a test does.
 */
import { randomUUID } from 'node:crypto'
import { Host } from '../../src/host/host.js'
import { native } from '../../src/native/load.js'
import type { CryptoSpec } from '../../src/rpc/host-api.js'
import { install } from './fixture.js'

const [directory = '', order = '', source = ''] = process.argv.slice(2)
const [action = '', conversion] = order.split(':')
const input: Buffer[] = []
for await (const part of process.stdin) input.push(part as Buffer)
const secret = Buffer.concat(input)
const handle = native.KeyHandle.importUnsafe(Buffer.from(secret.subarray(0, 32)))
const key = { keyId: 'kek', providerId: 'kms-1' }
const newKey = { keyId: 'new', providerId: 'kms-1' }

const host = await Host.start({ name: 'esx-child', datastores: { ds1: directory } })
await install(host, { ...key, handle })
if (secret.length === 64)
  await install(host, { ...newKey, handle: native.KeyHandle.importUnsafe(Buffer.from(secret.subarray(32))) })
process.stdout.write('ready\n')
if (action === 'create') {
  const disks = [{ diskId: randomUUID(), source, key }]
  await host.createVirtualMachine({ vmId: randomUUID(), name: 'db01', datastore: 'ds1', homeKey: key, disks })
} else {
  const vm = { datastore: 'ds1', vmx: 'db01/db01.vmx' }
  const specs: Readonly<Record<string, CryptoSpec>> = {
    encrypt: { type: 'encrypt', key },
    decrypt: { type: 'decrypt' },
    shallowRecrypt: { type: 'shallowRecrypt', newKey },
    deepRecrypt: { type: 'deepRecrypt', newKey },
  }
  const crypto = specs[action]
  if (crypto === undefined) throw new Error(`no action ${action}`)
  const { disks } = await host.readVirtualMachine(vm)
  await host.reconfigureVirtualMachine(vm, {
    ...(conversion === 'inPlace' && { conversion }),
    home: crypto,
    disks: disks.map(({ diskId }) => ({ diskId, crypto })),
  })
}
await host.stop()
process.stdout.write('done\n')
