// npm start [-- IMAGE]: set-up, then the main job.
import { spawnSync } from 'node:child_process'
import { root, setUp } from './setup.mjs'

setUp()
const argv = ['--import=tsx', 'examples/main-job/main.ts', ...process.argv.slice(2)]
const { status } = spawnSync(process.execPath, argv, {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, VMSEAL_CALLED_FROM: process.env.INIT_CWD ?? process.cwd() },
})
process.exit(status ?? 1)
