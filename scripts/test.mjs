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
/** Power cuts that the crash models tried; each model asserts its own share. */
let crashHistories = 0
const crashHistoriesPromised = 10_000_000
/** What failed, in the runners' own words: said again at the end, where whoever sees only the end finds it. */
const failures = []

if (only.length === 0) await cargoTests()
run('npx', ['--no-install', 'tsc', '--noEmit', '-p', '__test__'])
plantedFaults()
await avaTests()

if (failures.length > 0) process.stdout.write(`\nWhat failed:\n  ${failures.join('\n  ')}\n\n`)
counts.failed = Math.max(counts.failed, failures.length > 0 ? 1 : 0)
if (crashHistories > 0) process.stdout.write(`${crashHistories} crash histories tried\n`)
process.stdout.write(`${counts.passed} passed, ${counts.failed} failed\n`)
process.exit(counts.failed === 0 && counts.passed > 0 ? 0 : 1)

async function cargoTests() {
  const status = await lines('cargo', ['test', '--workspace', '--locked', '--no-fail-fast'], (line) => {
    if (/^test .* FAILED$|^ +`-p .* --(test|lib|bin|doc)\b|^ +process didn't exit/.test(line))
      failures.push(line.trim())
    const explored = /crash histories of [^:]+: (\d+),/.exec(line)
    if (explored) crashHistories += Number(explored[1])
    const result = /^test result: \w+\. (\d+) passed; (\d+) failed;/.exec(line)
    if (!result) return
    counts.passed += Number(result[1])
    counts.failed += Number(result[2])
  })
  if (status !== 0) failures.push(`cargo test ended with ${status}`)
  if (crashHistories < crashHistoriesPromised)
    failures.push(`${crashHistories} crash histories were tried, not the ${crashHistoriesPromised} promised`)
}

async function avaTests() {
  const status = await lines('npx', ['--no-install', 'ava', ...only], (line) => {
    if (/^ +✔ /.test(line)) counts.passed += 1
    if (/^ +✘ \[fail\]/.test(line)) counts.failed += 1
    if (/^ *✘ |^ *(Uncaught exception|Unhandled rejection) in /.test(line)) failures.push(line.trim())
  })
  if (status !== 0) failures.push(`ava ended with ${status}`)
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
  const child = spawn(command, argv, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  for (const stream of ['stdout', 'stderr']) {
    createInterface({ input: child[stream] }).on('line', (line) => {
      process[stream].write(`${line}\n`)
      // eslint-disable-next-line no-control-regex
      see(line.replace(/\u001b\[[0-9;]*m/g, ''))
    })
  }
  return new Promise((resolve, reject) =>
    child.on('error', reject).on('close', (status, signal) => resolve(status ?? signal)),
  )
}
