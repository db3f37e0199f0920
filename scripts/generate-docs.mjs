// docs/errors.md from the one table in src/errors.ts, docs/commands.md from the help of the command. With --check: fails
// when a committed page differs.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fail, root } from './setup.mjs'

const { errorCodes } = await import(join(root, 'dist/errors.js'))
const { commandPage } = await import(join(root, 'dist/cli/command-page.js'))

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

for (const [name, text] of [
  ['docs/errors.md', page],
  ['docs/commands.md', commandPage()],
]) {
  const file = join(root, name)
  if (!process.argv.includes('--check')) writeFileSync(file, text)
  else if (!existsSync(file) || readFileSync(file, 'utf8') !== text)
    fail(`${name} is stale: run npm run docs`)
}
