/** A KMS in a process of its own, for `kms.bench.ts`: says where it serves, and its memory and CPU time when it is asked. */
import { Kms } from '../src/kms/kms.js'

const [directory] = process.argv.slice(2)
if (directory === undefined || process.send === undefined)
  throw new Error('usage: fork kms-serve.ts DIRECTORY')
const kms = await Kms.start({ directory })
process.send({ endpoint: kms.endpoint, credentials: await kms.enrol('vcenter') })
process.on('message', (question) => {
  if (question === 'cpu') return void process.send?.(process.cpuUsage())
  globalThis.gc?.()
  process.send?.(process.memoryUsage().rss)
})
