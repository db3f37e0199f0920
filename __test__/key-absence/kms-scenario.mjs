/**
 * A KMS alone in its process, which another process gives work and looks into. Each line on stdin is a step: `rotate`,
 * `backup`, `stop`, `end`; each is answered by a line. Built package, plain JavaScript: see scenario.mjs.
 */
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Kms } from '../../dist/index.js'

const directory = process.argv[2]
if (!directory) throw new Error('usage: kms-scenario.mjs DIRECTORY')
const say = (facts) => process.stdout.write(`${JSON.stringify(facts)}\n`)
const kms = await Kms.start({ directory })
const steps = {
  rotate: () => kms.rotateRootKey(),
  backup: () => kms.backup(join(directory, '..', 'backup'), Buffer.from('a passphrase')),
  stop: () => kms.stop(),
  end: () => process.exit(0),
}
say({ endpoint: kms.endpoint, credentials: await kms.enrol('vcenter') })
for await (const step of createInterface({ input: process.stdin })) {
  await steps[step]()
  say({ step })
}
