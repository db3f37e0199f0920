/** Run as a process: takes the lock of `name` on the datastore in `directory`, says so, and lives on. */
import { Datastore } from '../../src/host/datastore.js'
import { VirtualMachineLock } from '../../src/host/lock.js'

const [directory = '', name = '', hostId = ''] = process.argv.slice(2)
const store = await Datastore.open('ds1', directory)
await VirtualMachineLock.acquire(store.filesOf(name), { hostId, bootId: 'child' })
process.stdout.write('held\n')
setInterval(() => undefined, 1000)
