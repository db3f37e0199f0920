// npm run lives -- [--seeds N] [--from S] [--trace]: random sequences in the life of VMs, against a model of them.
import { root, run, setUp } from './setup.mjs'

setUp()
run(process.execPath, [
  '--import=tsx',
  '--expose-gc',
  `${root}/__test__/vcenter/life/lives.ts`,
  ...process.argv.slice(2),
])
