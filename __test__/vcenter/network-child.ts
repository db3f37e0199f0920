/** A vCenter in a process of its own, to be killed: encrypts a VM of its inventory and says when work has begun. */
import { setTimeout as sleep } from 'node:timers/promises'
import { VCenter } from '../../src/index.js'

const [directory = '', name = ''] = process.argv.slice(2)
const vcenter = await VCenter.open({ directory })
while ((await vcenter.hosts.list()).some(({ connectionState }) => connectionState !== 'connected'))
  await sleep(20)
const vm = await vcenter.virtualMachines.get(name)
const task = vm.applyPolicy({ home: 'VM Encryption Policy', disks: 'VM Encryption Policy' })
task.once('progress', () => process.stdout.write('working\n'))
await task.done
process.stdout.write('done\n')
await vcenter.close()
