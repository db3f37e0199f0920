/** The threads behind `encryptAsync`: shared by the environments of a process, and ended with them, in the middle of work. */
import { spawnSync } from 'node:child_process'
import test from 'ava'

/** Worker threads load no TypeScript, so programs run the built package. */
const entry = new URL('../../dist/crypto.js', import.meta.url).href

/** What all programs begin with. */
const prelude = `
  import { readdirSync, readFileSync } from 'node:fs'
  import { once } from 'node:events'
  import { Worker } from 'node:worker_threads'
  import { SecretKey, XtsCipher, keyMemory } from ${JSON.stringify(entry)}
  const threads = () => readdirSync('/proc/self/task').filter((id) => {
    // A thread may end between the two calls.
    try { return readFileSync('/proc/self/task/' + id + '/comm', 'utf8').startsWith('vmseal-') } catch { return false }
  }).length
  const busy = (bytes) => 'data:text/javascript,' + encodeURIComponent(\`
    import { parentPort } from 'node:worker_threads'
    import { SecretKey, XtsCipher } from ${JSON.stringify(entry)}
    const cipher = new XtsCipher(SecretKey.generate(64))
    const running = Array.from({ length: 4 }, () => cipher.encryptAsync(new Uint8Array(\${bytes}), 0))
    parentPort.postMessage('busy')
    await Promise.all(running)
    parentPort.postMessage('done')
    for (;;) await cipher.encryptAsync(new Uint8Array(\${bytes}), 0)
  \`)
  const start = async (bytes) => {
    const worker = new Worker(new URL(busy(bytes)), { execArgv: [] })
    await once(worker, 'message')
    return worker
  }
`

function run(source: string) {
  return spawnSync(process.execPath, ['--input-type=module', '-e', prelude + source], {
    encoding: 'utf8',
    timeout: 60_000,
  })
}

test('the threads end with the last environment that used them, and its keys are wiped', (t) => {
  const { status, stdout, stderr } = run(`
    const seen = []
    for (let turn = 0; turn < 3; turn += 1) {
      const before = keyMemory().allocations
      const worker = await start(32 << 20)
      const during = threads()
      await worker.terminate()
      seen.push([during > 0, threads(), keyMemory().allocations - before])
    }
    console.log(JSON.stringify(seen))
  `)
  t.is(status, 0, stderr)
  t.deepEqual(
    JSON.parse(stdout),
    Array.from({ length: 3 }, () => [true, 0, 0]),
  )
})

test('the end of one environment disturbs no other', (t) => {
  const { status, stdout, stderr } = run(`
    const cipher = new XtsCipher(SecretKey.generate(64))
    const expected = Buffer.alloc(16 << 20)
    cipher.encrypt(expected, 0)
    const mine = Array.from({ length: 4 }, () => cipher.encryptAsync(new Uint8Array(16 << 20), 0))
    const worker = await start(16 << 20)
    await worker.terminate()
    const results = [...await Promise.all(mine), await cipher.encryptAsync(new Uint8Array(16 << 20), 0)]
    console.log(threads() > 0, results.every((one) => expected.equals(one)))
  `)
  t.is(status, 0, stderr)
  t.is(stdout.trim(), 'true true')
})

const ways: [string, string, number][] = [
  ['process.exit', 'process.exit(7)', 7],
  ['an exception', `throw new Error('planted')`, 1],
  ['process.exit beside a busy worker', `await start(8 << 20); process.exit(7)`, 7],
]
for (const [name, end, expected] of ways)
  test(`${name} in the middle of work ends the process cleanly`, (t) => {
    for (let turn = 0; turn < 3; turn += 1) {
      const { status, signal, stderr } = run(`
        const cipher = new XtsCipher(SecretKey.generate(64))
        const running = Array.from({ length: 8 }, () => cipher.encryptAsync(new Uint8Array(16 << 20), 0))
        ${end}
      `)
      t.deepEqual([status, signal], [expected, null], stderr)
    }
  })
