// node scripts/performance-page.mjs [REPORT]: docs/performance.md from a report of npm run bench, by default the newest.
import { spawnSync } from 'node:child_process'
import { root } from './setup.mjs'

const argv = ['--import=tsx', 'bench/write-page.ts', ...process.argv.slice(2)]
const { status } = spawnSync(process.execPath, argv, { cwd: root, stdio: 'inherit' })
process.exit(status ?? 1)
