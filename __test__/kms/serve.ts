/** A KMS in a process of its own, for tests that kill it: prints its endpoint and credentials as JSON. */
import { Kms } from '../../src/kms/kms.js'

const [directory] = process.argv.slice(2)
if (directory === undefined) throw new Error('usage: serve.ts DIRECTORY')
const kms = await Kms.start({ directory })
process.stdout.write(
  `${JSON.stringify({ endpoint: kms.endpoint, credentials: await kms.enrol('vcenter') })}\n`,
)
