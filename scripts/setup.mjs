// Brings a fresh clone to the point where everything runs: dependencies, native addon, TypeScript.
// Needs nothing but Node. Each part is done again only when its inputs changed.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = dirname(dirname(fileURLToPath(import.meta.url)))

const parts = [
  {
    name: 'dependencies (npm)',
    inputs: ['package.json', 'package-lock.json'],
    stamp: 'node_modules/.vmseal-setup',
    product: 'node_modules',
    // Like npm ci, this follows the lock file and leaves it alone; npm ci would also demand entries for the optional
    // binaries of tools on other platforms.
    run: () => run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error']),
  },
  {
    name: 'native addon (cargo, some minutes the first time)',
    inputs: ['Cargo.toml', 'Cargo.lock', 'build.rs', '.cargo', 'crates', 'src/native'],
    only: /\.(rs|toml|lock)$/,
    stamp: 'build/.vmseal-setup',
    product: 'build/Release/vmseal.node',
    run: () => {
      needCargo()
      run('npm', ['run', '--silent', 'build:native'])
    },
  },
  {
    name: 'TypeScript (tsc)',
    inputs: ['package-lock.json', 'tsconfig.json', 'src'],
    only: /\.(ts|json)$/,
    stamp: 'dist/.vmseal-setup',
    product: 'dist/index.js',
    run: () => run('npm', ['run', '--silent', 'build:ts']),
  },
]

/** Runs every part that is missing or stale; prints a line for each that it runs. */
export function setUp() {
  for (const part of parts) {
    const digest = digestOf(part)
    const stamp = join(root, part.stamp)
    const fresh =
      existsSync(join(root, part.product)) && existsSync(stamp) && readFileSync(stamp, 'utf8') === digest
    if (fresh) continue
    const begin = Date.now()
    process.stderr.write(`set-up: ${part.name} ...\n`)
    part.run()
    mkdirSync(dirname(stamp), { recursive: true })
    // The build itself may refresh an input (generated types), so the digest is taken again.
    writeFileSync(stamp, digestOf(part))
    process.stderr.write(`set-up: ${part.name} done in ${((Date.now() - begin) / 1000).toFixed(0)} s\n`)
  }
}

/** Runs a command in the project's root with its output shown; ends this process when it fails. */
export function run(command, argv, options = {}) {
  const { status, error, signal } = spawnSync(command, argv, { cwd: root, stdio: 'inherit', ...options })
  if (error) fail(`cannot run ${command}: ${error.message}`)
  if (status !== 0)
    fail(`${command} ${argv.join(' ')} ended with ${signal ?? `status ${status}`}`, status ?? 1)
}

export function fail(text, status = 1) {
  process.stderr.write(`${text}\n`)
  process.exit(status)
}

function needCargo() {
  const { error } = spawnSync('cargo', ['--version'], { stdio: 'ignore' })
  if (!error) return
  fail(
    'cargo is missing: vmseal builds its native part from source.\n' +
      'Install Rust 1.89 or newer (https://rustup.rs, or the package rustup of your distribution) and run this again.',
  )
}

function digestOf(part) {
  const hash = createHash('sha256').update(`${process.version} ${process.arch}`)
  for (const file of part.inputs.flatMap((input) => filesBelow(input))) {
    if (part.only && !part.only.test(file)) continue
    hash.update(`${file}\0`).update(readFileSync(join(root, file)))
  }
  return hash.digest('hex')
}

function filesBelow(path) {
  const absolute = join(root, path)
  if (!existsSync(absolute)) return []
  if (!statSync(absolute).isDirectory()) return [path]
  return readdirSync(absolute)
    .filter((name) => name !== 'target')
    .toSorted()
    .flatMap((name) => filesBelow(join(path, name)))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) setUp()
