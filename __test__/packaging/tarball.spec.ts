/** What users get: the tarball of npm pack, installed in an empty project without install scripts. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import type { ExecutionContext } from 'ava'

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

test('the packed tarball installs with --ignore-scripts and works by import, by require and as a command', async (t) => {
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
  await useCommand(t, directory)
})

/** A life of a KMS by the installed command alone. */
async function useCommand(t: ExecutionContext, directory: string): Promise<void> {
  const vmseal = (...argv: string[]) => run(join(directory, 'node_modules/.bin/vmseal'), argv, directory)
  const json = (...argv: string[]) => JSON.parse(vmseal('--json', ...argv)) as Record<string, string>
  t.regex(vmseal('--help'), /^Usage: vmseal .*kms start/s)
  const child = spawn(
    join(directory, 'node_modules/.bin/vmseal'),
    ['--json', 'kms', 'start', '--directory', 'kms', '--port', '0'],
    { cwd: directory, stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const ended = once(child, 'exit') as Promise<[number | null]>
  t.teardown(() => child.kill('SIGKILL'))
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string]
  const { endpoint } = JSON.parse(line) as { endpoint: { host: string; port: number } }

  const kms = ['--directory', 'kms']
  const issued = json('kms', 'enrol', 'vcenter', ...kms)
  const doctor = json(
    'provider',
    'doctor',
    '--server',
    `${endpoint.host}:${endpoint.port}`,
    '--ca',
    issued.caCertificateFile ?? '',
    '--certificate',
    issued.certificateFile ?? '',
    '--key',
    issued.privateKeyFile ?? '',
  )
  t.like(doctor, { ok: true })
  t.like(json('kms', 'verify', ...kms), { ok: true })
  t.like(json('kms', 'audit', 'verify', ...kms), { ok: true })
  writeFileSync(join(directory, 'passphrase'), 'a passphrase')
  json('kms', 'backup', 'backup', '--passphrase-file', 'passphrase', ...kms)
  child.kill('SIGTERM')
  t.is((await ended)[0], 0)
  json('kms', 'restore', 'backup', '--passphrase-file', 'passphrase', '--directory', 'restored')
  t.like(json('kms', 'audit', 'verify', '--directory', 'restored'), { ok: true })
}

test('the package has no install script', (t) => {
  const { scripts, gypfile } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
    gypfile: boolean
  }
  for (const name of ['preinstall', 'install', 'postinstall', 'prepare']) t.false(name in scripts)
  t.false(gypfile, 'npm must not run node-gyp by itself')
})
