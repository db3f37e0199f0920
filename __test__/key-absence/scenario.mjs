/**
 * A full run in one process, which stops at checkpoints so that another process can look into its memory.
 * Each checkpoint is a JSON line on stdout; a line on stdin lets it go on. It runs the built package in plain JavaScript:
 * a TypeScript loader reserves tens of gigabytes of address space, which a core dump would hold.
 */
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Host, Kms, VCenter } from '../../dist/index.js'

const directory = process.argv[2]
if (!directory) throw new Error('usage: scenario.mjs DIRECTORY')
const lines = createInterface({ input: process.stdin })

async function checkpoint(name, facts = {}) {
  process.stdout.write(`${JSON.stringify({ name, ...facts })}\n`)
  await once(lines, 'line')
}

const datastore = join(directory, 'ds1')
await mkdir(datastore)
await writeFile(join(directory, 'disk.raw'), Buffer.alloc(8 * 2 ** 20, 'plain text of the disk '))
const kms = await Kms.start({ directory: join(directory, 'kms') })
const credentials = await kms.enrol('vcenter')
const vcenter = await VCenter.open({ directory: join(directory, 'vcenter') })
await vcenter.keyProviders.add({ id: 'kms-1', servers: [kms.endpoint], credentials })
const cluster = await vcenter.clusters.create('prod')
const hosts = [
  await Host.start({ name: 'esx-1', datastores: { ds1: datastore } }),
  await Host.start({ name: 'esx-2', datastores: { ds1: datastore } }),
]
for (const host of hosts) await cluster.addHost(host)
const vm = await vcenter.virtualMachines.import({
  name: 'db01',
  cluster,
  datastore: 'ds1',
  disks: [join(directory, 'disk.raw')],
})
await vm.applyPolicy({ home: 'VM Encryption Policy', disks: 'VM Encryption Policy' }).done
await vm.addDisk({ capacityBytes: 4 * 2 ** 20, policy: 'VM Encryption Policy' }).done
await hosts[0]?.restart()
await vcenter.hosts.reconnect('esx-1')
await vm.powerOn({ host: 'esx-1' })
const info = await vm.info()
await checkpoint('loaded', {
  pid: process.pid,
  kms: kms.endpoint,
  credentials,
  home: { keyId: info.homeKey?.keyId, file: join(datastore, 'db01', 'db01.vmx') },
  disks: info.disks.map((disk) => ({ keyId: disk.key?.keyId, file: join(datastore, 'db01', disk.file) })),
})
await vm.powerOff()
await vm.applyPolicy({ home: 'Datastore Default', disks: 'Datastore Default' }).done
await vcenter.close()
for (const host of hosts) await host.stop()
await kms.stop()
await checkpoint('disposed')
lines.close()
