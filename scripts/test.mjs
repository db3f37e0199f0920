// npm test: set-up, then the Rust tests and the TypeScript tests; one closing line adds both up.
// npm test -- FILE...: only these TypeScript tests.
import { spawn } from 'node:child_process'
import { copyFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { root, run, setUp } from './setup.mjs'

setUp()
const only = process.argv.slice(2)
const counts = { passed: 0, failed: 0 }
let broken = false

if (only.length === 0) await cargoTests()
run('npx', ['--no-install', 'tsc', '--noEmit', '-p', '__test__'])
plantedFaults()
await avaTests()

if (broken && counts.failed === 0) counts.failed = 1
process.stdout.write(`${counts.passed} passed, ${counts.failed} failed\n`)
process.exit(counts.failed === 0 && counts.passed > 0 ? 0 : 1)

async function cargoTests() {
  const status = await lines('cargo', ['test', '--workspace', '--locked', '--no-fail-fast'], (line) => {
    const result = /^test result: \w+\. (\d+) passed; (\d+) failed;/.exec(line)
    if (!result) return
    counts.passed += Number(result[1])
    counts.failed += Number(result[2])
  })
  if (status !== 0) broken = true
}

async function avaTests() {
  const status = await lines('npx', ['--no-install', 'ava', ...only], (line) => {
    if (/^ +✔ /.test(line)) counts.passed += 1
    if (/^ +✘ \[fail\]/.test(line)) counts.failed += 1
  })
  if (status !== 0) broken = true
}

/** The build that leaks and panics on purpose: what the tests of the tests look for. */
function plantedFaults() {
  run('cargo', ['build', '--features', 'planted-faults', '--locked', '--quiet'])
  const built = join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'debug/libvmseal_node.so')
  const folder = join(root, 'build/planted-faults/build/Release')
  mkdirSync(folder, { recursive: true })
  copyFileSync(built, join(folder, 'vmseal.node'))
}

/** Runs a command, shows its output and hands every line of it to `see`. */
function lines(command, argv, see) {
  const child = spawn(command, argv, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] })
  createInterface({ input: child.stdout }).on('line', (line) => {
    process.stdout.write(`${line}\n`)
    // eslint-disable-next-line no-control-regex
    see(line.replace(/\u001b\[[0-9;]*m/g, ''))
  })
  return new Promise((resolve, reject) => child.on('error', reject).on('close', resolve))
}
