/** Shell completion: words from the commands, names from the vCenter that runs, and the script as bash runs it. */
import { spawnSync } from 'node:child_process'
import { chmodSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { completionsOf } from '../../src/cli/completion/completions.js'
import { buildProgram } from '../../src/cli/program.js'
import { temporaryDirectory } from '../kms/running-kms.js'
import { administer } from './administered.js'
import { vmseal } from './command.js'

const complete = (...words: string[]): Promise<readonly string[]> => completionsOf(buildProgram(false), words)

test.serial('commands, options, choices, and names of the vCenter that runs', async (t) => {
  const { answer } = await administer(t)
  for (const name of ['db01', 'db 02', 'web01'])
    await answer('vm', 'create', name, '--cluster', 'prod', '--datastore', 'ds1')
  t.deepEqual(await complete('vm', 'enc'), ['encrypt', 'encrypt-disk'])
  t.true((await complete('')).includes('rekey'))
  t.false((await complete('')).some((word) => word.startsWith('_')))
  t.deepEqual(await complete('vm', 'encrypt', '--pro'), ['--progress'])
  t.deepEqual(await complete('vm', 'list', '--crypto', ''), ['encrypted', 'locked', 'plain'])
  t.deepEqual(await complete('vm', 'show', 'db'), ['db 02', 'db01'])
  t.deepEqual(await complete('vm', 'list', '--host', ''), ['esx-1'])
  t.deepEqual(await complete('--json', 'vm', 'set-policy', 'db01', '--home', 'VM'), ['VM Encryption Policy'])
  t.deepEqual(await complete('permission', 'set', 'x', 'Read'), ['Read-only'])
  t.deepEqual(await complete('role', 'create', 'x', 'System.View', 'Cryptographer.En'), [
    'Cryptographer.Encrypt',
    'Cryptographer.EncryptNew',
  ])
  t.deepEqual(await complete('completion', 'z'), ['zsh'])
  t.deepEqual(await complete('vm', 'show', '--vcenter', '/nonexistent', 'db'), [], 'none runs there')
  t.deepEqual(await complete('vm', 'import', 'x', ''), [], 'the shell knows files better')
  t.deepEqual(await complete('nonsense', 'x'), [])
  t.deepEqual(await complete('vm', 'show', '__proto__'), [])
})

test('every shell gets a script, and the one for bash completes', (t) => {
  for (const shell of ['zsh', 'fish'])
    t.true(vmseal(['completion', shell]).stdout.includes('vmseal __complete'))
  t.is(vmseal(['completion', 'tcsh']).status, 2)
  const directory = temporaryDirectory(t)
  const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
  const command = path.join(directory, 'vmseal')
  writeFileSync(command, `#!/bin/sh\nexec '${process.execPath}' '${program}' "$@"\n`)
  chmodSync(command, 0o755)
  const { stdout, stderr } = spawnSync(
    'bash',
    ['-c', 'source <(vmseal completion bash); COMP_WORDS=(vmseal vm encr); COMP_CWORD=2; _vmseal; printf "%s\\n" "${COMPREPLY[@]}"'],
    { encoding: 'utf8', env: { PATH: `${directory}:${process.env['PATH']}` } },
  ) // prettier-ignore
  t.deepEqual(stdout.trim().split('\n'), ['encrypt', 'encrypt-disk'], stderr)
})
