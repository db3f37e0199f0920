// docs/errors.md from the one table in src/errors.ts. With --check: fails when the committed page differs.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fail, root } from './setup.mjs'

const { errorCodes } = await import(join(root, 'dist/errors.js'))

const faults = {
  caller: 'the calling program or person',
  data: 'whoever made or changed the data',
  peer: 'the other side of a connection',
  environment: 'the machine and its settings',
  vmseal: 'vmseal itself',
}

const rows = Object.entries(errorCodes).flatMap(([code, entry]) => [
  `## ${code}`,
  '',
  entry.summary,
  '',
  `* At fault: ${faults[entry.fault]}`,
  `* Next step: ${entry.action}`,
  ...(entry.retryable ? ['* The same call may succeed later without a change.'] : []),
  ...(entry.vsphere ? [`* In vSphere: \`${entry.vsphere}\``] : []),
  '',
])
const page = [
  '# Errors',
  '',
  'Every error that vmseal throws or rejects with is a `VmsealError` with one of these codes. Branch on `error.code`;',
  'the message is for people and may change. This page is generated from `src/errors.ts` by `npm run docs`.',
  '',
  ...rows,
].join('\n')

const file = join(root, 'docs/errors.md')
if (!process.argv.includes('--check')) writeFileSync(file, page)
else if (!existsSync(file) || readFileSync(file, 'utf8') !== page)
  fail('docs/errors.md is stale: run npm run docs')
