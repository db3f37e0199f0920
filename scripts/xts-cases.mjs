// npm run xts:cases [-- COUNT]: random cases of AES-256-XTS, every kernel against Node's OpenSSL; 1,000,000 take 10 minutes.
import { run, setUp } from './setup.mjs'

const [count = '1000000'] = process.argv.slice(2)
if (!/^[1-9]\d*$/.test(count)) throw new Error(`COUNT must be a whole number, not ${count}`)

setUp()
run('node', ['--import=tsx', '__test__/crypto/xts-cases-child.ts', count])
