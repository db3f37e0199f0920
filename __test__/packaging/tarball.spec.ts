/** What users get: the tarball of npm pack, installed in an empty project without install scripts. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'

const root = fileURLToPath(new URL('../..', import.meta.url))

function run(command: string, argv: readonly string[], directory: string): string {
  const environment = { ...process.env, PREBUILDS_ONLY: '1' }
  return execFileSync(command, argv, {
    cwd: directory,
    encoding: 'utf8',
    env: environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

test('the packed tarball installs with --ignore-scripts and works by import and by require', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'vmseal-pack-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  run('npm', ['run', '--silent', 'build:prebuilds'], root)
  const packed = JSON.parse(
    run('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', directory], root),
  ) as [{ filename: string; files: { path: string }[] }]
  const paths = packed[0].files.map(({ path }) => path)
  t.true(paths.some((path) => /^prebuilds\/linux-\w+\/vmseal\.(glibc|musl)\.node$/.test(path)))
  t.deepEqual(
    paths.filter(
      (path) =>
        !/^(dist|prebuilds|docs)\/|^(README|CHANGELOG|SECURITY)\.md$|^LICENSE$|^package\.json$/.test(path),
    ),
    [],
    'nothing else is shipped',
  )
  t.false(paths.some((path) => path.includes('planted-faults')))

  writeFileSync(join(directory, 'package.json'), '{"name":"empty","private":true}')
  run(
    'npm',
    [
      'install',
      '--ignore-scripts',
      '--no-audit',
      '--no-fund',
      '--prefer-offline',
      join(directory, packed[0].filename),
    ],
    directory,
  )
  const use = `
    const key = SecretKey.generate(64)
    const sector = Buffer.alloc(512)
    new XtsCipher(key).encrypt(sector, 0)
    if (!VmsealError || !Kms.start || !KmipClient.connect) throw new Error('an entry point is incomplete')
    console.log(sector.equals(Buffer.alloc(512)) ? 'plain' : 'encrypted')
  `
  writeFileSync(
    join(directory, 'use.mjs'),
    `import { Kms, VmsealError } from 'vmseal'
     import { SecretKey, XtsCipher } from 'vmseal/crypto'
     import { KmipClient } from 'vmseal/kmip'
     ${use}`,
  )
  writeFileSync(
    join(directory, 'use.cjs'),
    `const { Kms, VmsealError } = require('vmseal')
     const { SecretKey, XtsCipher } = require('vmseal/crypto')
     const { KmipClient } = require('vmseal/kmip')
     ${use}`,
  )
  t.is(run(process.execPath, ['use.mjs'], directory).trim(), 'encrypted')
  t.is(run(process.execPath, ['use.cjs'], directory).trim(), 'encrypted')
})

test('the package has no install script', (t) => {
  const { scripts, gypfile } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
    gypfile: boolean
  }
  for (const name of ['preinstall', 'install', 'postinstall', 'prepare']) t.false(name in scripts)
  t.false(gypfile, 'npm must not run node-gyp by itself')
})
