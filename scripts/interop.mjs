// npm run interop: our KMIP against other people's; writes docs/interop.md. What is not here is skipped, and said so.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { root, run, setUp } from './setup.mjs'

/** The PyKMIP of PyPI that the matrix shows beside Debian's. */
const pyKmip = '0.11.0'

setUp()
const built = join(root, 'build/interop')
mkdirSync(built, { recursive: true })
const pythons = [debianPyKmip(), currentPyKmip()].filter((pair) => pair !== undefined)
kmipGo()
run('node', [
  '--import=tsx',
  '__test__/interop/matrix-child.ts',
  join(root, 'docs/interop.md'),
  ...pythons.map(([label, python]) => `${label}=${python}`),
])
run('npx', ['--no-install', 'prettier', '--write', '--log-level=warn', 'docs/interop.md'])

function debianPyKmip() {
  const python = '/usr/bin/python3'
  const version = versionOf(python)
  if (version) return [`PyKMIP ${version} (Debian)`, python]
  skipped('PyKMIP of Debian', 'apt-get install python3-pykmip')
}

function currentPyKmip() {
  const python = join(built, 'pykmip/bin/python')
  if (!existsSync(python)) succeeds('python3', ['-m', 'venv', join(built, 'pykmip')])
  if (!versionOf(python)) succeeds(python, ['-m', 'pip', 'install', '--quiet', `PyKMIP==${pyKmip}`])
  const version = versionOf(python)
  if (version) return [`PyKMIP ${version} (PyPI)`, python]
  skipped(`PyKMIP ${pyKmip} of PyPI`, 'it needs python3-venv and the network')
}

function kmipGo() {
  const program = join(built, 'kmip-go')
  const made = succeeds('go', ['build', '-o', program, '.'], { cwd: join(root, 'interop/kmip-go') })
  if (!made && !existsSync(program)) skipped('ovh/kmip-go', 'it needs Go 1.25 and the network')
}

function versionOf(python) {
  const program = 'import importlib.metadata as m, kmip; print(m.version("PyKMIP"))'
  const { status, stdout } = spawnSync(python, ['-c', program], { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : undefined
}

function succeeds(command, argv, options = {}) {
  return spawnSync(command, argv, { stdio: ['ignore', 'ignore', 'inherit'], ...options }).status === 0
}

function skipped(peer, how) {
  process.stdout.write(`skipped: ${peer} is not here (${how})\n`)
}
