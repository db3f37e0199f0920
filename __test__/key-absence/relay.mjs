/**
 * A vCenter in a process of its own, so that another one can look into its memory: it only relays keys to hosts that are
 * elsewhere. Plain JavaScript on the built package, as scenario.mjs. Each checkpoint is a JSON line; a line on stdin lets it
 * go on.
 */
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { VCenter } from '../../dist/index.js'

const { directory, kms, credentials, hosts } = JSON.parse(process.argv[2] ?? '')
const lines = createInterface({ input: process.stdin })

async function checkpoint(name, facts = {}) {
  process.stdout.write(`${JSON.stringify({ name, ...facts })}\n`)
  await once(lines, 'line')
}

const vcenter = await VCenter.open({ directory })
await vcenter.keyProviders.add({ id: 'kms-1', servers: [kms], credentials })
const cluster = await vcenter.clusters.create('prod')
for (const host of hosts) {
  const { host: name } = await cluster.addHost(host)
  await vcenter.hosts.configureCryptoKey(name)
}
await checkpoint('joined')
const vm = await vcenter.virtualMachines.create({
  name: 'db01',
  cluster,
  datastore: 'ds1',
  policy: 'VM Encryption Policy',
  disks: [{ capacityBytes: 2 ** 20 }],
})
await vm.powerOn()
await checkpoint('created')
await vm.powerOff()
await vcenter.close()
lines.close()
