// npm run bench [-- --quick --only PARTS --compare FILE --json FILE --with-node VERSION]: set-up, then the benchmark.
import { spawnSync } from 'node:child_process'
import { root, setUp } from './setup.mjs'

setUp()
const argv = ['--import=tsx', 'bench/run.ts', ...process.argv.slice(2)]
const { status } = spawnSync(process.execPath, argv, { cwd: root, stdio: 'inherit' })
process.exit(status ?? 1)
