// npm run check: everything that can be judged without running the product.
import { spawnSync } from 'node:child_process'
import { fail, root, setUp } from './setup.mjs'

const strict = ['--locked', '--quiet', '--', '-D', 'warnings']
/** @type {[name: string, command: string, argv: string[]][]} */
const checks = [
  ['format (Rust)', 'cargo', ['fmt', '--all', '--check']],
  ['format', 'npx', ['--no-install', 'prettier', '--check', '--log-level=warn', '.']],
  ['lint', 'npx', ['--no-install', 'oxlint', '--type-aware', '--deny-warnings']],
  ['types', 'npx', ['--no-install', 'tsc', '--noEmit', '-p', '__test__']],
  // The addon has no tests of its own: under cfg(test) its exports would be dead code.
  ['clippy (addon)', 'cargo', ['clippy', '-p', 'vmseal-node', '--lib', ...strict]],
  [
    'clippy (crates)',
    'cargo',
    ['clippy', '--workspace', '--exclude', 'vmseal-node', '--all-targets', ...strict],
  ],
  ['dead code', 'npx', ['--no-install', 'knip', '--no-progress']],
  ['house rules', 'node', ['scripts/house-rules.mjs']],
  ['generated documents', 'node', ['scripts/generate-docs.mjs', '--check']],
  ['feature table', 'node', ['scripts/features.mjs', '--check']],
  ['names of vSphere', 'node', ['scripts/vsphere-names.mjs', '--check']],
  ['API report', 'node', ['scripts/api-report.mjs']],
]

setUp()
const failed = []
for (const [name, command, argv] of checks) {
  const begin = Date.now()
  const { status } = spawnSync(command, argv, { cwd: root, stdio: 'inherit' })
  const seconds = ((Date.now() - begin) / 1000).toFixed(1)
  process.stdout.write(`${status === 0 ? 'ok  ' : 'FAIL'} ${name} (${seconds} s)\n`)
  if (status !== 0) failed.push(name)
}
if (failed.length > 0) fail(`check failed: ${failed.join(', ')}`)
