/** A whole installation in one process, which rekeys its VMs, says how far it is, and expects to be killed. */
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { Host, Kms, VCenter } from '../../src/index.js'

const [directory = '', image = '', count = ''] = process.argv.slice(2)
const datastore = path.join(directory, 'ds1')
await mkdir(datastore)
const kms = await Kms.start({ directory: path.join(directory, 'kms') })
const credentials = await kms.enrol('vcenter')
const vcenter = await VCenter.open({ directory: path.join(directory, 'vcenter') })
await vcenter.keyProviders.add({ id: 'kms-1', servers: kms.endpoint, credentials })
const cluster = await vcenter.clusters.create('prod')
await cluster.addHost(await Host.start({ name: 'esx-1', datastores: { ds1: datastore } }))
for (let index = 0; index < Number(count); index += 1)
  await vcenter.virtualMachines.import({
    name: `vm${index}`,
    cluster,
    datastore: 'ds1',
    policy: 'VM Encryption Policy',
    disks: [image],
  })
const task = vcenter.rekey({ provider: 'kms-1' })
task.on('progress', ({ doneBytes }) => process.stdout.write(`${kms.endpoint.port} ${doneBytes}\n`))
await task.done
process.stdout.write('too late\n')
