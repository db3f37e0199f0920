import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import { Worker } from 'node:worker_threads'
import test from 'ava'
import { SecretKey, keyMemory, wrapKey } from '../../src/crypto.js'
import type { VmsealError } from '../../src/crypto.js'

test('importUnsafe wipes its source', (t) => {
  const bytes = randomBytes(32)
  using key = SecretKey.importUnsafe(bytes)
  t.true(bytes.equals(Buffer.alloc(32)))
  t.is(key.length, 32)
})

test('a disposed key is refused everywhere, and disposing twice is fine', (t) => {
  const key = SecretKey.generate(32)
  using kek = SecretKey.generate(32)
  key.dispose()
  key.dispose()
  t.true(key.disposed)
  t.is(key.length, 32)
  t.throws(() => wrapKey(kek, key), { code: 'VMSEAL_KEY_DISPOSED' })
  t.throws(() => wrapKey(key, kek), { code: 'VMSEAL_KEY_DISPOSED' })
  t.throws(() => key.equals(kek), { code: 'VMSEAL_KEY_DISPOSED' })
})

test('a key shows nothing but its length', (t) => {
  const hex = randomBytes(32).toString('hex')
  using key = SecretKey.importUnsafe(Buffer.from(hex, 'hex'))
  for (const text of [
    inspect(key, { depth: 9, showHidden: true }),
    JSON.stringify(key),
    Object.prototype.toString.call(key),
  ])
    t.false(text.includes(hex.slice(0, 16)))
  t.is(JSON.stringify(key), '{"secretKey":"32 bytes"}')
  t.deepEqual(structuredClone(key) as unknown, {})
})

test('a key cannot be made with new', (t) => {
  const Constructor = SecretKey as unknown as new (...values: unknown[]) => SecretKey
  t.throws(() => new Constructor(), { code: 'VMSEAL_INVALID_ARGUMENT' })
  t.throws(() => new Constructor(Symbol('construct'), {}), { code: 'VMSEAL_INVALID_ARGUMENT' })
})

test('lengths that no key has are refused', (t) => {
  for (const length of [0, -1, 1.5, 4097, 2 ** 32, NaN, '32', null, undefined])
    t.regex(
      t.throws<VmsealError>(() => SecretKey.generate(length as number)).code,
      /^VMSEAL_(KEY_LENGTH|INVALID_ARGUMENT)$/,
    )
  t.throws(() => SecretKey.importUnsafe(Buffer.alloc(0)), { code: 'VMSEAL_KEY_LENGTH' })
  t.throws(() => SecretKey.importUnsafe('secret' as never), { code: 'VMSEAL_INVALID_ARGUMENT' })
})

test('equals compares contents', (t) => {
  const bytes = randomBytes(32)
  using one = SecretKey.importUnsafe(Buffer.from(bytes))
  using two = SecretKey.importUnsafe(Buffer.from(bytes))
  using other = SecretKey.generate(32)
  using longer = SecretKey.generate(64)
  t.true(one.equals(two))
  t.false(one.equals(other))
  t.false(one.equals(longer))
})

test('key memory is accounted for and given back', (t) => {
  const before = keyMemory()
  const keys = Array.from({ length: 100 }, () => SecretKey.generate(64))
  const during = keyMemory()
  t.is(during.allocations, before.allocations + 100)
  for (const key of keys) key.dispose()
  t.is(keyMemory().allocations, before.allocations)
  t.true(['memfd_secret', 'locked-memory'].includes(during.backing))
})

/** Child processes and workers run the built package: worker threads load no TypeScript. */
const entry = new URL('../../dist/crypto.js', import.meta.url).href

/** Runs a program in a process of its own; it must end by itself. */
function runProgram(source: string, environment: Record<string, string> = {}) {
  return spawnSync(process.execPath, ['--input-type=module', '-e', source], {
    encoding: 'utf8',
    timeout: 60_000,
    env: { ...process.env, ...environment },
  })
}

test('the lock limit ends in a typed error and keys that exist go on working', (t) => {
  // Root is not bound by the limit, so the program gives its privileges away first.
  const result = runProgram(
    `
    const { SecretKey, wrapKey, keyMemory } = await import(${JSON.stringify(entry)})
    const kek = SecretKey.generate(32)
    if (process.getuid() === 0) { process.setgroups([]); process.setgid(65534); process.setuid(65534) }
    const keys = []
    let code
    try { for (let i = 0; i < 200_000; i += 1) keys.push(SecretKey.generate(64)) } catch (error) { code = error.code }
    const wrapped = wrapKey(kek, keys[0]).length
    for (const key of keys) key.dispose()
    SecretKey.generate(64)
    console.log(JSON.stringify({ code, made: keys.length > 1000, wrapped, limit: keyMemory().lockLimit }))
  `,
  )
  t.is(result.status, 0, result.stderr)
  const answer = JSON.parse(result.stdout) as {
    code?: string
    made: boolean
    wrapped: number
    limit?: number
  }
  if (answer.limit === undefined || answer.limit > 32 * 2 ** 20) {
    t.log('skipped: RLIMIT_MEMLOCK is too high to reach')
    return t.pass()
  }
  t.is(answer.code, 'VMSEAL_KEY_MEMORY_EXHAUSTED')
  t.true(answer.made)
  t.is(answer.wrapped, 72)
})

test('without memfd_secret the status says that keys are in locked memory', (t) => {
  const result = runProgram(
    `const { keyMemory } = await import(${JSON.stringify(entry)}); console.log(keyMemory().backing)`,
    { VMSEAL_KEY_MEMORY: 'locked' },
  )
  t.is(result.stdout.trim(), 'locked-memory', result.stderr)
})

test('many worker threads use the addon at once and may be terminated in the middle', async (t) => {
  const source = `
    import { SecretKey, XtsCipher } from ${JSON.stringify(entry)}
    import { parentPort } from 'node:worker_threads'
    const cipher = new XtsCipher(SecretKey.generate(64))
    const data = Buffer.alloc(1 << 20)
    cipher.encrypt(data, 0); cipher.decrypt(data, 0)
    parentPort.postMessage(data.equals(Buffer.alloc(1 << 20)))
    for (;;) await cipher.encryptAsync(new Uint8Array(8 << 20), 0)
  `
  const url = new URL(`data:text/javascript,${encodeURIComponent(source)}`)
  const results = await Promise.all(
    Array.from({ length: 6 }, async () => {
      const worker = new Worker(url, { execArgv: [] })
      const message = await new Promise<unknown>((resolve, reject) =>
        worker.on('message', resolve).on('error', reject),
      )
      await worker.terminate()
      return message
    }),
  )
  t.deepEqual(
    results,
    Array.from({ length: 6 }, () => true),
  )
})

test('a process that exits in the middle of work ends cleanly and by itself', (t) => {
  const work = `
    const { SecretKey, XtsCipher } = await import(${JSON.stringify(entry)})
    const cipher = new XtsCipher(SecretKey.generate(64))
    const running = Array.from({ length: 8 }, () => cipher.encryptAsync(new Uint8Array(32 << 20), 0))
  `
  const exits = runProgram(`${work}; process.exit(7)`)
  t.is(exits.status, 7, exits.stderr)
  const finishes = runProgram(`${work}; await Promise.all(running); console.log('done')`)
  t.is(finishes.status, 0, finishes.stderr)
  t.is(finishes.stdout.trim(), 'done')
})
