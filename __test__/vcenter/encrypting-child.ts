/** A whole installation in one process, which begins to encrypt a VM, says so, and expects to be killed. */
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { Host, Kms, VCenter } from '../../src/index.js'

const [directory = '', image = ''] = process.argv.slice(2)
const datastore = path.join(directory, 'ds1')
await mkdir(datastore)
const kms = await Kms.start({ directory: path.join(directory, 'kms') })
const credentials = await kms.enrol('vcenter')
const vcenter = await VCenter.open({ directory: path.join(directory, 'vcenter') })
await vcenter.keyProviders.add({ id: 'kms-1', servers: kms.endpoint, credentials })
const cluster = await vcenter.clusters.create('prod')
await cluster.addHost(await Host.start({ name: 'esx-1', datastores: { ds1: datastore } }))
const vm = await vcenter.virtualMachines.import({ name: 'db01', cluster, datastore: 'ds1', disks: [image] })
const task = vm.applyPolicy({ home: 'VM Encryption Policy', disks: 'VM Encryption Policy' })
task.on('progress', ({ doneBytes, totalBytes }) => {
  if (doneBytes < totalBytes) process.stdout.write(`${kms.endpoint.port}\n`)
})
await task.done
process.stdout.write('too late\n')
