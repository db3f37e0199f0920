// npm run fuzz [-- COUNT [SEED]]: damaged messages through the TypeScript codec and the Rust framing, 1,000,000 each.
import { join } from 'node:path'
import { root, run, setUp } from './setup.mjs'

const [count = '1000000', seed = String(1 + (Date.now() % 2 ** 31))] = process.argv.slice(2)

setUp()
run('node', ['--import=tsx', '__test__/kmip/fuzz-child.ts', count, seed])
run('cargo', [
  'run',
  '--release',
  '--quiet',
  '--locked',
  `--manifest-path=${join(root, 'fuzz/Cargo.toml')}`,
  `--target-dir=${join(root, 'target/fuzz')}`,
  '--bin=mutations',
  '--',
  count,
  seed,
])
